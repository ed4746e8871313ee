"""Molecules out of named arrays: NPZ (padded or ragged) and HDF5 groups of them."""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_training.layout import FIELDS
from physnet_training.molecules import Molecules, ReadOptions
from physnet_training.naming import ALIASES, LABEL_QUANTITIES, find_keys, unit_suffix
from physnet_training.unit_choice import UnitChoice

Array = NDArray[Any]

_DEFAULTS = {  # the units of PhysNet's own layout
    "E": "eV",
    "F": "eV/angstrom",
    "R": "angstrom",
    "D": "e*angstrom",
}


def read_npz(
    path: Path, options: ReadOptions, units: dict[str, str]
) -> Iterator[Molecules]:
    """Molecules of an NPZ file.

    Two layouts: padded, ``R`` (n, A, 3) with ``Z`` (n, A), as PhysNet and Asparagus
    write it (eV, Å, e·Å by definition); ragged, ``n_atoms`` with flat per-atom arrays.

    Args:
        path: The file.
        options: What the user says.
        units: Receives quantity -> the unit taken and why.

    Raises:
        ValueError: The file is damaged, a key or a unit is missing, or a shape is
            wrong.
    """
    arrays = {}
    try:
        # Opened here, because NumPy leaves a damaged file open.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            if not hasattr(file, "files"):
                raise ValueError("it holds a single array, not named ones (NPZ)")
            for key in file.files:
                arrays[key] = file[key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        # NumPy takes what it does not know for a pickle and tells how to load it anyway
        reason = "no arrays in it" if "allow_pickle" in str(error) else error
        raise ValueError(
            f"{path} cannot be read as NPZ: {reason}; it is truncated, damaged or "
            "holds Python objects: export it again as plain arrays"
        ) from error
    yield _from_arrays(path, arrays, options, units)


def read_hdf5(
    path: Path, options: ReadOptions, units: dict[str, str]
) -> Iterator[Molecules]:
    """Molecules of an HDF5 file: groups of padded arrays; units as attributes.

    Raises:
        ValueError: As for ``read_npz``.
    """
    try:
        import h5py  # an extra: reading other formats does not need it
    except ImportError as error:
        raise ValueError(
            f"{path}: reading HDF5 needs h5py; install physnet-ase[train]"
        ) from error
    try:
        with h5py.File(path, "r") as file:
            for name in file:
                group = file[name]
                if not isinstance(group, h5py.Group):
                    continue
                data = {key: np.asarray(item[()]) for key, item in group.items()}
                declared = {
                    key: str(item.attrs["units"])
                    for key, item in group.items()
                    if "units" in item.attrs
                }
                data["units"] = np.array(json.dumps(declared))
                yield _from_arrays(f"{path}, group {name}", data, options, units)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read as HDF5: {error}; export it again"
        ) from error


def _from_arrays(
    origin: Path | str,
    arrays: dict[str, Array],
    options: ReadOptions,
    units: dict[str, str],
) -> Molecules:
    try:
        table = _Table(arrays, options, units)
        return table.molecules()
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from error


class _Table:
    """The arrays of one file or group, looked up by quantity."""

    def __init__(
        self, arrays: Mapping[str, Array], options: ReadOptions, units: dict[str, str]
    ) -> None:
        self.arrays = arrays
        self.options = options
        self.units = UnitChoice(
            options, units, declared=_declared_units(arrays), defaults=_DEFAULTS
        )
        numbers, positions = self.one("atomic_numbers"), self.one("positions")
        if numbers is None or positions is None:
            wanted = "atomic_numbers" if numbers is None else "positions"
            raise ValueError(
                f"no {wanted}: expected one of {', '.join(ALIASES[wanted])}, present "
                f"are {', '.join(arrays)}; name the key with --key {wanted}=NAME"
            )
        self.numbers, self.positions = arrays[numbers], arrays[positions]
        self.padded = self.positions.ndim == 3
        self._set_sizes()

    def one(self, quantity: str) -> str | None:
        """The key of a quantity, None where there is none."""
        found = find_keys(quantity, self.arrays, self.options.keys)
        return found[0] if found else None

    def molecules(self) -> Molecules:
        """Everything that the file says, in internal units."""
        count = len(self.n_atoms)
        length = self.units.factor("positions", self.one("positions") or "")
        level = str(self.arrays.get("level_of_theory", ""))
        values = {
            "atomic_numbers": self.flat(self.numbers, "atomic_numbers"),
            "positions": self.flat(self.positions, "positions") * length,
        }
        for name in LABEL_QUANTITIES:
            key = self.one(name)
            if key is None:
                continue
            scaled = self.flat(self.arrays[key], name) * self.units.factor(name, key)
            values["forces" if name == "gradient" else name] = scaled
            if name == "energy":
                level = level or unit_suffix("energy", key)[1]
        for name in ("total_charge", "spin_multiplicity", "cell", "pbc"):
            array = self.agreeing(name)
            if array is not None:
                values[name] = array * length if name == "cell" else array
        name_key = self.one("name")
        level = self.options.level or level
        found = Molecules(
            np.arange(count),
            self.n_atoms,
            values,
            None if name_key is None else self.per_molecule(name_key, "name"),
            np.full(count, level) if level else None,
        )
        for key, wanted in self.options.where.items():
            if key not in self.arrays:
                raise ValueError(f"--where {key}={wanted}: no such key")
        chosen = found.rows >= self.options.first_row
        for key, wanted in self.options.where.items():
            chosen &= self.per_molecule(key, key).astype(str) == wanted
        return found if chosen.all() else found.keep(chosen)

    def agreeing(self, name: str) -> Array | None:
        """A per-molecule field; several keys must say the same."""
        keys = find_keys(name, self.arrays, self.options.keys)
        if not keys:
            return None
        first = self.per_molecule(keys[0], name)
        for key in keys[1:]:
            other = self.per_molecule(key, name)
            if not np.array_equal(first, other):
                row = int(np.argmax(first != other))
                raise ValueError(
                    f"molecule {row} (0-based): {keys[0]} is {first[row]} but {key} is "
                    f"{other[row]}; choose with --key {name}={keys[0]}"
                )
        return first

    def per_molecule(self, key: str, name: str) -> Array:
        """An array with one row per molecule; (n, 1) is taken as (n,)."""
        array = self.arrays[key]
        shape = FIELDS[name].shape if name in FIELDS else ()
        expected = (len(self.n_atoms), *shape)
        if array.shape == (*expected, 1):
            array = array[..., 0]
        if array.shape != expected:
            raise ValueError(f"{key} has shape {array.shape}, expected {expected}")
        return array

    def flat(self, array: Array, name: str) -> Array:
        """Per-atom arrays without padding, per-molecule arrays as they are."""
        spec = FIELDS["forces" if name == "gradient" else name]
        if not spec.per_atom:
            return self.per_molecule(self.one(name) or name, name)
        lead = self.mask.shape if self.padded else (int(self.n_atoms.sum()),)
        if array.shape != (*lead, *spec.shape):
            raise ValueError(
                f"{name} have shape {array.shape}, expected {(*lead, *spec.shape)} "
                f"for {len(self.n_atoms)} molecules"
            )
        return array[self.mask] if self.padded else array

    def _set_sizes(self) -> None:
        key = self.one("n_atoms")
        if self.padded:
            if self.numbers.ndim == 1:  # one composition for all
                self.numbers = np.broadcast_to(self.numbers, self.positions.shape[:2])
            if self.numbers.shape != self.positions.shape[:2]:
                raise ValueError(
                    f"atomic numbers have shape {self.numbers.shape}, expected "
                    f"{self.positions.shape[:2]} as for the positions"
                )
            counted = np.count_nonzero(self.numbers, axis=1)
            sizes = counted if key is None else self.arrays[key].reshape(-1)
        elif key is None:
            raise ValueError(
                f"positions of shape {self.positions.shape} are ragged but there is no "
                "n_atoms; padded arrays need (molecules, atoms, 3)"
            )
        else:
            sizes = self.arrays[key]
        if sizes.ndim != 1 or len(sizes) == 0:
            raise ValueError("zero molecules: there is nothing to convert")
        if sizes.dtype.kind not in "iu" or (sizes < 1).any():
            row = int(np.argmin(sizes))
            raise ValueError(
                f"molecule {row} (0-based) has n_atoms {sizes[row]}; it must be a "
                "whole number of at least 1"
            )
        self.n_atoms = sizes.astype(np.int32)
        if self.padded:
            self._set_mask(counted)
        elif int(sizes.sum()) != len(self.positions):
            raise ValueError(
                f"n_atoms sums to {int(sizes.sum())}, but there are positions of "
                f"{len(self.positions)} atoms"
            )

    def _set_mask(self, counted: Array) -> None:
        width = self.positions.shape[1]
        if len(self.n_atoms) != len(counted):
            raise ValueError(
                f"{len(self.n_atoms)} n_atoms for {len(counted)} molecules"
            )
        self.mask = np.arange(width) < self.n_atoms[:, None]
        wrong = (self.mask != (self.numbers != 0)).any(axis=1)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"molecule {row} (0-based) says {self.n_atoms[row]} atoms but its "
                f"atomic numbers are {self.numbers[row].tolist()}; padding is 0 and "
                "stands at the end"
            )


def _declared_units(arrays: Mapping[str, Array]) -> dict[str, str]:
    """The JSON object under the key ``units``, empty where there is none."""
    if "units" not in arrays:
        return {}
    try:
        declared = json.loads(str(arrays["units"]))
        return {str(key): str(unit) for key, unit in declared.items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"units must be a JSON object of key: unit, got {arrays['units']!r}"
        ) from error
