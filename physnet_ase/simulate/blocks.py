"""Blocks of steps in one compiled program, from one look at the numbers to the next."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from physnet_ase.config import ModelConfig
from physnet_ase.energy import Params, graph_terms
from physnet_ase.graph import Graph
from physnet_ase.programs import LOCK, compile_program
from physnet_ase.simulate.ensembles import (
    Bodies,
    Controls,
    EvaluateFn,
    Evaluation,
    Motion,
    bath_energy,
    kinetic_energy,
    replica_sum,
    take_step,
)
from physnet_ase.simulate.settings import CELL_ENSEMBLES, Ensemble
from physnet_ase.sums import owner_sum

FRAMES = 32
"""A block ends when it has saved so many frames."""


class Shape(NamedTuple):
    """What a program is compiled for, besides the shapes of its arguments."""

    config: ModelConfig
    ensemble: Ensemble
    chunks: int = 1  # lots of replicas that are evaluated one after another


class Surroundings(NamedTuple):
    """Pairs of atoms, and how long they hold."""

    graph: Graph  # positions, shifts and cell at which its pairs were looked up
    undo: Float[Array, "replicas 3 3"]  # inverse of the deformation then
    skin: Float[Array, " replicas"]  # Å beyond the cutoff; infinite: holds every pair


class Span(NamedTuple):
    """Which steps a block takes; int32 scalars."""

    step: Int[Array, ""]  # those already taken
    stop: Int[Array, ""]
    save_every: Int[Array, ""]
    final: Int[Array, ""]  # saved in any case


class Block(NamedTuple):
    """Outcome of a block."""

    motion: Motion
    running: Bool[Array, " replicas"]  # False: stopped, motion is that before
    step: Int[Array, ""]  # reached
    stale: Bool[Array, " replicas"]  # whose pairs must be looked up before going on
    num_frames: Int[Array, ""]
    steps: Int[Array, " frames"]  # the step of each frame
    frames: dict[str, Array]  # [frames, …]; rows beyond num_frames hold zeros
    broken_at: Int[Array, " replicas"]  # step that gave no finite numbers, 0: none


def run_block(
    shape: Shape,
    params: Params,
    bodies: Bodies,
    controls: Controls,
    around: Surroundings,
    motion: Motion,
    running: Bool[Array, " replicas"],
    span: Span,
) -> Block:
    """Take steps until a list of pairs outdates, the buffer is full or all is done.

    A step that would need pairs that the list may lack is not taken: the block ends
    before it. A replica whose numbers are not finite stays as it was; others go on.
    """
    evaluate, ensemble = _evaluate_fn(shape, params, bodies, around), shape.ensemble

    def frame(motion: Motion, step: Int[Array, ""]) -> dict[str, Array]:
        return {
            "positions": motion.positions,
            "momenta": motion.momenta,
            "forces": motion.found.forces,
            "charges": motion.found.charges,
            "potential": motion.found.energy,
            "virial": motion.found.virial,
            "kinetic": kinetic_energy(bodies, motion.momenta),
            "deformation": motion.deformation,
            "heat": motion.heat,
            "bath": bath_energy(ensemble, bodies, controls, motion, step),
        }

    def one_step(block: Block) -> Block:
        moved = take_step(
            ensemble, evaluate, bodies, controls, block.motion, block.step
        )
        stale = block.running & _outdated(shape.config.cutoff, bodies, around, moved)
        sound = _sound(bodies, moved)
        taken = ~jnp.any(stale)
        running = block.running & (sound | ~taken)
        motion = _chosen(bodies, running & taken, moved, block.motion)
        step = block.step + taken.astype(block.step.dtype)
        broken = block.running & ~running
        block = block._replace(
            motion=motion,
            running=running,
            step=step,
            stale=stale,
            broken_at=jnp.where(broken, step, block.broken_at),
        )
        wanted = (step % span.save_every == 0) | (step == span.final)
        return jax.lax.cond(taken & wanted, save, lambda block: block, block)

    def save(block: Block) -> Block:
        row = block.num_frames
        frames = jax.tree.map(
            lambda rows, new: rows.at[row].set(new),
            block.frames,
            frame(block.motion, block.step),
        )
        motion = block.motion._replace(heat=jnp.zeros_like(block.motion.heat))
        return block._replace(
            motion=motion,
            num_frames=row + 1,
            steps=block.steps.at[row].set(block.step),
            frames=frames,
        )

    def goes_on(block: Block) -> Bool[Array, ""]:
        room = (block.step < span.stop) & (block.num_frames < FRAMES)
        return room & ~jnp.any(block.stale) & jnp.any(block.running)

    empty = jax.tree.map(
        lambda x: jnp.zeros((FRAMES, *x.shape), x.dtype),
        jax.eval_shape(frame, motion, span.step),
    )
    nobody = jnp.zeros_like(running)
    start = Block(
        motion=motion,
        running=running,
        step=span.step,
        stale=nobody,
        num_frames=jnp.zeros_like(span.step),
        steps=jnp.zeros(FRAMES, span.step.dtype),
        frames=empty,
        broken_at=nobody.astype(span.step.dtype),
    )
    return jax.lax.while_loop(goes_on, one_step, start)


def _evaluate_fn(
    shape: Shape, params: Params, bodies: Bodies, around: Surroundings
) -> EvaluateFn:
    """The potential on these pairs; the virial only where the cell changes."""
    graph, count = around.graph, bodies.degrees.shape[0]
    if shape.chunks > 1:
        return _chunked(shape, params, graph)

    def evaluate(
        positions: Float[Array, "atoms 3"], deformation: Float[Array, "replicas 3 3"]
    ) -> Evaluation:
        here = graph
        if shape.ensemble in CELL_ENSEMBLES:
            since = around.undo @ deformation
            owner = graph.molecule_index[graph.receivers]
            here = graph._replace(
                shifts=jnp.einsum("pi,pij->pj", graph.shifts, since[owner]),
                cell=graph.cell @ since,
            )
        return _evaluation(shape, params, here, positions, bodies.owner, count)

    return evaluate


def _evaluation(
    shape: Shape,
    params: Params,
    graph: Graph,
    positions: Float[Array, "atoms 3"],
    owner: Int[Array, " atoms"],
    count: int,
) -> Evaluation:
    """Evaluate replicas, each of one row of the graph or of several fragments.

    Args:
        shape: What is compiled.
        params: Weights.
        graph: Pairs and states; cells change only where no replica has fragments.
        positions: Å.
        owner: The replica of each atom.
        count: Replicas.
    """
    strained = shape.ensemble in CELL_ENSEMBLES

    def total(
        positions: Float[Array, "atoms 3"], strain: Float[Array, "replicas 3 3"]
    ) -> tuple[Float[Array, ""], tuple[Array, Array]]:
        strains = strain if strained else None
        terms = graph_terms(shape.config, params, graph, positions, strains)
        energies = owner_sum(terms.energies, owner, count)
        return jnp.sum(terms.energies), (energies, terms.charges)

    unstrained = jnp.zeros((count, 3, 3), positions.dtype)
    which: Any = (0, 1) if strained else 0
    slope, (energies, charges) = jax.grad(total, which, has_aux=True)(
        positions, unstrained
    )
    gradient, virial = slope if strained else (slope, unstrained)
    return Evaluation(energies, -gradient, charges, virial)


def _chunked(shape: Shape, params: Params, graph: Graph) -> EvaluateFn:
    """A few replicas at a time, one lot after another.

    Open molecules of one size have the same pairs, so one lot's serve all.
    """
    lots = shape.chunks
    pairs = {
        name: getattr(graph, name)[: len(getattr(graph, name)) // lots]
        for name in graph._fields
        if getattr(graph, name) is not None
    }
    first = graph._replace(**pairs)

    def split(array: Array) -> Array:
        return array.reshape(lots, -1, *array.shape[1:])

    def evaluate(
        positions: Float[Array, "atoms 3"], _: Float[Array, "replicas 3 3"]
    ) -> Evaluation:
        def one(lot: tuple[Array, Array, Array, Array]) -> Evaluation:
            numbers, charge, multiplicity, place = lot
            here = first._replace(
                atomic_numbers=numbers,
                total_charge=charge,
                spin_multiplicity=multiplicity,
            )
            owner, count = here.molecule_index, here.total_charge.shape[0]
            return _evaluation(shape, params, here, place, owner, count)

        of_each = graph.atomic_numbers, graph.total_charge, graph.spin_multiplicity
        found = jax.lax.map(one, tuple(map(split, (*of_each, positions))))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)

    return evaluate


def _outdated(
    cutoff: float, bodies: Bodies, around: Surroundings, motion: Motion
) -> Bool[Array, " replicas"]:
    """Whether a pair within the cutoff may be missing.

    What was further apart than cutoff + skin is now further than that times the least
    growth of a length, less twice the largest distance that an atom moved beside it.
    """
    since = around.undo @ motion.deformation
    change = since - jnp.eye(3, dtype=since.dtype)
    scale = 1.0 - jnp.sqrt(jnp.sum(change**2, axis=(1, 2)))
    start = jnp.einsum("ai,aij->aj", around.graph.positions, since[bodies.owner])
    squares = jnp.sum((motion.positions - start) ** 2, axis=1)
    furthest = jax.ops.segment_max(
        squares, bodies.owner, bodies.degrees.shape[0], indices_are_sorted=True
    )
    return scale * (cutoff + around.skin) - 2.0 * jnp.sqrt(furthest) < cutoff


def _sound(bodies: Bodies, motion: Motion) -> Bool[Array, " replicas"]:
    """Whether all numbers of a replica are finite."""
    sums = jnp.sum(motion.positions + motion.momenta + motion.found.forces, axis=1)
    finite = jnp.isfinite(motion.found.energy)
    finite &= jnp.isfinite(motion.deformation).all(axis=(1, 2))
    return finite & (replica_sum(bodies, (~jnp.isfinite(sums)).astype(sums.dtype)) == 0)


def _chosen(
    bodies: Bodies, accept: Bool[Array, " replicas"], new: Motion, old: Motion
) -> Motion:
    """The new motion of replicas that accept it, else the old one."""

    def choose(one: Array, other: Array) -> Array:
        mask = accept if one.shape[0] == accept.shape[0] else accept[bodies.owner]
        return jnp.where(mask.reshape(-1, *(1,) * (one.ndim - 1)), one, other)

    return jax.tree.map(choose, new, old)


_PROGRAMS: dict[Any, Any] = {}
"""Compiled blocks by everything that is not an argument of them."""


def compiled_block(shape: Shape, *arguments: Any) -> Any:
    """The program for arguments of these shapes; compiled once, kept on disk."""
    sizes = tuple((x.shape, np.dtype(x.dtype)) for x in jax.tree.leaves(arguments))
    with LOCK:
        if (shape, sizes) not in _PROGRAMS:

            def physnet_dynamics(*arguments: Any) -> Block:
                return run_block(shape, *arguments)

            lowered = jax.jit(physnet_dynamics).lower(*arguments)
            name = physnet_dynamics.__name__
            _PROGRAMS[shape, sizes] = compile_program(lowered, name)
        return _PROGRAMS[shape, sizes]


def num_programs() -> int:
    """Compiled blocks so far in this process."""
    return len(_PROGRAMS)
