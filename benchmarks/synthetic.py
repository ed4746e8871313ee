"""A synthetic packed dataset of any length, for measurements of reading and training.

Ragged molecules of 8 to 40 atoms of H, C, N and O in up to twelve states, with energies
and forces. The numbers mean nothing chemically; sizes, types and files are those of a
real set.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from physnet_training.packed import PackedWriter

from physnet_ase.molecules import Molecules

CHUNK = 100_000  # molecules made at once: about 70 MB
SMALLEST, LARGEST = 8, 40
ELEMENTS = np.array([1, 6, 7, 8], dtype=np.int32)
ABUNDANCE = np.array([0.5, 0.35, 0.07, 0.08])
ELEMENT_ENERGIES = np.array([-13.6, -1029.0, -1485.0, -2041.0])  # eV
SPACING = 1.6  # Å between the points of the grid that atoms sit on


def molecules(count: int, rng: np.random.Generator) -> Molecules:
    """``count`` molecules, as ``PackedWriter`` takes them."""
    sizes = rng.integers(SMALLEST, LARGEST + 1, count, dtype=np.int32)
    first = np.cumsum(sizes) - sizes
    atoms = int(sizes.sum())
    kind = np.searchsorted(np.cumsum(ABUNDANCE)[:-1], rng.random(atoms, np.float32))
    numbers = ELEMENTS[kind]
    charge = rng.choice([0, 1, -1], count, p=[0.8, 0.1, 0.1])
    electrons = np.add.reduceat(numbers, first) - charge
    spin = 1 + electrons % 2 + 2 * (rng.random(count) < 0.05)
    local = np.arange(atoms) - np.repeat(first, sizes)
    grid = np.stack([local % 4, local // 4 % 4, local // 16], axis=1)
    positions = rng.random((atoms, 3), np.float32)
    positions *= 0.4
    positions += SPACING * grid.astype(np.float32)
    energy = np.add.reduceat(ELEMENT_ENERGIES[kind], first) + 9.0 * charge
    values = {
        "atomic_numbers": numbers,
        "positions": positions,
        "forces": rng.standard_normal((atoms, 3), np.float32),
        "energy": energy + rng.normal(0.0, 0.5, count),
        "total_charge": charge,
        "spin_multiplicity": spin,
    }
    return Molecules(sizes, values, np.arange(count))


def write(target: Path, count: int, seed: int = 0) -> None:
    """Write ``count`` molecules to a new packed dataset."""
    rng = np.random.default_rng(seed)
    with PackedWriter(target, provenance=[{"made by": "benchmarks/synthetic.py"}]) as w:
        for start in range(0, count, CHUNK):
            w.append(molecules(min(CHUNK, count - start), rng))


def ensure(folder: Path, count: int, shards: int = 1) -> Path:
    """The set of this length in ``folder``, written first where it is missing."""
    target = folder / f"synthetic-{count}{f'-in-{shards}' if shards > 1 else ''}"
    if target.exists():
        return target
    print(f"writing {count:,} molecules to {target}", flush=True)
    started = time.monotonic()
    if shards == 1:
        write(target, count)
    else:
        part = target.with_name(f"{target.name}.partial")
        for index in range(shards):
            write(part / f"shard-{index:05d}", count // shards, seed=index)
        part.rename(target)
    print(f"written in {time.monotonic() - started:.0f} s", flush=True)
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--molecules", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=1)
    options = parser.parse_args()
    ensure(options.folder, options.molecules, options.shards)
