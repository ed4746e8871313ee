"""The potential as a jax-md energy function; importing this imports jax_md."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jax_md import partition, space
from jaxtyping import Array, Bool, Float, Int

from physnet_ase.energy import atomic_terms
from physnet_ase.graph import Graph
from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import evaluation_pairs
from physnet_ase.parts import Division, division
from physnet_ase.potential import Potential, warn_unfamiliar
from physnet_ase.programs import refuse_after_fork
from physnet_ase.reciprocal import mesh_shape
from physnet_ase.state import ElectronicState, is_possible, num_electrons

EnergyFn = Callable[..., Float[Array, ""]]
"""``energy_fn(position, neighbor, …)`` in eV."""


def physnet_neighbor_list(
    displacement_fn: Callable[..., Any],
    box: Any,
    potential: Potential,
    species: Any,
    total_charge: Any = 0,
    spin_multiplicity: Any = 1,
    fractional_coordinates: bool = False,
    *,
    allow_unseen_states: bool = False,
    **neighbor_kwargs: Any,
) -> tuple[partition.NeighborListFns, EnergyFn]:
    """Return jax-md's neighbour list functions and the potential's energy function.

    ``energy_fn(position, neighbor, box=, total_charge=, spin_multiplicity=,
    perturbation=)`` gives the energy in eV without the atomic reference constant, which
    is ``potential.reference_energy(species, state)``. Charge and multiplicity may be
    traced: another state compiles nothing, and ``jax.vmap`` runs over replicas that
    differ in positions, lists and states.

    Coulomb: in open systems all pairs, also those beyond the neighbour list; in
    periodic ones Ewald's sum.

    Values that only exist inside compiled code cannot raise. Energy and forces are NaN
    when the neighbour list has overflowed or its cells are too small (allocate a new
    one), when a traced state is one that ``potential.check`` refuses, or when a traced
    box has become thinner than twice the cutoff.

    ``neighbor_fn.allocate`` warns, once, of positions that are unlike what the model
    was trained on. Where the first list shows fragments out of each other's sight, each
    has a state of its own (:mod:`physnet_ase.fragments`), which it keeps from then on.

    Args:
        displacement_fn: From ``jax_md.space``; ``free()`` for open systems.
        box: jax-md's box in Å: a number, three lengths, or a matrix with the lattice
            vectors as columns. ``None`` for open systems, which need none.
        potential: The model; its dtype is the dtype of positions.
        species: Atomic numbers, shape (N,).
        total_charge: Charge in e where the call gives none.
        spin_multiplicity: 2S+1 where the call gives none.
        fractional_coordinates: Positions are fractions of the box.
        allow_unseen_states: Warn about a state the model has not seen, not refuse it.
        **neighbor_kwargs: For ``jax_md.partition.neighbor_list``, as ``dr_threshold``
            (Å) or ``capacity_multiplier``.

    Raises:
        ValueError: An element or state the model refuses, a box that is too thin or
            does not fit ``displacement_fn``, or float64 without x64 being switched on.
            The energy function raises it for positions of another dtype or shape, and
            for concrete states and boxes that are refused.
    """
    refuse_after_fork()
    numbers = atomic_numbers(species)
    if jax.dtypes.canonicalize_dtype(potential.dtype) != potential.dtype:
        raise ValueError(
            "the potential computes in float64 but JAX does not: call "
            'jax.config.update("jax_enable_x64", True) first, or use '
            'potential.astype("float32")'
        )
    neighbor_format = neighbor_kwargs.pop("format", partition.Sparse)
    if neighbor_format is not partition.Sparse:
        raise ValueError(
            f"the energy function reads jax-md's Sparse format, got {neighbor_format}; "
            "leave `format` out"
        )
    cutoff = potential.config.cutoff
    if box is not None:
        box = jnp.asarray(box, potential.dtype)
        check_box(box, cutoff)
    periodic = is_periodic(
        displacement_fn, box, potential.dtype, fractional_coordinates
    )
    state_fn = StateCheck(potential, numbers, allow_unseen_states)
    state_fn(total_charge, spin_multiplicity)
    if not periodic:
        # Open systems have no cells to sort into; jax-md then reads no box at all.
        neighbor_kwargs = neighbor_kwargs | {"disable_cell_list": True}
    neighbor_fn = partition.neighbor_list(
        displacement_fn,
        box if periodic else 1.0,
        cutoff,
        fractional_coordinates=fractional_coordinates,
        format=partition.Sparse,
        **neighbor_kwargs,
    )
    lattice = _Lattice(box, fractional_coordinates, cutoff) if periodic else None
    state = total_charge, spin_multiplicity
    familiarity_fn = _FamiliarityCheck(potential, numbers, state, lattice)
    parts = _Parts(potential, numbers, open_system=not periodic)
    neighbor_fn = _allocating(neighbor_fn, familiarity_fn, parts)
    defaults = state_fn, (total_charge, spin_multiplicity)
    return neighbor_fn, _energy_fn(displacement_fn, potential, defaults, lattice, parts)


class _Lattice:
    """Where atoms and cell are in Å, for Ewald's sum.

    The mesh is that of the box at the start: it has a margin, and a box that has grown
    by more than a tenth wants a new energy function.
    """

    def __init__(self, box: Any, fractional: bool, cutoff: float) -> None:
        self.matrix = _matrix(jnp.asarray(box))
        self.fractional = fractional
        cell = np.asarray(self.matrix, np.float64).T
        self.mesh = np.zeros(mesh_shape(cell, cutoff), np.int8)

    def place(
        self, position: Float[Array, "atoms 3"], box: Any, perturbation: Any
    ) -> tuple[Float[Array, "atoms 3"], Float[Array, "1 3 3"]]:
        """Cartesian positions, and the cell with lattice vectors as rows."""
        matrix = self.matrix if box is None else _matrix(jnp.asarray(box))
        # jax-md's own map of fractions: its derivative is that of Cartesian positions.
        place = space.transform(matrix, position) if self.fractional else position
        cell = matrix.T
        if perturbation is not None:
            strain = _matrix(jnp.asarray(perturbation))
            place, cell = place @ strain.T, cell @ strain.T
        return place.astype(position.dtype), cell[None].astype(position.dtype)


def _matrix(box: Any) -> Any:
    """A box, or a strain, as a 3x3 matrix."""
    return box if box.ndim == 2 else jnp.diag(jnp.broadcast_to(box, (3,)))


def _energy_fn(
    displacement_fn: Callable[..., Any],
    potential: Potential,
    state: "tuple[StateCheck, tuple[Any, Any]]",
    lattice: _Lattice | None,
    parts: "_Parts",
) -> EnergyFn:
    """Close the energy over weights, atomic numbers and the default state."""
    state_fn, defaults = state
    numbers, cutoff = state_fn.numbers, potential.config.cutoff
    params = jax.tree.map(jnp.asarray, potential.params)

    def energy_fn(
        position: Float[Array, "atoms 3"],
        neighbor: partition.NeighborList,
        box: Any = None,
        total_charge: Any = defaults[0],
        spin_multiplicity: Any = defaults[1],
        perturbation: Any = None,
    ) -> Float[Array, ""]:
        """Energy in eV without references; see :func:`physnet_neighbor_list`."""
        check_positions(position, potential.dtype, len(numbers))
        position = jnp.asarray(position)
        charge, multiplicity, usable = state_fn(total_charge, spin_multiplicity)
        usable &= (neighbor.did_buffer_overflow | neighbor.cell_size_too_small) == 0
        kwargs = {} if perturbation is None else {"perturbation": perturbation}
        if box is not None:
            usable &= check_box(box, cutoff)
            kwargs["box"] = box
        graph = _graph(numbers, neighbor, charge, multiplicity, lattice is not None)
        graph, constant, known = parts.divided(graph)
        usable &= known
        if lattice is not None:
            place, cell = lattice.place(position, box, perturbation)
            graph = graph._replace(positions=place, cell=cell, mesh=lattice.mesh)
        vector_fn = jax.vmap(partial(displacement_fn, **kwargs))
        terms = atomic_terms(
            potential.config,
            params,
            graph,
            vector_fn(position[graph.senders], position[graph.receivers]),
            vector_fn(position[graph.long_senders], position[graph.long_receivers]),
        )
        # A product, not a choice: forces must become NaN together with the energy.
        poison = jnp.where(usable, 1.0, jnp.nan)
        energy = jnp.sum(terms.energies) + constant
        return (energy * poison).astype(potential.dtype)

    return energy_fn


class _FamiliarityCheck:
    """Warns once of positions that are unlike what the model was trained on.

    Lists are allocated outside compiled code, where positions are numbers; the state
    is that of calls without one.
    """

    def __init__(
        self,
        potential: Potential,
        numbers: np.ndarray,
        state: tuple[Any, Any],
        lattice: _Lattice | None,
    ) -> None:
        self.potential, self.numbers, self.lattice = potential, numbers, lattice
        traced = any(isinstance(value, jax.core.Tracer) for value in state)
        self.state = None if traced else ElectronicState(*state)
        self.told = potential.metadata.environments is None

    def __call__(self, position: Any, box: Any = None, **_: Any) -> list[Any]:
        """The verdict and the structure, where there is something new to say."""
        if self.told or self.state is None or isinstance(position, jax.core.Tracer):
            return []
        if np.shape(position) != (len(self.numbers), 3):
            return []  # the energy function refuses it
        atoms = Atoms(self.numbers)
        if self.lattice is None:
            atoms.positions[:] = position
        else:
            place, cell = self.lattice.place(jnp.asarray(position), box, None)
            atoms.positions[:], atoms.cell[:] = place, cell[0]
            atoms.pbc = True
        molecules = Molecules.from_atoms([atoms], [self.state])
        [verdict] = self.potential.known(molecules)
        self.told = verdict.unfamiliar
        return [([verdict], [atoms], [0])] if verdict.unfamiliar else []


class _Parts:
    """Fragments of an open system as the first list finds them, in every state.

    What the states of the fragments are is looked up in a table by the state of the
    whole, which may be traced.
    """

    def __init__(
        self,
        potential: Potential,
        numbers: np.ndarray,
        *,
        open_system: bool,
    ) -> None:
        self.potential, self.numbers, self.unknown = potential, numbers, open_system
        self.table: dict[ElectronicState, Division] = {}

    def find(self, position: Any) -> None:
        """Cut the system once, where positions are numbers."""
        if isinstance(position, jax.core.Tracer) or not self.unknown:
            return
        if np.shape(position) != (len(self.numbers), 3):
            return  # the energy function refuses it
        self.unknown = False
        model, atoms = self.potential, Atoms(self.numbers, np.asarray(position))
        states = [s for s in model.states if is_possible(self.numbers, s)]
        for state in states:
            molecule = Molecules.from_atoms([atoms], [state])
            pairs = evaluation_pairs(molecule, model.config.cutoff)
            self.table[state] = division(
                model.programs, model.references, molecule, pairs
            )
            if len(self.table[state].states) == 1:
                self.table = {}
                return

    def divided(
        self, graph: Graph
    ) -> tuple[Graph, Float[Array, ""], Bool[Array, ""] | bool]:
        """The graph with a row for each fragment, and what that adds to the energy.

        The last value is False for a state that is not in the table.
        """
        if not self.table:
            return graph, jnp.zeros(()), True
        every = list(self.table.values())
        count, model = len(every[0].states), self.potential
        charges = jnp.array([[s.charge for s in one.states] for one in every])
        spins = jnp.array([[s.multiplicity for s in one.states] for one in every])
        constants = [
            one.reference - model.reference_energy(self.numbers, state)
            for state, one in self.table.items()
        ]
        wholes = jnp.array([[s.charge, s.multiplicity] for s in self.table])
        asked = jnp.stack([graph.total_charge[0], graph.spin_multiplicity[0]])
        found = jnp.all(wholes == asked, axis=1)
        row = jnp.argmax(found)
        graph = graph._replace(
            molecule_index=jnp.asarray(every[0].labels),
            total_charge=charges[row],
            spin_multiplicity=spins[row],
            molecule_mask=jnp.ones(count, bool),
            periodic=jnp.zeros(count, bool),
            cell=jnp.zeros((count, 3, 3)),
        )
        return graph, jnp.asarray(constants, model.dtype)[row], jnp.any(found)


def _allocating(
    neighbor_fn: partition.NeighborListFns,
    familiarity_fn: _FamiliarityCheck,
    parts: _Parts,
) -> partition.NeighborListFns:
    """Let an allocation warn, cut, and give lists that jit can compare.

    These have a cell size that is a number, not an array.
    """

    def allocate(*args: Any, **kwargs: Any) -> partition.NeighborList:
        neighbor = neighbor_fn.allocate(*args, **kwargs)
        for verdict in familiarity_fn(*args[:1], **kwargs):
            warn_unfamiliar(*verdict)
        for position in args[:1]:
            parts.find(position)
        if neighbor.cell_size is None:
            return neighbor
        return neighbor.set(cell_size=float(neighbor.cell_size))

    return partition.NeighborListFns(allocate, neighbor_fn.update)


def _graph(
    numbers: np.ndarray,
    neighbor: partition.NeighborList,
    charge: Int[Array, ""],
    multiplicity: Int[Array, ""],
    periodic: bool,
) -> Graph:
    """One molecule without padded atoms; pairs as jax-md keeps them, sorted."""
    count = len(numbers)
    senders, receivers = neighbor.idx
    long = np.triu_indices(0 if periodic else count, 1)
    graph = Graph(
        atomic_numbers=numbers,
        positions=np.zeros((count, 3)),  # not read in open systems
        molecule_index=np.zeros(count, np.int32),
        atom_mask=np.ones(count, bool),
        senders=jnp.minimum(senders, count - 1),
        receivers=jnp.minimum(receivers, count - 1),
        shifts=np.zeros((1, 3)),
        pair_mask=receivers < count,
        long_senders=long[1].astype(np.int32),
        long_receivers=long[0].astype(np.int32),
        long_pair_mask=np.ones(len(long[0]), bool),
        total_charge=charge[None],
        spin_multiplicity=multiplicity[None],
        molecule_mask=np.ones(1, bool),
        periodic=np.full(1, periodic),
        cell=np.zeros((1, 3, 3)),
        mesh=np.zeros((0, 0, 0), np.int8),
    )
    return jax.tree.map(jnp.asarray, graph)


class StateCheck:
    """Refuses bad states: concrete ones by raising, traced ones by returning False."""

    def __init__(
        self, potential: Potential, numbers: np.ndarray, allow_unseen_states: bool
    ) -> None:
        self.potential, self.numbers = potential, numbers
        self.allow_unseen_states = allow_unseen_states

    def __call__(
        self, charge: Any, multiplicity: Any
    ) -> tuple[Int[Array, ""], Int[Array, ""], Bool[Array, ""]]:
        """Return charge and multiplicity as int32 scalars, and whether they may be."""
        traced = isinstance(charge, jax.core.Tracer) or isinstance(
            multiplicity, jax.core.Tracer
        )
        if not traced:
            state = ElectronicState(charge, multiplicity)
            self.potential.check(
                self.numbers, state, allow_unseen_states=self.allow_unseen_states
            )
            charge, multiplicity = state.charge, state.multiplicity
        charge, multiplicity = jnp.asarray(charge), jnp.asarray(multiplicity)
        q, m = charge.astype(jnp.int32), multiplicity.astype(jnp.int32)
        allowed = (q == charge) & (m == multiplicity) if traced else jnp.asarray(True)
        return q, m, allowed & self._allowed(q, m)

    def _allowed(self, q: Int[Array, ""], m: Int[Array, ""]) -> Bool[Array, ""]:
        """What ``potential.check`` refuses, as array operations."""
        electrons, unpaired = num_electrons(self.numbers, 0) - q, m - 1
        possible = (unpaired >= 0) & (unpaired <= electrons)
        possible &= (electrons - unpaired) % 2 == 0
        if self.allow_unseen_states:
            charges = self.potential.config.charge_range
            spins = self.potential.config.spin_range
            known = (q >= charges[0]) & (q <= charges[1])
            return possible & known & (m >= spins[0]) & (m <= spins[1])
        seen = [(q == s.charge) & (m == s.multiplicity) for s in self.potential.states]
        return possible & jnp.any(jnp.stack(seen))


def atomic_numbers(species: Any) -> np.ndarray:
    """Atomic numbers as int32, shape (N,); refuses anything else."""
    numbers = np.asarray(species)
    if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iu":
        raise ValueError(
            "species must be the atomic numbers, integers of shape (N,), got "
            f"{numbers.dtype} of shape {numbers.shape}"
        )
    return numbers.astype(np.int32)


def check_positions(position: Any, dtype: np.dtype[Any], count: int) -> None:
    """Refuse positions of another dtype than the potential's, or of another shape."""
    if position.dtype != dtype:
        raise ValueError(
            f"positions are {position.dtype} but the potential computes in {dtype}: "
            f'pass positions.astype("{dtype}"), or build the energy function from a '
            "potential of their dtype (potential.astype, float32 or float64)"
        )
    if position.shape != (count, 3):
        raise ValueError(
            f"positions must have shape ({count}, 3) for {count} species, got "
            f"{position.shape}; use jax.vmap over replicas"
        )


def check_box(box: Any, cutoff: float) -> Any:
    """Whether the box is twice the cutoff thick; raise if a concrete one is not."""
    traced = isinstance(box, jax.core.Tracer)
    # Inside jit, jax.numpy would trace a concrete box too: nothing could raise then.
    xp: Any = jnp if traced else np
    box = xp.asarray(box)
    if box.shape not in ((), (3,), (3, 3)):
        raise ValueError(
            "box must be a length, three lengths or a 3x3 matrix in Å, got shape "
            f"{box.shape}"
        )
    matrix = box if box.ndim == 2 else xp.diag(xp.broadcast_to(box, (3,)))
    edges = (1, 2, 0), (2, 0, 1)
    faces = xp.cross(matrix[:, edges[0]], matrix[:, edges[1]], axis=0)
    areas = xp.sqrt(xp.sum(faces**2, axis=0))
    thickness = xp.min(xp.abs(xp.linalg.det(matrix)) / xp.maximum(areas, 1e-12))
    wide = thickness >= 2.0 * cutoff
    if not traced and not wide:
        raise ValueError(
            f"the box is {float(thickness):.3f} Å thick; a cutoff of {cutoff} Å needs "
            f"at least {2.0 * cutoff} Å, as jax-md sees only the nearest image. Repeat "
            "the cell, or use the ASE calculator, which counts all images"
        )
    return wide


def is_periodic(
    displacement_fn: Callable[..., Any],
    box: Any,
    dtype: np.dtype[Any],
    fractional_coordinates: bool,
) -> bool:
    """Whether ``displacement_fn`` is periodic in ``box``; free space is not.

    Raises:
        ValueError: It wraps distances, but in no box or in another one.
    """
    origin = jnp.zeros(3, dtype)
    far = jnp.asarray([1e3, 1e3, 1e3], dtype)
    length = float(jnp.linalg.norm(displacement_fn(far, origin)))
    if np.isclose(length, 1e3 * 3**0.5, rtol=1e-3):
        if box is not None:
            warnings.warn(
                "displacement_fn does not wrap distances, so this is an open system "
                "and its box is not used; pass box=None to say so, or "
                "jax_md.space.periodic(box) for a periodic one",
                UserWarning,
                stacklevel=3,
            )
        return False
    if box is None:
        raise ValueError(
            "displacement_fn wraps distances but box is None; pass its box, or use "
            "jax_md.space.free() for an open system"
        )
    matrix = _matrix(box)
    image = (
        jnp.ones(3, dtype) if fractional_coordinates else matrix @ jnp.ones(3, dtype)
    )
    length = float(jnp.linalg.norm(displacement_fn(image, origin)))
    if length > 1e-2 * float(jnp.max(jnp.abs(matrix))):
        raise ValueError(
            f"an atom and its image are {length:.3f} Å apart under displacement_fn; it "
            "must be periodic in the same box (and the same kind of coordinates)"
        )
    return True
