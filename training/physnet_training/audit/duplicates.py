"""Molecules that stand in a dataset more than once, found in bounded memory."""

import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_training.hashing import splitmix64
from physnet_training.packed import PackedDataset

Array = NDArray[Any]

_ENTRY = np.dtype([("key", "<u8"), ("row", "<i8")])
_PER_BUCKET = 250_000  # molecules sorted at once: 4 MB, and twice that while sorting
_CONFIRM = 1 << 18  # atoms compared at once
_COMPARED = ("atomic_numbers", "positions", "level", "pbc", "cell", "energy")
# Odd constants, so that multiplying loses nothing: golden ratio, splitmix64's own.
_FIRST, _SECOND, _PLACE = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
)


@dataclass(frozen=True)
class Duplicates:
    """Molecules with the same atoms, positions, cell, state and level as an earlier.

    Attributes:
        count: Number of repeated molecules; the first of each kind is not counted.
        contradicting: How many of them have another energy than the first.
        rows: [at most the limit, 2] a repeated molecule and the first of its kind,
            lowest numbers first.
    """

    count: int
    contradicting: int
    rows: Array


class DuplicateFinder:
    """Finds exact duplicates from 64-bit hashes; a context manager.

    The hashes (16 bytes per molecule) wait in temporary files, one per range of
    hashes, so that equal ones meet in one file that fits into memory. Molecules whose
    hashes agree are compared number by number; what is reported are duplicates.

    Args:
        dataset: Its batches are given to ``add``, each once.
        limit: Most rows to report.
    """

    def __init__(self, dataset: PackedDataset, *, limit: int = 100) -> None:
        self._dataset, self._limit = dataset, limit
        count = max(-(-dataset.num_molecules // _PER_BUCKET), 1)
        self._files = [tempfile.TemporaryFile() for _ in range(count)]

    def __enter__(self) -> "DuplicateFinder":
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the temporary files."""
        for file in self._files:
            file.close()

    def add(self, batch: Molecules) -> None:
        """Remember the hashes of some molecules."""
        entries = np.empty(len(batch.rows), dtype=_ENTRY)
        entries["key"], entries["row"] = molecule_hashes(batch), batch.rows
        if len(self._files) == 1:
            self._files[0].write(entries.tobytes())
            return
        width = np.uint64(2**64 // len(self._files) + 1)
        buckets = entries["key"] // width
        for index, file in enumerate(self._files):
            file.write(entries[buckets == index].tobytes())

    def find(self) -> Duplicates:
        """Compare the molecules whose hashes agree."""
        count = contradicting = 0
        rows = np.empty((0, 2), dtype=np.int64)
        for file in self._files:
            file.seek(0)
            entries = np.frombuffer(file.read(), dtype=_ENTRY)
            for pairs in _bounded(_same_key(entries), self._dataset.n_atoms):
                one, other = (
                    self._dataset.molecules(part, _COMPARED, check=False)
                    for part in pairs.T
                )
                same = _confirmed(one, other)
                count += int(same.sum())
                away = np.abs(one.values["energy"] - other.values["energy"])
                contradicting += int((same & (away > 1e-3)).sum())
                rows = np.concatenate([rows, pairs[same]])
                rows = rows[np.argsort(rows[:, 0], kind="stable")[: self._limit]]
        return Duplicates(count, contradicting, rows)


def molecule_hashes(batch: Molecules) -> Array:
    """A 64-bit hash of atoms, positions, cell, charge, multiplicity and level.

    Each atom's element and position (the bits on disk) and its place in the molecule
    are mixed to one word; the words are summed and mixed with those of the molecule.

    Returns:
        [molecules] uint64.
    """
    atoms = np.empty((len(batch.values["atomic_numbers"]), 4), dtype=np.uint32)
    atoms[:, 0] = batch.values["atomic_numbers"]
    positions = atoms[:, 1:].view(np.float32)
    np.add(batch.values["positions"], np.float32(0), out=positions)  # -0 becomes 0
    pairs = atoms.view(np.uint64)
    words = pairs[:, 0] * _FIRST
    words += pairs[:, 1] * _SECOND
    place = np.arange(len(words)) - np.repeat(batch.first_atom, batch.n_atoms)
    words += place.astype(np.uint64) * _PLACE
    # Without this step sums would not tell which atom is where.
    words ^= words >> np.uint64(32)
    words *= _SECOND
    words ^= words >> np.uint64(29)
    hashes = np.add.reduceat(words, batch.first_atom)
    for values in _of_molecules(batch):
        for column in _bits(values.astype(np.float32).reshape(len(hashes), -1)).T:
            hashes = splitmix64(hashes ^ (column * _PLACE))
    return hashes


def _of_molecules(batch: Molecules) -> tuple[Array, ...]:
    """What makes molecules of one geometry different."""
    names = ("total_charge", "spin_multiplicity", "level", "pbc")
    # Cells of molecules that are not periodic say nothing, whatever they hold.
    cell = np.where(batch.periodic[:, None, None], batch.values["cell"], 0)
    return (*(batch.values[name] for name in names), cell)


def _bits(values: Array) -> Array:
    """Bits of float32 numbers as uint64; -0 is 0, and all NaN are the same."""
    plain = np.where(np.isnan(values), np.float32(np.nan), values + np.float32(0))
    return plain.view(np.uint32).astype(np.uint64)


def _same_key(entries: Array) -> Array:
    """Rows whose key came before, with the first row of that key, [n, 2]."""
    order = np.lexsort((entries["row"], entries["key"]))
    keys, rows = entries["key"][order], entries["row"][order]
    new = np.append(True, keys[1:] != keys[:-1]) if len(keys) else np.zeros(0, bool)
    first = rows[new][np.cumsum(new) - 1]
    return np.stack([rows, first], axis=1)[~new]


def _bounded(pairs: Array, n_atoms: Array) -> list[Array]:
    """The pairs of rows in parts whose atoms fit into memory."""
    if not len(pairs):
        return []
    atoms = np.cumsum(n_atoms[pairs[:, 0]].astype(np.int64))
    return np.split(pairs, np.flatnonzero(np.diff(atoms // _CONFIRM)) + 1)


def _confirmed(one: Molecules, other: Molecules) -> Array:
    """Whether molecules are the same as those of another batch, [molecules] bool."""
    same = np.asarray(one.n_atoms == other.n_atoms)
    for mine, theirs in zip(_of_molecules(one), _of_molecules(other), strict=True):
        equal = (mine == theirs) | ((mine != mine) & (theirs != theirs))
        same &= equal.reshape(len(same), -1).all(axis=1)
    if same.any():
        one, other = one.keep(same), other.keep(same)
        equal = one.values["atomic_numbers"] == other.values["atomic_numbers"]
        equal &= (one.values["positions"] == other.values["positions"]).all(axis=1)
        same[same] = np.logical_and.reduceat(equal, one.first_atom)
    return same
