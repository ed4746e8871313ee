"""What reading a packed dataset costs without the loader: bare NumPy on the same files.

Each function takes the arrays of a dataset and the molecules of one batch, and returns
the batch's arrays.
"""

from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
PER_ATOM = ("atomic_numbers", "positions", "forces")
PER_MOLECULE = ("energy", "total_charge", "spin_multiplicity")


def open_files(path: Path) -> Arrays:
    """The files as NumPy maps them."""
    sizes = np.load(path / "n_atoms.npy", mmap_mode="r")
    atoms, count = int(sizes.sum()), len(sizes)
    files = {
        "atomic_numbers": ("Z_pack.int32", np.int32, (atoms,)),
        "positions": ("R_pack.f32", np.float32, (atoms, 3)),
        "forces": ("F_pack.f32", np.float32, (atoms, 3)),
        "energy": ("E.f64", np.float64, (count,)),
        "total_charge": ("total_charge.f32", np.float32, (count,)),
        "spin_multiplicity": ("total_spin.f32", np.float32, (count,)),
    }
    return {
        "n_atoms": np.asarray(sizes),
        "offsets": np.asarray(np.load(path / "offsets.npy", mmap_mode="r")),
        **{
            name: np.memmap(path / file, dtype, "r", shape=shape)
            for name, (file, dtype, shape) in files.items()
        },
    }


def ragged_gather(arrays: Arrays, molecules: np.ndarray) -> Arrays:
    """Concatenated rows by fancy indexing: no padding, no loop."""
    sizes = arrays["n_atoms"][molecules]
    first = arrays["offsets"][molecules] - (np.cumsum(sizes) - sizes)
    rows = np.repeat(first, sizes) + np.arange(sizes.sum())
    return {
        "n_atoms": sizes,
        **{name: arrays[name][rows] for name in PER_ATOM},
        **{name: arrays[name][molecules] for name in PER_MOLECULE},
    }


def padded_loop(arrays: Arrays, molecules: np.ndarray, width: int = 60) -> Arrays:
    """A loop over molecules that slices and pads."""
    count = len(molecules)
    batch: dict[str, Any] = {
        "Z": np.zeros((count, width), np.int32),
        "R": np.zeros((count, width, 3), np.float32),
        "F": np.zeros((count, width, 3), np.float32),
        "E": np.zeros(count),
        "N": np.zeros(count, np.int32),
        "Q": np.zeros(count, np.float32),
        "S": np.zeros(count, np.float32),
        "mask": np.zeros((count, width), bool),
    }
    offsets = arrays["offsets"]
    for row, molecule in enumerate(molecules.tolist()):
        start, end = offsets[molecule], offsets[molecule + 1]
        size = end - start
        batch["Z"][row, :size] = arrays["atomic_numbers"][start:end]
        batch["R"][row, :size] = arrays["positions"][start:end]
        batch["F"][row, :size] = arrays["forces"][start:end]
        batch["E"][row] = arrays["energy"][molecule]
        batch["N"][row] = size
        batch["Q"][row] = arrays["total_charge"][molecule]
        batch["S"][row] = arrays["spin_multiplicity"][molecule]
        batch["mask"][row, :size] = True
    return batch


def padded_loop_with_pairs(
    arrays: Arrays, molecules: np.ndarray, width: int = 60
) -> Arrays:
    """The same loop that also lists the pairs of each molecule, with ``np.where``."""
    batch = padded_loop(arrays, molecules, width)
    receivers, senders = [], []
    for row, size in enumerate(batch["N"].tolist()):
        first, second = np.where(~np.eye(size, dtype=bool))
        receivers.append(first + row * width)
        senders.append(second + row * width)
    return batch | _joined(receivers, senders, len(molecules), width)


def padded_loop_with_python_pairs(
    arrays: Arrays, molecules: np.ndarray, width: int = 60
) -> Arrays:
    """The same, pairs listed one by one."""
    batch = padded_loop(arrays, molecules, width)
    receivers, senders = [], []
    for row, size in enumerate(batch["N"].tolist()):
        start = row * width
        for i in range(start, start + size):
            for j in range(start, start + size):
                if i != j:
                    receivers.append(i)
                    senders.append(j)
    return batch | _joined([receivers], [senders], len(molecules), width)


def _joined(receivers: list, senders: list, count: int, width: int) -> Arrays:
    return {
        "dst": np.concatenate(receivers).astype(np.int32),
        "src": np.concatenate(senders).astype(np.int32),
        "segments": np.repeat(np.arange(count, dtype=np.int32), width),
    }


def touch(batch: Arrays) -> None:
    """Read from every array."""
    for array in batch.values():
        array.item(array.size - 1)
