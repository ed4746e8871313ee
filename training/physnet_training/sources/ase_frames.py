"""Molecules out of ASE's Atoms, whatever file they come from."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from physnet_training.sources.array_values import matches, stress_from_virial, voigt
from physnet_training.sources.molecules import Molecules, ReadOptions, gather
from physnet_training.sources.naming import (
    ALIASES,
    LABEL_QUANTITIES,
    find_all_keys,
    unit_suffix,
)
from physnet_training.sources.unit_choice import UnitChoice
from physnet_training.storage.layout import FIELDS

Array = NDArray[Any]

_CHUNK = 2000  # frames joined to one piece
_DEFAULTS = {  # the convention of ASE
    "energy": "eV",
    "forces": "eV/angstrom",
    "stress": "eV/angstrom^3",
    "virial": "eV",
    "dipole": "e*angstrom",
    "positions": "angstrom",
    "REF_energy": "eV",
    "REF_forces": "eV/angstrom",
}
_STATE = ("total_charge", "spin_multiplicity")


class FrameReader:
    """Turns Atoms into molecules, with the same keys and units for all of a file.

    Args:
        options: What the user says.
        units: Receives quantity -> the unit taken and why.
    """

    def __init__(self, options: ReadOptions, units: dict[str, str]) -> None:
        self.options = options
        self._choice = UnitChoice(options, units, declared={}, defaults=_DEFAULTS)
        self._length = self._choice.factor("positions", "positions")
        self._known: dict[frozenset[str], dict[str, list[str]]] = {}

    def read(
        self, row: int, atoms: Atoms, more: Mapping[str, Any] | None = None
    ) -> Molecules | None:
        """What one frame says, in internal units; None if it is not wanted.

        Forces are those of the attached results, so that no constraint changes them.

        Args:
            row: 0-based number of the frame in its file.
            atoms: The frame; its calculator holds results.
            more: What the file says besides ``atoms.info``.

        Raises:
            ValueError: A shape is wrong, a unit missing, or two keys contradict.
        """
        results = atoms.calc.results if atoms.calc is not None else {}
        said = {**atoms.info, **(more or {})}
        # A file may keep what was a result as plain information too.
        found = {**atoms.arrays, **said, **results}
        if len(atoms) == 0:
            raise ValueError("it has no atoms; remove the frame")
        wanted = self.options.where.items()
        if not all(key in said and np.all(matches(said[key], v)) for key, v in wanted):
            return None
        keys = self._keys(found)
        values: dict[str, Array] = {
            "atomic_numbers": atoms.numbers,
            "positions": atoms.positions * self._length,
            "pbc": np.asarray(atoms.pbc, dtype=np.uint8)[None],
        }
        if atoms.pbc.any():
            values["cell"] = atoms.cell.array[None] * self._length
        for quantity in LABEL_QUANTITIES:
            for key in keys[quantity]:
                name, label = self._label(quantity, key, found=found, atoms=atoms)
                values[name] = label
        for quantity in _STATE:
            if keys[quantity]:
                values[quantity] = _agreeing(quantity, keys[quantity], found)[None]
        return Molecules(
            np.array([row]),
            np.array([len(atoms)], dtype=np.int32),
            values,
            np.array([str(said.get("name", ""))]),
            np.array([self.options.level or _level(keys["energy"], said)]),
        )

    def _keys(self, found: Mapping[str, Any]) -> dict[str, list[str]]:
        """Quantity -> keys; looked up once for all frames that say the same things."""
        present = frozenset(found)
        if present not in self._known:
            keys = find_all_keys(_QUANTITIES, found, self.options.keys)
            self._known[present] = keys
        return self._known[present]

    def _label(
        self, quantity: str, key: str, *, found: Mapping[str, Any], atoms: Atoms
    ) -> tuple[str, Array]:
        """Field and values of a label; per-molecule ones with a leading 1."""
        factor = self._choice.factor(quantity, key)
        if quantity in ("stress", "virial"):
            tensor = _tensor(key, found[key]) * factor
            if quantity == "virial":
                if atoms.cell.rank < 3:
                    raise ValueError(f"{key} is a virial, but there is no volume")
                cell = atoms.cell.array[None] * self._length
                return "stress", stress_from_virial(tensor, cell)
            return "stress", tensor
        name = "forces" if quantity == "gradient" else quantity
        if FIELDS[name].per_atom:
            shape = (len(atoms), *FIELDS[name].shape)
            return name, _numbers(key, found[key], shape, name=name) * factor
        return name, _numbers(key, found[key], FIELDS[name].shape, name=name)[
            None
        ] * factor


_QUANTITIES = tuple(q for q in ALIASES if q in LABEL_QUANTITIES or q in _STATE)


def join_frames(frames: Iterator[Molecules | None]) -> Iterator[Molecules]:
    """Frames that are wanted, joined to pieces."""
    return gather((frame for frame in frames if frame is not None), _CHUNK)


def _level(energy: list[str], said: Mapping[str, Any]) -> str:
    """The level of theory that a frame names."""
    level = str(said.get("level_of_theory", ""))
    level = level or (unit_suffix("energy", energy[0])[1] if energy else "")
    if not level and "method" in said and "basis" in said:
        level = f"{said['method']}/{said['basis']}"
    return level


def _numbers(key: str, value: Any, shape: tuple[int, ...], *, name: str) -> Array:
    array = np.asarray(value)
    if array.shape != shape or array.dtype.kind not in "iuf":
        raise ValueError(
            f"{key} is {array.dtype} of shape {array.shape}, expected numbers of "
            f"shape {shape} as {name}"
        )
    return array


def _tensor(key: str, value: Any) -> Array:
    """Six components in ASE's order. (1, 6)."""
    array = np.asarray(value)
    if array.shape not in ((6,), (9,), (3, 3)) or array.dtype.kind not in "iuf":
        raise ValueError(
            f"{key} is {array.dtype} of shape {array.shape}, expected 6 numbers (xx "
            "yy zz yz xz xy) or 3 x 3"
        )
    return voigt(array[None])


def _agreeing(quantity: str, keys: list[str], found: Mapping[str, Any]) -> Array:
    """A charge or multiplicity that all its keys agree on."""
    values = [_numbers(key, found[key], (), name=quantity) for key in keys]
    if any(value != values[0] for value in values):
        said = ", ".join(f"{k} = {v}" for k, v in zip(keys, values, strict=True))
        raise ValueError(
            f"{said} contradict each other; choose with --key {quantity}={keys[0]}"
        )
    return values[0]
