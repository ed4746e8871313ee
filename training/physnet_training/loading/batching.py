"""The padding of flat molecules to a static shape."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from physnet_ase.graph import Graph, Labels
from physnet_training.loading.pairs import Pairs

Array = NDArray[Any]


class Shape(NamedTuple):
    """Capacities of a padded graph."""

    atoms: int
    pairs: int
    long_pairs: int


class Atoms(NamedTuple):
    """Flat molecules as they lie on disk, without padding."""

    sizes: Array  # [molecules] int32
    atomic_numbers: Array  # [atoms] int32
    positions: Array  # [atoms, 3] float32 Å
    total_charge: Array  # [molecules] int32
    spin_multiplicity: Array  # [molecules] int32
    periodic: Array  # [molecules] bool
    weight: Array  # [molecules] float32, relative, in the loss
    labels: dict[str, Array]  # names of ``Labels``, those that the data has


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
        labels=_labels(atoms, shape.atoms, slots),
    )


def _labels(found: Atoms, atoms: int, slots: int) -> Labels:
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
        if name in found.labels:
            padded[name][: len(found.labels[name])] = found.labels[name]
    return Labels(weight=_padded(found.weight, slots, 0.0), **padded)


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
