"""Molecules out of packed datasets: our own, the origin's, single or sharded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_training.packed import PackedDataset
from physnet_training.sources.array_values import matches
from physnet_training.sources.molecules import Molecules, ReadOptions
from physnet_training.sources.unit_choice import UnitChoice
from physnet_training.storage.layout import FIELDS, LABELS, N_ATOMS, UNITS

Array = NDArray[Any]

_MAX_MOLECULES = 20_000
_MAX_ATOMS = 500_000
_KEYS = {"name": "group", "level": "level"}
_UNITS = {"positions": UNITS["length"], "charges": UNITS["charge"]} | {
    name: UNITS[name] for name in ("energy", "forces", "dipole", "stress")
}


def is_packed(path: Path) -> bool:
    """Whether a directory is a packed dataset or a root of shards."""
    return (path / N_ATOMS).is_file() or any(path.glob(f"shard-*/{N_ATOMS}"))


def read_packed(
    path: Path, options: ReadOptions, units: dict[str, str]
) -> Iterator[Molecules]:
    """Molecules of a packed dataset, with or without a manifest, in pieces.

    Levels of theory and names are kept, and what is missing there stays missing.

    Args:
        path: The directory, or a root of ``shard-00000/``, ``shard-00001/``, ….
        options: What the user says; units and keys are fixed, so a contradicting one is
            refused. ``where`` compares fields, ``name`` and ``level``.
        units: Receives quantity -> unit and why.

    Raises:
        ValueError: A file is damaged, or an option contradicts the dataset.
    """
    dataset = PackedDataset.open(path)
    try:
        _check_options(dataset, options, units)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    ends, begin = dataset.offsets[1:], options.first_row
    while begin < dataset.num_molecules:
        limit = int(dataset.offsets[begin]) + _MAX_ATOMS
        end = min(
            max(int(np.searchsorted(ends, limit, side="right")), begin + 1),
            begin + _MAX_MOLECULES,
            dataset.num_molecules,
        )
        piece = _piece(dataset, np.arange(begin, end), options)
        if len(piece.n_atoms):
            yield piece
        begin = end


def count_packed(path: Path) -> int | None:
    """Number of molecules; None for a dataset that cannot be opened."""
    try:
        return PackedDataset.open(path).num_molecules
    except ValueError:
        return None  # reading it says what is wrong


def _check_options(
    dataset: PackedDataset, options: ReadOptions, units: dict[str, str]
) -> None:
    choice = UnitChoice(options, units, declared=_UNITS, defaults={})
    for name in ("positions", *LABELS):
        if name in dataset.fields and (name == "positions" or name in dataset.labels):
            choice.factor(name, name)
    known = (*_KEYS, *sorted(dataset.fields - set(_KEYS.values())))
    for key in options.where:
        if key not in known or (key in FIELDS and FIELDS[key].per_atom):
            raise ValueError(
                f"--where {key}={options.where[key]}: no such key; present: "
                f"{', '.join(k for k in known if not _per_atom(k))}"
            )


def _per_atom(key: str) -> bool:
    return key in FIELDS and FIELDS[key].per_atom


def _piece(dataset: PackedDataset, rows: Array, options: ReadOptions) -> Molecules:
    first, last = int(dataset.offsets[rows[0]]), int(dataset.offsets[rows[-1] + 1])
    values: dict[str, Array] = {}
    absent: dict[str, Array] = {}
    sizes = dataset.n_atoms[rows]
    starts = np.cumsum(sizes) - sizes
    for name in sorted(dataset.fields - {"level", "group"}):
        taken = np.arange(first, last) if FIELDS[name].per_atom else rows
        values[name] = dataset.take(name, taken)
        if name in LABELS or name in ("cell", "spin_multiplicity"):
            gone = np.isnan(values[name].reshape(len(taken), -1)).any(axis=1)
            if FIELDS[name].per_atom:
                gone = np.logical_or.reduceat(gone, starts)
            if np.any(gone):
                absent[name] = np.asarray(gone)
    names = _words(dataset.groups, dataset.take("group", rows))
    levels = _words(dataset.levels, dataset.take("level", rows))
    if options.level:
        levels = np.full(len(rows), options.level)
    found = Molecules(rows, sizes, values, names, levels, absent)
    chosen = np.ones(len(rows), dtype=bool)
    for key, wanted in options.where.items():
        column = {"name": names, "level": levels}.get(key)
        column = values[key] if column is None else column
        chosen &= matches(column, wanted)
    return found if chosen.all() else found.keep(chosen)


def _words(words: tuple[str, ...], indices: Array) -> Array:
    """The word behind each index, empty where it is -1."""
    return np.array([*words, ""])[indices]
