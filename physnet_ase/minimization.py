"""Minima of many structures in many states at once, in few compiled shapes.

Structures are evaluated in lots by the program that ``Potential.evaluate`` has for
forces, so that nothing else is compiled. One that has converged leaves its lot and the
next takes its place.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from physnet_ase.evaluation import MAX_ATOMS, MAX_PAIRS
from physnet_ase.fragments import Parting
from physnet_ase.graph import build_graph, centred, fit_capacity
from physnet_ase.molecules import Molecules, concatenate
from physnet_ase.neighbors import (
    PairCache,
    Pairs,
    check_distances,
    evaluation_pairs,
    join_pairs,
    without_vacuum,
)
from physnet_ase.parts import evaluate_parts, ways_apart
from physnet_ase.potential import Potential, load_potential, warn_unfamiliar
from physnet_ase.state import ElectronicState, as_state, resolve_state, with_state

LOT_ATOMS, LOT_PAIRS = 127, 2048
"""Size of a lot on a CPU: it stays inside the caches, which halves the time."""
LARGEST_STEP = 0.2
"""Å that an atom moves at most in a step, as in ASE."""
MEMORY = 30
"""Steps that the curvature is learnt from."""
_STIFFNESS = 70.0
"""eV/Å² along directions of which nothing is known yet, as in ASE."""
_NAMED = 5
"""Structures that a message describes."""


@dataclass(frozen=True)
class Relaxed:
    """Where the relaxation of one structure in one state ended.

    Attributes:
        atoms: Relaxed copy, with the state in ``info``, energy and forces as results.
        state: The state.
        energy: eV, atomic references included.
        largest_force: On an atom, eV/Å.
        steps: How many were taken.
        problem: Why this is no minimum; None where it is.
    """

    atoms: Atoms
    state: ElectronicState
    energy: float
    largest_force: float
    steps: int
    problem: str | None = None


class RelaxationError(RuntimeError):
    """Some structures did not reach a minimum; ``results`` holds all as they ended."""

    def __init__(self, results: Sequence[Relaxed]) -> None:
        self.results = list(results)
        failed = [(i, one) for i, one in enumerate(results) if one.problem]
        lines = [
            f"structure {i} ({one.atoms.get_chemical_formula()} in {one.state}) "
            f"{one.problem}"
            for i, one in failed[:_NAMED]
        ]
        more = len(failed) - len(lines)
        super().__init__(
            f"{len(failed)} of {len(results)} relaxations failed: {'; '.join(lines)}"
            f"{f'; and {more} more' if more else ''}. Raise steps or fmax, or start "
            "nearer to the minimum; the others are in the error's `results`"
        )


def relax(
    atoms: Atoms | Sequence[Atoms],
    potential: Potential | str,
    states: Sequence[Any] | None = None,
    *,
    fmax: float = 0.01,
    steps: int = 500,
    allow_unseen_states: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Any:
    """Relax one or many structures in one or many states, cells fixed.

    L-BFGS (Liu & Nocedal, Math. Program. 1989, 45, 503) without line search and with a
    largest step of 0.2 Å. Constraints of the ``Atoms`` hold.

    Args:
        atoms: One ``ase.Atoms`` or a list of them. Not changed.
        potential: A potential, or the path or name of one.
        states: ``None`` takes each structure's own state; a list of states relaxes
            every structure in each of them.
        fmax: Largest force on an atom that counts as converged, eV/Å.
        steps: Most steps of each structure.
        allow_unseen_states: Turn the refusal of an unseen state into a warning.
        on_progress: Called with the structures that are done and their number.

    Returns:
        As ``Potential.evaluate`` does. ``states=None``: one :class:`Relaxed` for one
        Atoms, else a list of them. ``states=[s1, …]``: ``result[i][j]`` is structure i
        in state j (for one Atoms: ``result[j]``).

    Raises:
        ValueError: A structure or state is refused.
        RelaxationError: Not all reached a minimum; it says which, and holds all.
    """
    if not fmax > 0:
        raise ValueError(f"fmax must be positive (eV/Å), got {fmax}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    model = potential if isinstance(potential, Potential) else load_potential(potential)
    several = [atoms] if isinstance(atoms, Atoms) else list(atoms)
    chosen = None if states is None else [as_state(state) for state in states]
    if chosen == []:
        raise ValueError("states must be a non-empty list of states, or None")
    jobs = [
        (one, state)
        for one in several
        for state in (chosen if chosen is not None else [resolve_state(one)])
    ]
    found = relax_all(
        jobs,
        model,
        fmax=fmax,
        steps=steps,
        allow_unseen_states=allow_unseen_states,
        on_progress=on_progress,
    )
    if chosen is None:
        return found[0] if isinstance(atoms, Atoms) else found
    width = len(chosen)
    rows = [found[i * width : (i + 1) * width] for i in range(len(several))]
    return rows[0] if isinstance(atoms, Atoms) else rows


def relax_all(
    jobs: Sequence[tuple[Atoms, ElectronicState]],
    potential: Potential,
    *,
    fmax: float,
    steps: int,
    allow_unseen_states: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Relaxed]:
    """Relax structures, each in its own state; see :func:`relax`."""
    moving = []
    for index, (atoms, state) in enumerate(jobs):
        try:
            moving.append(_Descent(atoms, state, potential, allow_unseen_states))
        except ValueError as error:
            if len(jobs) == 1:
                raise
            raise ValueError(f"structure {index}: {error}") from error
    waiting = deque(sorted(moving, key=_Descent.sort_key, reverse=True))
    lot: list[_Descent] = []
    shape: _Lot | None = None
    while lot or waiting:
        joined = _fill(lot, waiting)
        shape = _Lot(lot, potential, None if joined else shape)
        while True:
            shape.evaluate()
            left = [one for one in lot if not one.ends(fmax, steps)]
            for one in left:
                one.step()
            if len(left) < len(lot) or not shape.holds():
                break
        lot = left
        if on_progress is not None:
            on_progress(len(jobs) - len(lot) - len(waiting), len(jobs))
    found = [one.outcome(potential) for one in moving]
    if any(one.problem for one in found):
        raise RelaxationError(found)
    ends = [Molecules.from_atoms([one.atoms], [one.state]) for one in found]
    if ends:
        known = potential.known(concatenate(ends))
        warn_unfamiliar(known, [one.atoms for one in found], range(len(found)))
    return found


class _Descent:
    """One structure on its way down."""

    def __init__(
        self,
        atoms: Atoms,
        state: ElectronicState,
        potential: Potential,
        allow_unseen_states: bool,
    ) -> None:
        self.atoms, self.state = with_state(atoms, state), state
        cutoff = potential.config.cutoff
        self.molecule = without_vacuum(Molecules.from_atoms([atoms], [state]), cutoff)
        potential.check(
            atoms.numbers,
            state,
            allow_unseen_states=allow_unseen_states,
            periodic=bool(self.molecule.periodic[0]),
        )
        check_distances(self.molecule, evaluation_pairs(self.molecule, cutoff))
        self.lists = PairCache(cutoff)
        # Atoms of a molecule that crosses the faces of its box are put together.
        self.moved = self.molecule.values["positions"] - atoms.positions
        self.energy, self.forces = np.nan, np.zeros((len(atoms), 3))
        self.taken, self.problem = 0, ""
        self.curvature: deque[tuple[np.ndarray, np.ndarray, float]] = deque(
            maxlen=MEMORY
        )
        self.before: tuple[np.ndarray, np.ndarray] | None = None

    def sort_key(self) -> tuple[bool, int]:
        """Alike ones share lots."""
        return bool(self.molecule.periodic[0]), len(self.atoms)

    def pairs(self) -> Pairs:
        """Those of the present positions, and some more."""
        return self.lists.pairs(self.molecule)

    @property
    def largest_force(self) -> float:
        """On an atom, eV/Å."""
        return float(np.sqrt(np.square(self.forces).sum(axis=1).max()))

    def found(self, energy: float, forces: np.ndarray) -> None:
        """Take up what the potential says of the present positions."""
        self.energy, self.forces = energy, forces.copy()
        for constraint in self.atoms.constraints:
            constraint.adjust_forces(self.atoms, self.forces)

    def ends(self, fmax: float, steps: int) -> bool:
        """Whether this is a minimum, or there is no hope."""
        if not (np.isfinite(self.energy) and np.isfinite(self.forces).all()):
            self.problem = (
                f"broke down at step {self.taken}: energy or forces are not finite"
            )
        elif self.largest_force >= fmax and self.taken >= steps:
            self.problem = (
                f"did not converge in {steps} steps: largest force "
                f"{self.largest_force:.3g} eV/Å, asked {fmax:g}"
            )
        return bool(self.problem) or self.largest_force < fmax

    def step(self) -> None:
        """Move downhill, with what earlier steps have taught of the curvature."""
        positions, gradient = self.atoms.positions, -self.forces
        if self.before is not None:
            travel, change = positions - self.before[0], gradient - self.before[1]
            bend = float(np.vdot(travel, change))
            # Beyond an inflection there is no minimum to learn about.
            if bend > 1e-8 * float(np.vdot(travel, travel)):
                self.curvature.append((travel, change, 1.0 / bend))
        self.before = positions.copy(), gradient
        direction, weights = gradient.copy(), []
        for travel, change, factor in reversed(self.curvature):
            weights.append(factor * float(np.vdot(travel, direction)))
            direction -= weights[-1] * change
        direction /= _STIFFNESS
        for travel, change, factor in self.curvature:
            weight = weights.pop() - factor * float(np.vdot(change, direction))
            direction += weight * travel
        longest = float(np.sqrt(np.square(direction).sum(axis=1).max()))
        direction *= min(1.0, LARGEST_STEP / max(longest, 1e-12))
        self.atoms.set_positions(positions - direction)  # constraints hold here
        self.molecule = self.molecule.with_values(
            positions=self.atoms.positions + self.moved
        )
        self.taken += 1

    def outcome(self, potential: Potential) -> Relaxed:
        """Where it ended."""
        energy = self.energy + potential.reference_energy(
            self.atoms.numbers, self.state
        )
        self.atoms.calc = SinglePointCalculator(
            self.atoms, energy=energy, forces=self.forces
        )
        return Relaxed(
            self.atoms,
            self.state,
            energy,
            self.largest_force,
            self.taken,
            self.problem or None,
        )


class _Lot:
    """Structures that are evaluated together; only their positions change."""

    def __init__(
        self, members: Sequence[_Descent], potential: Potential, like: "_Lot | None"
    ) -> None:
        """Prepare arrays, in the shape of an earlier lot where they fit."""
        self.members, self.potential = list(members), potential
        self.pairs = [one.pairs() for one in members]
        molecules = concatenate([one.molecule for one in members])
        self.sizes = molecules.n_atoms
        joined = join_pairs(self.pairs, self.sizes)
        need = fit_capacity(molecules, joined)
        self.capacity = need
        if like is not None and like.capacity.holds(need):
            self.capacity = like.capacity
        self.graph = build_graph(centred(molecules), joined, self.capacity)
        self.prepared = potential.programs.prepare(self.graph)

    def holds(self) -> bool:
        """Whether every pair that counts is still listed."""
        return all(
            one.pairs() is listed
            for one, listed in zip(self.members, self.pairs, strict=True)
        )

    def evaluate(self) -> None:
        """Give each member its energy (eV, without references) and forces."""
        positions = np.zeros_like(self.graph.positions)
        ends, sizes = np.cumsum(self.sizes).tolist(), self.sizes.tolist()
        spans = [slice(b - size, b) for b, size in zip(ends, sizes, strict=True)]
        for one, rows in zip(self.members, spans, strict=True):
            place = one.molecule.values["positions"]
            positions[rows] = place - place.mean(axis=0)
        graph = self.prepared._replace(positions=positions)
        computed = jax.device_get(self.potential.run(graph, "forces"))
        energies = np.asarray(computed["energies"], np.float64)
        forces = np.asarray(computed["forces"], np.float64)
        for one, rows, pairs in zip(self.members, spans, self.pairs, strict=True):
            ways = ways_apart(one.molecule, pairs, self.potential.config.cutoff)
            if ways:
                one.found(*self._of_parts(one, pairs, ways))
            else:
                one.found(float(energies[rows].sum()), forces[rows])

    def _of_parts(
        self, one: _Descent, pairs: Pairs, ways: Sequence[Parting]
    ) -> tuple[float, np.ndarray]:
        """Energy without references, and forces, of fragments far from each other."""
        model, wanted = self.potential, ("energy", "forces")
        result = evaluate_parts(
            model.programs, model.references, one.molecule, pairs, wanted, ways
        )
        reference = model.reference_energy(one.atoms.numbers, one.state)
        return result.energy - reference, result.forces


def _fill(lot: list[_Descent], waiting: deque[_Descent]) -> bool:
    """Let those that wait take free places; returns whether there were any."""
    on_cpu = jax.default_backend() == "cpu"
    most_atoms = LOT_ATOMS if on_cpu else MAX_ATOMS - 1
    most_pairs = LOT_PAIRS if on_cpu else MAX_PAIRS
    atoms, pairs = _sums(lot)
    before = len(lot)
    while waiting:
        more_atoms, more_pairs = _sums([waiting[0]])
        full = atoms + more_atoms > most_atoms or pairs + more_pairs > most_pairs
        other = lot and lot[0].molecule.periodic[0] != waiting[0].molecule.periodic[0]
        if lot and (full or other):
            break
        lot.append(waiting.popleft())
        atoms, pairs = atoms + more_atoms, pairs + more_pairs
    return len(lot) > before


def _sums(lot: Iterable[_Descent]) -> tuple[int, int]:
    """Atoms and pairs."""
    counts = [(len(one.atoms), len(one.pairs().senders)) for one in lot]
    return sum(atoms for atoms, _ in counts), sum(pairs for _, pairs in counts)
