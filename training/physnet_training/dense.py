"""A batch as dense arrays with one row per molecule."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_training.batching import all_pairs
from physnet_training.layout import FIELDS
from physnet_training.packed import PackedDataset

Array = NDArray[Any]

_KEYS = (
    ("Z", "atomic_numbers", 0),
    ("R", "positions", 0.0),
    ("F", "forces", 0.0),
    ("E", "energy", 0.0),
    ("total_charge", "total_charge", 0.0),
    ("total_spin", "spin_multiplicity", 1.0),
)
"""Key of the batch, field on disk, value of padding."""


def dense_batch(
    dataset: PackedDataset,
    molecules: Array,
    slots: int,
    *,
    num_atoms: int,
    with_pairs: bool,
) -> dict[str, Array]:
    """Gather molecules into arrays of ``slots`` rows and ``num_atoms`` columns.

    Args:
        dataset: Where the molecules are.
        molecules: Dataset indices, at most ``slots``.
        slots: B, the rows; filler rows have N = 0 and index -1.
        num_atoms: A, at least the largest molecule.
        with_pairs: Add ``dst_idx``, ``src_idx`` and ``batch_segments``.

    Returns:
        The arrays described at ``PackedMemmapLoader.batches``.
    """
    count = len(molecules)
    sizes = np.zeros(slots, dtype=np.int32)
    sizes[:count] = dataset.n_atoms[molecules]
    mask = np.arange(num_atoms) < sizes[:, None]
    atom_rows = dataset.atom_rows(molecules)
    batch: dict[str, Array] = {"N": sizes, "mask": mask}
    for key, name, fill in _KEYS:
        per_atom = FIELDS[name].per_atom
        values = dataset.take(name, atom_rows if per_atom else molecules)
        lead = mask.shape if per_atom else (slots,)
        batch[key] = np.full((*lead, *values.shape[1:]), fill, dtype=values.dtype)
        batch[key][mask if per_atom else slice(count)] = values
    batch["total_spin"][:count] = dataset.multiplicities(molecules)
    batch["index"] = np.full(slots, -1, dtype=np.int64)
    batch["index"][:count] = molecules
    if with_pairs:
        senders, receivers = all_pairs(sizes)
        place = np.flatnonzero(mask).astype(np.int32)
        batch["dst_idx"], batch["src_idx"] = place[receivers], place[senders]
        segments = np.arange(slots, dtype=np.int32)
        batch["batch_segments"] = np.repeat(segments, num_atoms)
    return batch
