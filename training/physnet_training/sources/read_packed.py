"""Molecules out of packed datasets: our own, the origin's, single or sharded."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.quantities import QUANTITIES
from physnet_training.packed import PackedDataset
from physnet_training.packed.files import N_ATOMS
from physnet_training.sources.arrays import matches
from physnet_training.sources.keys import Reading, ReadOptions, UnitChoice

Array = NDArray[Any]

_KEYS = {"name": "group", "level": "level"}


def is_packed(path: Path) -> bool:
    """Whether a directory is a packed dataset or a root of shards."""
    return (path / N_ATOMS).is_file() or any(path.glob(f"shard-*/{N_ATOMS}"))


def read_packed(
    path: Path, options: ReadOptions, reading: Reading
) -> Iterator[Molecules]:
    """Molecules of a packed dataset, with or without a manifest, in batches.

    Levels of theory and names are kept, and what is missing there stays missing.

    Args:
        path: The directory, or a root of ``shard-00000/``, ``shard-00001/``, ….
        options: What the user says; units and keys are fixed, so a contradicting one is
            refused. ``where`` compares fields, ``name`` and ``level``.
        reading: Receives the units.

    Raises:
        ValueError: A file is damaged, or an option contradicts the dataset.
    """
    dataset = PackedDataset.open(path)
    try:
        _check_options(dataset, options, reading)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for stored in dataset.batches(first=options.first_row):
        batch = _wanted(stored, options)
        if len(batch):
            yield batch


def count_packed(path: Path) -> int | None:
    """Number of molecules; None for a dataset that cannot be opened."""
    try:
        return PackedDataset.open(path).num_molecules
    except ValueError:
        return None  # reading it says what is wrong


def _check_options(
    dataset: PackedDataset, options: ReadOptions, reading: Reading
) -> None:
    reading.ignored += [key for key in options.ignore if key in dataset.fields]
    names = [n for n in ("positions", *dataset.labels) if n not in options.ignore]
    units = {name: QUANTITIES[name].unit for name in names}
    choice = UnitChoice(options, reading, declared=units, defaults={})
    for name in names:
        choice.factor(name, name)
    known = (*_KEYS, *sorted(dataset.fields - set(_KEYS.values())))
    for key in options.where:
        if key not in known or _per_atom(key):
            raise ValueError(
                f"--where {key}={options.where[key]}: no such key; present: "
                f"{', '.join(k for k in known if not _per_atom(k))}"
            )


def _per_atom(key: str) -> bool:
    return key in QUANTITIES and QUANTITIES[key].per_atom


def _wanted(found: Molecules, options: ReadOptions) -> Molecules:
    ignored = {name for name in options.ignore if name in found.values}
    values = {name: a for name, a in found.values.items() if name not in ignored}
    absent: dict[str, Array] = {}
    for name in values:
        quantity = QUANTITIES[name]
        if quantity.role == "label" or name in ("cell", "spin_multiplicity"):
            gone = ~found.present(name)
            if gone.any():
                absent[name] = gone
    levels = np.full(len(found), options.level) if options.level else found.levels
    found = replace(found, values=values, levels=levels, absent=absent)
    chosen = np.ones(len(found), dtype=bool)
    for key, wanted in options.where.items():
        column = {"name": found.names, "level": levels}.get(key)
        chosen &= matches(found.values[key] if column is None else column, wanted)
    return found.keep(chosen)
