"""Which molecules are one geometry, in whatever state: vertical ladders."""

import hashlib
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from physnet_training.packed import PackedDataset
from physnet_training.packed.reader import parts

Array = NDArray[Any]


class Ladders(NamedTuple):
    """Molecules in an order in which those of one geometry and level follow each other.

    Otherwise it is that of the files.
    """

    molecules: Array  # rows of the dataset
    numbers: Array  # [molecules] int32 number of each one's geometry

    @classmethod
    def of(cls, dataset: PackedDataset, molecules: Array) -> "Ladders":
        """Those of some molecules of a dataset."""
        numbers = numbers_of(dataset, molecules)
        order = together(np.arange(len(molecules)), numbers)
        return cls(molecules[order], numbers[order])

    @property
    def shared(self) -> Array:
        """[molecules] whether another one has the same geometry."""
        return np.bincount(self.numbers)[self.numbers] > 1


def together(order: Array, numbers: Array) -> Array:
    """All of a geometry go where that of them is whose position is lowest.

    Not to the first of them in the order, which would bring large ladders to its
    beginning.

    Args:
        order: [molecules] positions in ``numbers``.
        numbers: Of the geometries, from 0.
    """
    of = numbers[order]
    places = np.argsort(order, kind="stable")[::-1]
    goal = np.empty(len(numbers), np.int64)
    goal[of[places]] = places  # the last assignment stays
    return order[np.argsort(goal[of], kind="stable")]


def geometry_keys(numbers: Array, positions: Array, n_atoms: Array) -> Array:
    """Hashes of atomic numbers and of positions rounded to 1e-4 Å. [molecules] uint64.

    Args:
        numbers: [atoms] of all molecules behind each other.
        positions: [atoms, 3] Å.
        n_atoms: [molecules] atoms of each.
    """
    rounded = np.rint(positions * 1e4).astype(np.int64)
    ends = np.cumsum(n_atoms).tolist()
    digests = [
        hashlib.sha256(
            numbers[first:end].tobytes() + rounded[first:end].tobytes()
        ).digest()[:8]
        for first, end in pairwise([0, *ends])
    ]
    return np.frombuffer(b"".join(digests), "<u8")


def keys_of(dataset: PackedDataset, molecules: Array) -> Array:
    """``geometry_keys`` of molecules of a dataset. [molecules] uint64."""
    found = []
    for rows in parts(molecules):
        atoms = dataset.atom_rows(rows)
        numbers = dataset.take("atomic_numbers", atoms)
        positions = dataset.take("positions", atoms)
        found.append(geometry_keys(numbers, positions, dataset.n_atoms[rows]))
    return np.concatenate(found)


def numbers_of(dataset: PackedDataset, molecules: Array) -> Array:
    """``ladder_numbers`` of molecules of a dataset. [molecules] int32."""
    keys = keys_of(dataset, molecules)
    return ladder_numbers(keys, dataset.take("level", molecules))


def ladder_numbers(keys: Array, level: Array | None = None) -> Array:
    """A number from 0 for each geometry and level of theory. [molecules] int32.

    Args:
        keys: [molecules] hashes of geometries.
        level: [molecules] level of theory; None: one for all.
    """
    if level is not None:
        keys = keys + level.astype(np.uint64)  # of a hash: as good a hash
    return np.unique(keys, return_inverse=True)[1].astype(np.int32)
