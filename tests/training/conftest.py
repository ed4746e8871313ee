"""Small random datasets on disk for the tests of the training side."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import batch
from physnet_training.packed import PackedWriter

Molecules = dict[str, Any]

ALL_LABELS = ("energy", "forces", "dipole", "charges", "spin_populations", "stress")


def random_molecules(
    sizes: Iterable[int], labels: Iterable[str] = ALL_LABELS, seed: int = 0
) -> Molecules:
    """Ragged molecules of hydrogen and oxygen in possible states, as flat arrays."""
    rng = np.random.default_rng(seed)
    n = np.array(list(sizes), dtype=np.int32)
    atoms = int(n.sum())
    numbers = rng.choice([1, 8], size=atoms)
    first = np.cumsum(n) - n
    charge = rng.integers(-1, 1, size=len(n))
    electrons = np.add.reduceat(numbers, first) - charge
    shapes = {
        "energy": (len(n),),
        "forces": (atoms, 3),
        "dipole": (len(n), 3),
        "charges": (atoms,),
        "spin_populations": (atoms,),
        "stress": (len(n), 6),
    }
    # One atom per cell of a grid, so that no two coincide.
    local = np.arange(atoms) - np.repeat(first, n)
    grid = np.stack([local % 4, local // 4 % 4, local // 16], axis=1)
    values: dict[str, Any] = {
        "atomic_numbers": numbers,
        "positions": 1.5 * grid + rng.uniform(-0.3, 0.3, (atoms, 3)),
        "total_charge": charge,
        "spin_multiplicity": 1 + electrons % 2,
    }
    values |= {name: rng.normal(size=shapes[name]) for name in labels}
    if "charges" in values:  # they sum to the charge, as in nature
        sums = np.add.reduceat(values["charges"], first)
        values["charges"] += np.repeat((charge - sums) / n, n)
    return {"n_atoms": n, "values": values}


@pytest.fixture(scope="session")
def make_molecules() -> Callable[..., Molecules]:
    return random_molecules


@pytest.fixture(scope="session")
def make_dataset(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """Writes random molecules, or given ones, to a new packed dataset."""

    def make(sizes: Iterable[int] = (), **options: Any) -> Path:
        molecules = options.pop("molecules", None) or random_molecules(sizes, **options)
        target = tmp_path_factory.mktemp("packed") / "set"
        with PackedWriter(target) as writer:
            writer.append(batch(molecules))
        return target

    return make


@pytest.fixture(scope="session")
def write_source() -> Callable[..., Path]:
    """Writes random molecules, or given ones, to a ragged NPZ file with units."""

    def write(path: Path, sizes: Iterable[int] = (), **options: Any) -> Path:
        molecules = options.pop("molecules", None) or random_molecules(sizes, **options)
        values = dict(molecules["values"])
        numbers = values.pop("atomic_numbers")
        units = {"energy": "eV", "forces": "eV/angstrom", "dipole": "e*angstrom"}
        units["stress"] = "eV/angstrom^3"
        n_atoms = molecules["n_atoms"]
        text = json.dumps(units)
        np.savez(path, n_atoms=n_atoms, numbers=numbers, units=text, **values)
        return path

    return write
