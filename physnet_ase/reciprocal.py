"""What Ewald's sum needs before anything is computed: smearing, cell and k-vectors."""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_CUTOFF_PER_SMEARING = 5.5
"""erfc(5.5/√2) = 4e-8: what the real-space sum leaves out at the cutoff."""
_LARGEST_EXPONENT = 15.7
"""exp(-15.7) = 1.5e-7: what the reciprocal sum leaves out beyond its last k."""
_MARGIN = 1.1
"""Of the k-vectors' range, for cells that grow while the list of vectors stays."""
_VACUUM = 50.0
"""Å between the images of slabs and wires along directions that are not periodic."""


def ewald_smearing(cutoff: float) -> float:
    """Width σ in Å of the Gaussian charges, from the cutoff in Å."""
    return cutoff / _CUTOFF_PER_SMEARING


def ewald_cell(cell: Array, pbc: Array, positions: Array) -> Array:
    """The cell with vacuum along directions that are not periodic. [3, 3] Å.

    A slab or a wire is summed as a crystal of well separated ones: fifty Å between
    images, and fifty more for every fifty that the atoms extend.
    """
    from ase.geometry.cell import complete_cell

    box = np.where(np.isfinite(cell), cell, 0.0).astype(np.float64)
    if pbc.all():
        return box
    box = np.where(pbc[:, None], box, 0.0)
    whole: Array = complete_cell(box)
    for axis in np.flatnonzero(~pbc):
        direction = whole[axis] / np.linalg.norm(whole[axis])
        extent = float(np.ptp(positions @ direction))
        whole[axis] = direction * _VACUUM * (1 + math.ceil(extent / _VACUUM))
    return whole


def k_vectors(cell: Array, cutoff: float) -> Array:
    """Multiples of the reciprocal lattice vectors in the sum, one of each pair ±k.

    Args:
        cell: [3, 3] Å, rows are the lattice vectors.
        cutoff: Of the real-space sum, Å.

    Returns:
        [k, 3] int32.
    """
    return _k_vectors(np.ascontiguousarray(cell, np.float64).tobytes(), cutoff)


@lru_cache(maxsize=64)
def _k_vectors(cell: bytes, cutoff: float) -> Array:
    box = np.frombuffer(cell).reshape(3, 3)
    longest = math.sqrt(2.0 * _LARGEST_EXPONENT) / ewald_smearing(cutoff) * _MARGIN
    # n_i = k·a_i/2π bounds each multiple by the length of its lattice vector.
    most = np.floor(longest * np.linalg.norm(box, axis=1) / (2.0 * np.pi)).astype(int)
    ranges = [np.arange(-n, n + 1) for n in most]
    grid = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[len(grid) // 2 + 1 :]  # the middle is zero, the first half its negative
    lengths = np.linalg.norm(grid @ np.linalg.inv(box).T * 2.0 * np.pi, axis=1)
    return grid[lengths <= longest].astype(np.int32)
