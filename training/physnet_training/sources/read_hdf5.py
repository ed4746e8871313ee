"""Molecules out of HDF5 files: groups of arrays, read in slices."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_training.sources.array_pieces import read_pieces
from physnet_training.sources.array_table import ArrayTable, Definition, count_molecules
from physnet_training.sources.array_values import Rows
from physnet_training.sources.hdf5_layouts import known_state, recognise
from physnet_training.sources.molecules import Molecules, ReadOptions, gather
from physnet_training.sources.naming import ALIASES, find_keys

Array = NDArray[Any]
_NEEDED = ("atomic_numbers", "positions")


def read_hdf5(
    path: Path, options: ReadOptions, units: dict[str, str]
) -> Iterator[Molecules]:
    """Molecules of an HDF5 file, group after group in the order of their names.

    SPICE, ANI and AIMNet files are recognised by their keys and bring their units; of
    others the units stand in attributes or are asked for. Rows are counted over all
    groups. Molecules are named after their group where a group holds one composition.

    Args:
        path: The file.
        options: What the user says.
        units: Receives quantity -> the unit taken and why.

    Raises:
        ValueError: As for ``read_npz``; the message names the group too.
    """
    h5py = _h5py(path)
    try:
        with h5py.File(path, "r") as file:
            yield from gather(_molecules(path, file, options, units=units))
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be read as HDF5: {error}; it is truncated or damaged, "
            "export it again"
        ) from error


def count_hdf5(path: Path) -> int | None:
    """Number of molecules in all groups; None where their shapes do not say."""
    h5py = _h5py(path)
    try:
        with h5py.File(path, "r") as file:
            return sum(
                _count(arrays, recognise(arrays, ReadOptions()), ReadOptions())
                for _, arrays in _tables(file)
            )
    except (OSError, RuntimeError, ValueError):
        return None  # reading it says what is wrong


def _h5py(path: Path) -> Any:
    try:
        import h5py  # an extra: reading other formats does not need it
    except ImportError as error:
        raise ValueError(
            f"{path}: reading HDF5 needs h5py; install physnet-ase[train]"
        ) from error
    return h5py


def _molecules(
    path: Path, file: Any, options: ReadOptions, *, units: dict[str, str]
) -> Iterator[Molecules]:
    """Pieces of every group, none larger than a piece may be."""
    row, found = 0, False
    for name, arrays in _tables(file):
        definition = recognise(arrays, options)
        if not any(_holds(quantity, arrays, options) for quantity in _NEEDED):
            continue  # something else, such as metadata
        found = True
        try:
            count = _count(arrays, definition, options)
            first, row = options.first_row - row, row + count
            if count == 0 or first >= count:
                continue
            for quantity, array in known_state(arrays, definition, count).items():
                if not find_keys(quantity, arrays, options.keys):
                    arrays[quantity] = array
            if _one_composition(arrays, definition, options):
                arrays.setdefault("name", np.full(count, name.rpartition("/")[2]))
            table = ArrayTable(arrays, options, units, definition=definition)
            for piece in read_pieces(table, max(first, 0), row - count):
                yield _with_labels(piece) if definition.nan_is_missing else piece
        except ValueError as error:
            raise ValueError(f"{path}, group {name}: {error}") from error
    if not found:
        raise ValueError(
            f"{path}: no group holds atomic numbers and positions; name their keys "
            "with --key atomic_numbers=NAME, --key positions=NAME"
        )


def _holds(quantity: str, arrays: Mapping[str, Rows], options: ReadOptions) -> bool:
    """Whether a group has a key that could be this quantity."""
    names = (*ALIASES[quantity], options.keys.get(quantity))
    return any(name in arrays for name in names)


def _one_composition(
    arrays: Mapping[str, Rows], definition: Definition, options: ReadOptions
) -> bool:
    """Whether a group holds geometries of one molecule."""
    keys = find_keys("atomic_numbers", arrays, _chosen(arrays, definition, options))
    return bool(keys) and len(arrays[keys[0]].shape) == 1


def _with_labels(piece: Molecules) -> Molecules:
    """Without the molecules that have neither energy nor forces."""
    none = np.zeros(len(piece.n_atoms), dtype=bool)
    gone = [
        piece.absent.get(name, none)
        for name in ("energy", "forces")
        if name in piece.values
    ]
    return piece.keep(~np.logical_and.reduce(gone)) if gone else piece


def _count(
    arrays: Mapping[str, Rows], definition: Definition, options: ReadOptions
) -> int:
    """Molecules of a group; none where all its arrays are empty."""
    chosen = _chosen(arrays, definition, options)
    keys = [
        find_keys(quantity, arrays, chosen) for quantity in ("positions", "n_atoms")
    ]
    positions, n_atoms = (found[0] if found else None for found in keys)
    if positions is not None and arrays[positions].shape[0] == 0:
        return 0
    if positions is None:
        return 1  # the table says what is missing
    return count_molecules(arrays, positions, n_atoms)


def _chosen(
    arrays: Mapping[str, Rows], definition: Definition, options: ReadOptions
) -> dict[str, str]:
    """Keys by the user's choice, else by definition where they are there."""
    known = {q: k for q, k in definition.keys.items() if k in arrays}
    return {**known, **options.keys}


def _tables(group: Any) -> Iterator[tuple[str, dict[str, Rows]]]:
    """Every group that holds arrays, itself included, with its arrays."""
    import h5py

    items = {key: group[key] for key in group}
    arrays = {
        key: _Text(item) if h5py.check_string_dtype(item.dtype) else item
        for key, item in items.items()
        if isinstance(item, h5py.Dataset)
    }
    if any(len(array.shape) for array in arrays.values()):
        declared = {
            key: str(items[key].attrs["units"])
            for key in arrays
            if "units" in items[key].attrs
        }
        if declared or "units" not in arrays:
            arrays["units"] = np.array(json.dumps(declared))
        yield group.name, arrays
    for item in items.values():
        if isinstance(item, h5py.Group):
            yield from _tables(item)


class _Text:
    """A dataset of strings, read as NumPy text."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype = np.dtype("U")

    def __getitem__(self, rows: Any) -> Array:
        return np.asarray(self._dataset.asstr()[rows], dtype=str)
