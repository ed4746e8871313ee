"""The potential as a jax-md energy function; importing this imports jax_md."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax_md import partition
from jaxtyping import Array, Float, Int

from physnet_ase.graph import Graph
from physnet_ase.jaxmd_checks import (
    StateCheck,
    atomic_numbers,
    check_box,
    check_positions,
    is_periodic,
)
from physnet_ase.potential import Potential
from physnet_ase.terms import atomic_terms

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
    periodic ones the pairs within the cutoff, force-shifted.

    Values that only exist inside compiled code cannot raise. Energy and forces are NaN
    when the neighbour list has overflowed or its cells are too small (allocate a new
    one), when a traced state is one that ``potential.check`` refuses, or when a traced
    box has become thinner than twice the cutoff.

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
    neighbor_fn = _comparable(neighbor_fn)
    defaults = state_fn, (total_charge, spin_multiplicity)
    return neighbor_fn, _energy_fn(displacement_fn, potential, defaults, periodic)


def _energy_fn(
    displacement_fn: Callable[..., Any],
    potential: Potential,
    state: tuple[StateCheck, tuple[Any, Any]],
    periodic: bool,
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
        graph = _graph(numbers, neighbor, (charge, multiplicity), periodic=periodic)
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
        return (jnp.sum(terms.energies) * poison).astype(potential.dtype)

    return energy_fn


def _comparable(neighbor_fn: partition.NeighborListFns) -> partition.NeighborListFns:
    """Make lists that jit can compare: a cell size that is a number, not an array."""

    def allocate(*args: Any, **kwargs: Any) -> partition.NeighborList:
        neighbor = neighbor_fn.allocate(*args, **kwargs)
        if neighbor.cell_size is None:
            return neighbor
        return neighbor.set(cell_size=float(neighbor.cell_size))

    return partition.NeighborListFns(allocate, neighbor_fn.update)


def _graph(
    numbers: np.ndarray,
    neighbor: partition.NeighborList,
    state: tuple[Int[Array, ""], Int[Array, ""]],
    *,
    periodic: bool,
) -> Graph:
    """One molecule without padded atoms; pairs as jax-md keeps them, sorted."""
    count = len(numbers)
    senders, receivers = neighbor.idx
    long = np.triu_indices(0 if periodic else count, 1)
    graph = Graph(
        atomic_numbers=numbers,
        positions=np.zeros((count, 3)),  # never read: the pair vectors are given
        molecule_index=np.zeros(count, np.int32),
        atom_mask=np.ones(count, bool),
        senders=jnp.minimum(senders, count - 1),
        receivers=jnp.minimum(receivers, count - 1),
        shifts=np.zeros((1, 3)),
        pair_mask=receivers < count,
        long_senders=long[1].astype(np.int32),
        long_receivers=long[0].astype(np.int32),
        long_pair_mask=np.ones(len(long[0]), bool),
        total_charge=state[0][None],
        spin_multiplicity=state[1][None],
        molecule_mask=np.ones(1, bool),
        periodic=np.full(1, periodic),
    )
    return jax.tree.map(jnp.asarray, graph)
