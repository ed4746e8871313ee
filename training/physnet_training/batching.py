"""Pairs of molecules, and the padding of flat arrays to a static shape."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from physnet_ase.graph import Graph, Labels
from physnet_ase.neighbors import Structure, find_pairs

Array = NDArray[Any]


class Shape(NamedTuple):
    """Capacities of a padded graph."""

    atoms: int
    pairs: int
    long_pairs: int


class Pairs(NamedTuple):
    """Real pairs of a batch of flat atoms; receivers ascending."""

    senders: Array  # [pairs] int32
    receivers: Array  # [pairs] int32
    shifts: Array | None  # [pairs, 3] float32 Å, None: no pair crosses a boundary
    long_senders: Array  # [long_pairs] int32
    long_receivers: Array  # [long_pairs] int32


class Atoms(NamedTuple):
    """Flat molecules as they lie on disk, without padding."""

    sizes: Array  # [molecules] int32
    atomic_numbers: Array  # [atoms] int32
    positions: Array  # [atoms, 3] float32 Å
    total_charge: Array  # [molecules] int32
    spin_multiplicity: Array  # [molecules] int32
    periodic: Array  # [molecules] bool
    labels: dict[str, Array]  # names of ``Labels``, those that the data has


def all_pairs(sizes: Array) -> tuple[Array, Array]:
    """Every ordered pair of different atoms inside each molecule.

    Args:
        sizes: [molecules] number of atoms; atoms are numbered through.

    Returns:
        Senders and receivers, int32 [sum n(n-1)], receivers ascending.
    """
    per_atom = np.repeat(sizes, sizes)
    first = np.repeat(np.cumsum(sizes) - sizes, sizes).astype(np.int32)
    neighbors = per_atom - 1
    atoms = np.arange(len(per_atom), dtype=np.int32)
    receivers = np.repeat(atoms, neighbors)
    # The k-th neighbour of an atom is the molecule's k-th atom, itself skipped.
    start = first - (np.cumsum(neighbors) - neighbors).astype(np.int32)
    senders = np.repeat(start, neighbors)
    senders += np.arange(len(receivers), dtype=np.int32)
    senders += senders >= receivers
    return senders, receivers


def open_pairs(sizes: Array, positions: Array, cutoff: float | None) -> Pairs:
    """Pairs of molecules without periodic directions.

    Args:
        sizes: [molecules] number of atoms.
        positions: [atoms, 3] Å.
        cutoff: Keep ordered pairs closer than this (Å); None keeps all. The long
            pairs i < j are always complete.
    """
    senders, receivers = all_pairs(sizes)
    once = senders > receivers
    long_senders, long_receivers = senders[once], receivers[once]
    if cutoff is not None:
        vectors = positions[senders] - positions[receivers]
        near = np.einsum("ij,ij->i", vectors, vectors) < cutoff**2
        senders, receivers = senders[near], receivers[near]
    return Pairs(senders, receivers, None, long_senders, long_receivers)


def mixed_pairs(atoms: Atoms, cells: Array, pbc: Array, cutoff: float) -> Pairs:
    """Pairs of a batch in which some molecules are periodic.

    Args:
        atoms: The molecules.
        cells: [molecules, 3, 3] Å, rows are the cell vectors.
        pbc: [molecules, 3] periodic directions.
        cutoff: Å.
    """
    parts = []
    start = 0
    for size, cell, directions in zip(atoms.sizes, cells, pbc, strict=True):
        positions = atoms.positions[start : start + size]
        if directions.any():
            part = periodic_pairs(positions, cell, directions, cutoff)
        else:
            part = open_pairs(np.array([size]), positions, cutoff)
        parts.append((start, part))
        start += int(size)

    def joined(field: str) -> Array:
        return np.concatenate(
            [getattr(part, field) + np.int32(first) for first, part in parts]
        )

    shifts = [
        np.zeros((len(p.senders), 3), np.float32) if p.shifts is None else p.shifts
        for _, p in parts
    ]
    return Pairs(
        joined("senders"),
        joined("receivers"),
        np.concatenate(shifts),
        joined("long_senders"),
        joined("long_receivers"),
    )


def periodic_pairs(positions: Array, cell: Array, pbc: Array, cutoff: float) -> Pairs:
    """Neighbours of one periodic structure, images included; no long pairs.

    Args:
        positions: [atoms, 3] Å.
        cell: [3, 3] Å, rows are the cell vectors.
        pbc: [3] periodic directions.
        cutoff: Å.
    """
    box = np.asarray(cell, dtype=np.float64)
    points = np.asarray(positions, dtype=np.float64)
    numbers = np.zeros(len(points), dtype=np.int32)  # distances do not need them
    found = find_pairs(Structure(numbers, points, box, np.asarray(pbc, bool)), cutoff)
    none = np.zeros(0, dtype=np.int32)
    shifts = (found.cells @ box).astype(np.float32)
    return Pairs(found.senders, found.receivers, shifts, none, none)


def fits(shape: Shape, need: Shape) -> bool:
    """Whether a batch fits; padded pairs need a padded atom to point at."""
    holds = all(have >= want for have, want in zip(shape, need, strict=True))
    padded_pairs = shape[1:] != need[1:]
    return holds and (shape.atoms > need.atoms or not padded_pairs)


def pad_graph(atoms: Atoms, pairs: Pairs, shape: Shape, slots: int) -> Graph:
    """Bring a batch to a static shape.

    Args:
        atoms: The molecules, at most ``slots``.
        pairs: Their pairs.
        shape: Capacities; the batch must fit (see ``fits``).
        slots: Number of molecule slots; filler molecules are neutral singlets without
            atoms, with weight 0.

    Returns:
        A graph with labels; a label that is missing, or padding, is NaN.
    """
    count, num_atoms = len(atoms.sizes), len(atoms.atomic_numbers)
    molecule_index = np.full(shape.atoms, slots - 1, dtype=np.int32)
    molecule_index[:num_atoms] = np.repeat(
        np.arange(count, dtype=np.int32), atoms.sizes
    )
    shifts = np.zeros((shape.pairs, 3), dtype=np.float32)
    if pairs.shifts is not None:
        shifts[: len(pairs.shifts)] = pairs.shifts
    last = shape.atoms - 1
    return Graph(
        atomic_numbers=_padded(atoms.atomic_numbers, shape.atoms, 0),
        positions=_padded(atoms.positions, shape.atoms, 0.0),
        molecule_index=molecule_index,
        atom_mask=_mask(num_atoms, shape.atoms),
        senders=_padded(pairs.senders, shape.pairs, last),
        receivers=_padded(pairs.receivers, shape.pairs, last),
        shifts=shifts,
        pair_mask=_mask(len(pairs.senders), shape.pairs),
        long_senders=_padded(pairs.long_senders, shape.long_pairs, last),
        long_receivers=_padded(pairs.long_receivers, shape.long_pairs, last),
        long_pair_mask=_mask(len(pairs.long_senders), shape.long_pairs),
        total_charge=_padded(atoms.total_charge, slots, 0),
        spin_multiplicity=_padded(atoms.spin_multiplicity, slots, 1),
        molecule_mask=_mask(count, slots),
        periodic=_padded(atoms.periodic, slots, False),
        labels=_labels(atoms.labels, count, shape.atoms, slots),
    )


def _labels(found: dict[str, Array], count: int, atoms: int, slots: int) -> Labels:
    shapes: dict[str, tuple[int, ...]] = {
        "energy": (slots,),
        "forces": (atoms, 3),
        "dipole": (slots, 3),
        "charges": (atoms,),
        "spin_populations": (atoms,),
    }
    padded = {}
    for name, shape in shapes.items():
        dtype = np.float64 if name == "energy" else np.float32
        padded[name] = np.full(shape, np.nan, dtype=dtype)
        if name in found:
            padded[name][: len(found[name])] = found[name]
    weight = _mask(count, slots).astype(np.float32)
    return Labels(weight=weight, **padded)


def _padded(array: Array, length: int, fill: float) -> Array:
    if len(array) == length:
        return array
    result = np.full((length, *array.shape[1:]), fill, dtype=array.dtype)
    result[: len(array)] = array
    return result


def _mask(count: int, length: int) -> Array:
    mask = np.zeros(length, dtype=bool)
    mask[:count] = True
    return mask
