"""What Ewald's sum needs before anything is computed: smearing, cell and mesh."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_CUTOFF_PER_SMEARING = 5.5
"""erfc(5.5/√2) = 4e-8: what the real-space sum leaves out at the cutoff."""
_SPACING = 0.25
"""Of the mesh, in smearings: forces on charges of 0.8 e in water are then within 1e-5
eV/Å of the exact sum, root mean square. The error falls with the fourth to fifth power.
"""
_MARGIN = 1.1
"""For cells that grow while the mesh stays."""
_VACUUM = 50.0
"""Å between the images of slabs and wires along directions that are not periodic."""
_EXTENTS = 25.0
"""Å to whose multiples the extent of the atoms is rounded up: few sizes compile."""


def ewald_smearing(cutoff: float) -> float:
    """Width σ in Å of the Gaussian charges, from the cutoff in Å."""
    return cutoff / _CUTOFF_PER_SMEARING


def ewald_cell(cell: Array, pbc: Array, positions: Array) -> Array:
    """The cell with vacuum along directions that are not periodic. [3, 3] Å.

    A slab or a wire is summed as a crystal of well separated ones: fifty Å between
    images, beside what the atoms extend.
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
        whole[axis] = direction * (_VACUUM + _EXTENTS * math.ceil(extent / _EXTENTS))
    return whole


def mesh_shape(cell: Array, cutoff: float) -> tuple[int, int, int]:
    """Points along each lattice vector of the mesh for the reciprocal sum.

    Args:
        cell: [3, 3] Å, rows are the lattice vectors.
        cutoff: Of the real-space sum, Å.
    """
    lengths = _MARGIN * np.linalg.norm(cell, axis=1)
    spacing = _SPACING * ewald_smearing(cutoff)
    x, y, z = (_fast_size(math.ceil(length / spacing)) for length in lengths.tolist())
    return x, y, z


def _fast_size(least: int) -> int:
    """The next of few even sizes that Fourier transforms are fast for: 2, 3 and 5."""
    powers = [2**n for n in range(1, least.bit_length() + 1)]
    return min(n for odd in (1, 3, 5, 9, 15) for p in powers if (n := odd * p) >= least)
