"""A batch as dense arrays with one row per molecule."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_training.loading.pairs import slot_pairs
from physnet_training.loading.reading import Gathered, padded_rows

Array = NDArray[Any]

DENSE_FILLS = {
    "atomic_numbers": 0.0,
    "positions": 0.0,
    "forces": 0.0,
    "energy": 0.0,
}
"""Fields that a dense batch holds, and what stands in its padding."""


def dense_batch(
    found: Gathered,
    molecules: Array,
    slots: int,
    *,
    num_atoms: int,
    with_pairs: bool,
    with_weight: bool,
) -> dict[str, Array]:
    """Cut molecules out as arrays of ``slots`` rows and ``num_atoms`` columns.

    Args:
        found: The molecules with the fields of ``DENSE_FILLS``.
        molecules: Rows of ``found``, at most ``slots``.
        slots: B, the rows; filler rows have N = 0 and index -1.
        num_atoms: A, at least the largest molecule.
        with_pairs: Add ``dst_idx``, ``src_idx`` and ``batch_segments``.
        with_weight: Add ``weight``.

    Returns:
        The arrays described at ``PackedMemmapLoader.batches``.
    """
    rows = padded_rows(molecules, slots, len(found.sizes) - 1)
    sizes = found.sizes.take(rows)
    columns = np.arange(num_atoms)
    mask = columns < sizes[:, None]
    atoms = np.where(mask, found.first.take(rows)[:, None] + columns, found.first[-1])
    values = found.values
    batch = {
        "Z": values["atomic_numbers"].take(atoms),
        "R": values["positions"].take(atoms, axis=0),
        "F": values["forces"].take(atoms, axis=0),
        "E": values["energy"].take(rows),
        "N": sizes,
        "total_charge": values["total_charge"].take(rows),
        "total_spin": values["spin_multiplicity"].take(rows),
        "mask": mask,
        "index": found.molecules.take(rows),
    }
    if with_weight:
        batch["weight"] = values["weight"].take(rows)
    if with_pairs:
        batch["src_idx"], batch["dst_idx"] = slot_pairs(sizes, num_atoms)
        batch["batch_segments"] = _segments(slots, num_atoms).copy()
    return batch


@lru_cache(maxsize=16)
def _segments(slots: int, width: int) -> Array:
    return np.repeat(np.arange(slots, dtype=np.int32), width)
