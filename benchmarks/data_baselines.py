"""What reading a packed dataset costs without the loader: bare NumPy on the same files.

The baselines take the arrays of a dataset and the molecules of one batch, and return
the batch's arrays; ``reading`` lets the loader run against them.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.packed import PackedDataset

Arrays = dict[str, np.ndarray]
BATCH = 32
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


def contestants(dataset: PackedDataset) -> dict[str, Callable[[int, int], None]]:
    """Name -> function that reads batches from a place in the first epoch."""
    arrays = open_files(dataset.path)
    views = {name: array.view(np.ndarray) for name, array in arrays.items()}
    loader = PackedMemmapLoader(dataset, BATCH)
    for array in views.values():
        array.reshape(-1).view(np.uint8)[::4096].max()  # into the page cache

    def baseline(
        read: Callable[..., Arrays], files: Arrays = arrays
    ) -> Callable[[int, int], None]:
        def run(start: int, count: int) -> None:
            for index in range(start, start + count):
                touch(read(files, loader.molecules(0, index)))

        return run

    def ours(start: int, **options: Any) -> Callable[[int, int], None]:
        mine = PackedMemmapLoader(dataset, BATCH)
        mine.restore(mine.state() | {"index": start})
        batches = mine.batches(**options)  # reads ahead, so it goes on by itself

        def run(_: int, count: int) -> None:
            for _ in range(count):
                touch(next(batches))  # raises when the set is too small

        return run

    # each contestant has its own quarter of the epoch: nobody warms another's rows
    quarter = loader.num_batches // 4
    return {
        "gather": baseline(ragged_gather),
        "gather_from_views": baseline(ragged_gather, views),
        "loader": ours(quarter, physnet_format=False),
        "loop_60": baseline(padded_loop),
        "loop_60_from_views": baseline(padded_loop, views),
        "loader_60": ours(2 * quarter, num_atoms=60, physnet_format=False),
        "loop_60_pairs_by_where": baseline(padded_loop_with_pairs),
        "loop_60_pairs_one_by_one": baseline(padded_loop_with_python_pairs),
        "loader_60_pairs": ours(3 * quarter, num_atoms=60),
    }


def reading(path: Path, repeats: int = 9, count: int = 340) -> dict[str, Any]:
    """Molecules per second, medians; the contestants take turns in changing order."""
    dataset = PackedDataset.open(path)
    runs = contestants(dataset)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    place = 0
    for repeat in range(repeats + 1):
        names = list(runs)[:: 1 if repeat % 2 else -1]
        for name in names:
            started = time.perf_counter()
            runs[name](place, count)
            seconds = time.perf_counter() - started
            if repeat:  # the first round warms up
                rates[name].append(BATCH * count / seconds)
            place = (place + count) % (len(dataset) // BATCH // 4 - count)
    median = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {
        f"{ours}_over_{other}": median[ours] / median[other]
        for ours, kind in (
            ("loader", "gather"),
            ("loader_60", "loop_60"),
            ("loader_60_pairs", "loop_60_pairs"),
        )
        for other in runs
        if other.startswith(kind) and ("pairs" in other) == ("pairs" in kind)
    }
    return {"molecules_per_second": median, **ratios}
