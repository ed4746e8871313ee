"""Shortest distances inside many molecules at once, in blocks that fit the cache."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import find_pairs

Array = NDArray[Any]

_BLOCK = (
    8192  # atoms per block: 0.4 MB of work arrays, measured best of 1,024 to 65,536
)
_RADIUS = 1.0  # Å; a smaller one makes the cell list of a periodic search slow


def shortest_distances(sizes: Array, positions: Array) -> Array:
    """Distance between the two closest atoms of each molecule, images left out.

    Molecules of one size are treated together: for each shift k, atom i is compared
    with atom i+k, so that all arithmetic runs over contiguous float32 rows. Rounding
    makes distances uncertain by 1e-7 of the molecule's extent.

    Args:
        sizes: [molecules] number of atoms, at least 1.
        positions: [atoms, 3] Å, any float type.

    Returns:
        [molecules] float32 Å; infinite for single atoms, NaN where the positions are
        too large for float32.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    shortest = np.full(len(sizes), np.inf, dtype=np.float32)
    coordinates = np.ascontiguousarray(np.asarray(positions).T)
    order = np.argsort(sizes, kind="stable")
    bounds = np.flatnonzero(np.diff(sizes[order], prepend=0, append=0))
    for begin, end in pairwise(bounds.tolist()):
        size = int(sizes[order[begin]])
        if size == 1:
            continue
        step = max(_BLOCK // size, 1)
        for first in range(begin, end, step):
            rows = order[first : min(first + step, end)]
            atoms = starts[rows] + np.arange(size)[:, None]
            shortest[rows] = _shortest(coordinates.take(atoms, axis=1))
    return shortest


def _shortest(block: Array) -> Array:
    """Shortest distances of molecules of one size, [3, atoms, molecules] Å."""
    size = block.shape[1]
    # Values beyond float32 end as infinity or NaN, which the caller sees.
    with np.errstate(over="ignore", invalid="ignore"):
        flat = (block - block[:, :1]).astype(np.float32, copy=False)
        twice = np.concatenate([flat, flat], axis=1)
        vectors = np.empty_like(flat)
        best = np.full(flat.shape[1:], np.inf, dtype=np.float32)
        for shift in range(1, size // 2 + 1):
            np.subtract(twice[:, shift : shift + size], flat, out=vectors)
            np.multiply(vectors, vectors, out=vectors)
            squared = vectors[0]
            squared += vectors[1]
            squared += vectors[2]
            np.minimum(best, squared, out=best)
    return np.sqrt(best.min(axis=0))


def closest_pair(positions: Array) -> tuple[float, int]:
    """Distance in float64 between the two closest atoms of one molecule.

    Args:
        positions: [atoms, 3] Å, at least two atoms.

    Returns:
        The distance in Å, and the lower index of the two atoms.
    """
    points = np.asarray(positions, dtype=np.float64)
    best, atom = np.inf, 0
    for index in range(len(points) - 1):
        vectors = points[index + 1 :] - points[index]
        distance = float(np.sqrt(np.einsum("ij,ij->i", vectors, vectors).min()))
        if distance < best:
            best, atom = distance, index
    return best, atom


def closest_image(positions: Array, cell: Array, pbc: Array) -> tuple[float, int]:
    """Distance between the two closest atoms of one periodic structure.

    Args:
        positions: [atoms, 3] Å.
        cell: [3, 3] Å, rows are the cell vectors.
        pbc: [3] periodic directions.

    Returns:
        The distance in Å, images included, and one of the two atoms; infinite where
        no two atoms are closer than 1 Å.
    """
    structure = Molecules(
        np.array([len(positions)], np.int32),
        {"positions": positions, "cell": cell[None], "pbc": pbc[None]},
        np.zeros(1, np.int64),
    )
    pairs = find_pairs(structure, _RADIUS)
    if not len(pairs.receivers):
        return np.inf, 0
    distances = np.linalg.norm(pairs.vectors(positions), axis=1)
    pair = int(np.argmin(distances))
    return float(distances[pair]), int(pairs.receivers[pair])
