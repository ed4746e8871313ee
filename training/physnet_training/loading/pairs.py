"""Pairs of atoms inside molecules, from one pattern for each size of molecule."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from physnet_ase.neighbors import Structure, find_pairs

Array = NDArray[Any]
_CACHED_SIZE = 64
"""Patterns up to this size are kept: 3 MB for all of them."""
_BLOCK_PAIRS = 1 << 16
"""Blocks of patterns up to this many pairs are kept: 32 MB at most for all of them."""


class Pairs(NamedTuple):
    """Real pairs of a batch of flat atoms; receivers ascending."""

    senders: Array  # [pairs] int32
    receivers: Array  # [pairs] int32
    shifts: Array | None  # [pairs, 3] float32 Å, None: no pair crosses a boundary
    long_senders: Array  # [long_pairs] int32
    long_receivers: Array  # [long_pairs] int32


def ordered_pattern(size: int) -> Array:
    """Senders and receivers of every ordered pair, receivers ascending. [2, n(n-1)]."""
    receivers, senders = np.divmod(np.arange(size * (size - 1)), max(size - 1, 1))
    senders += senders >= receivers
    return np.stack([senders, receivers]).astype(np.int32)


def once_pattern(size: int) -> Array:
    """Senders j and receivers i of the pairs i < j, i ascending. [2, n(n-1)/2]."""
    receivers, senders = np.triu_indices(size, 1)
    return np.stack([senders, receivers]).astype(np.int32)


_kept_ordered = lru_cache(maxsize=_CACHED_SIZE)(ordered_pattern)
_kept_once = lru_cache(maxsize=_CACHED_SIZE)(once_pattern)


def _ordered(size: int) -> Array:
    return (_kept_ordered if size <= _CACHED_SIZE else ordered_pattern)(size)


def _once(size: int) -> Array:
    return (_kept_once if size <= _CACHED_SIZE else once_pattern)(size)


def pairs_from(sizes: Array, first: Array) -> tuple[Array, Array]:
    """Every ordered pair of different atoms inside each molecule.

    Args:
        sizes: [molecules] number of atoms.
        first: [molecules] int32 number of each molecule's first atom.

    Returns:
        Senders and receivers, int32 [sum n(n-1)], receivers ascending if ``first`` is.
    """
    return _repeated(sizes, first, _ordered, 1)


def all_pairs(sizes: Array) -> tuple[Array, Array]:
    """``pairs_from`` for atoms that are numbered through."""
    return pairs_from(sizes, _first(sizes))


def _first(sizes: Array) -> Array:
    return (np.cumsum(sizes) - sizes).astype(np.int32)


def slot_pairs(sizes: Array, width: int) -> tuple[Array, Array]:
    """``pairs_from`` for molecules that each have ``width`` atom slots."""
    slots = len(sizes)
    runs, total = _runs(sizes)
    if int(sizes.max(initial=0)) ** 2 * slots > _BLOCK_PAIRS:
        return pairs_from(sizes, np.arange(slots, dtype=np.int32) * np.int32(width))
    result = np.empty((2, total), dtype=np.int32)
    done = 0
    for start, end, size in runs:
        upto = done + (end - start) * size * (size - 1)
        block = _block(size, slots, width)[:, start:end]
        result[:, done:upto] = block.reshape(2, upto - done)
        done = upto
    return result[0], result[1]


@lru_cache(maxsize=_CACHED_SIZE)
def _block(size: int, slots: int, width: int) -> Array:
    """The ordered pattern in each of many slots. [2, slots, n(n-1)]."""
    first = np.arange(slots, dtype=np.int32) * np.int32(width)
    return first[:, None] + _ordered(size)[:, None, :]


def _runs(sizes: Array) -> tuple[list[tuple[int, int, int]], int]:
    """First, end and size of each run of equal sizes, and the pairs of them all.

    Molecules of one size that follow each other are done together: in a batch sorted
    by size there are few such runs.
    """
    ends = np.flatnonzero(sizes[1:] != sizes[:-1]) + 1
    starts = [0, *ends.tolist()] if len(sizes) else []
    runs = [
        (start, end, int(sizes[start]))
        for start, end in zip(starts, [*starts[1:], len(sizes)], strict=False)
    ]
    return runs, sum((end - start) * n * (n - 1) for start, end, n in runs)


def _repeated(
    sizes: Array, first: Array, pattern: Callable[[int], Array], share: int
) -> tuple[Array, Array]:
    """The pattern of each molecule, counted from its first atom.

    ``share`` of the ordered pairs, one in so many, are in the pattern.
    """
    runs, total = _runs(sizes)
    result = np.empty((2, total // share), dtype=np.int32)
    done = 0
    for start, end, size in runs:
        upto = done + (end - start) * size * (size - 1) // share
        # Splitting the last axis of a slice gives a view.
        part = result[:, done:upto].reshape(2, end - start, -1)
        np.add(first[start:end, None], pattern(size)[:, None, :], out=part)
        done = upto
    return result[0], result[1]


def open_pairs(sizes: Array, positions: Array, cutoff: float | None) -> Pairs:
    """Pairs of molecules without periodic directions.

    Args:
        sizes: [molecules] number of atoms.
        positions: [atoms, 3] Å.
        cutoff: Keep ordered pairs closer than this (Å); None keeps all. The long
            pairs i < j are always complete.
    """
    first = _first(sizes)
    senders, receivers = pairs_from(sizes, first)
    long_senders, long_receivers = _repeated(sizes, first, _once, 2)
    if cutoff is not None and _widest(first, positions) >= cutoff:
        vectors = positions[senders] - positions[receivers]
        near = np.einsum("ij,ij->i", vectors, vectors) < cutoff**2
        senders, receivers = senders[near], receivers[near]
    return Pairs(senders, receivers, None, long_senders, long_receivers)


def _widest(first: Array, positions: Array) -> float:
    """Diagonal (Å) of the largest box around a molecule: no pair is further apart."""
    if len(first) == 0:
        return 0.0
    extent = np.maximum.reduceat(positions, first) - np.minimum.reduceat(
        positions, first
    )
    # a little more than exact, for distances are rounded too
    return 1.001 * float(np.sqrt(np.square(extent).sum(axis=1).max()))


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


def mixed_pairs(
    sizes: Array, positions: Array, *, cells: Array, pbc: Array, cutoff: float
) -> Pairs:
    """Pairs of a batch in which some molecules are periodic.

    Args:
        sizes: [molecules] number of atoms.
        positions: [atoms, 3] Å.
        cells: [molecules, 3, 3] Å, rows are the cell vectors.
        pbc: [molecules, 3] periodic directions.
        cutoff: Å.
    """
    parts = []
    start = 0
    for size, cell, directions in zip(sizes, cells, pbc, strict=True):
        points = positions[start : start + size]
        if directions.any():
            part = periodic_pairs(points, cell, directions, cutoff)
        else:
            part = open_pairs(np.array([size]), points, cutoff)
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
