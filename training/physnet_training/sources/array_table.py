"""Named arrays, padded or ragged: which is what, in which unit, of which shape."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from physnet_training.sources.array_values import Rows, declared_units, plain_text
from physnet_training.sources.molecules import ReadOptions
from physnet_training.sources.naming import (
    ALIASES,
    LABEL_QUANTITIES,
    find_all_keys,
    unit_suffix,
)
from physnet_training.sources.unit_choice import UnitChoice
from physnet_training.storage.layout import FIELDS

_TENSORS = ("stress", "virial")
FIELD_OF = {"gradient": "forces", "virial": "stress"}
"""Quantity -> the field it becomes, where that has another name."""


@dataclass(frozen=True)
class Definition:
    """What a known format says about its arrays, besides their usual names.

    Attributes:
        keys: Quantity -> key.
        units: Key -> unit, always so.
        defaults: Key -> unit unless the file or the user says otherwise.
        level: Level of theory.
        facts: See ``Molecules.facts``.
        nan_is_missing: NaN in a label means that there is none.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    level: str = ""
    facts: tuple[str, ...] = ()
    nan_is_missing: bool = False


class ArrayTable:
    """The arrays of one file or group, looked up and checked before they are read.

    Attributes:
        keys: Quantity -> the keys that hold it, none where there is none.
        factors: Quantity -> factor to the internal unit.
        padded: Whether positions have the shape (molecules, atoms, 3).
        count: Number of molecules.
        num_atoms: Number of atoms of ragged arrays.
        level: Level of theory, empty where unknown.

    Args:
        arrays: Key -> array; only shapes and a few words are looked at.
        options: What the user says.
        units: Receives quantity -> the unit taken and why.
        definition: What the format says.

    Raises:
        ValueError: A key or a unit is missing, or a shape is wrong.
    """

    def __init__(
        self,
        arrays: Mapping[str, Rows],
        options: ReadOptions,
        units: dict[str, str],
        *,
        definition: Definition | None = None,
    ) -> None:
        self.arrays = arrays
        self.options = options
        self.definition = definition or Definition()
        known = {q: k for q, k in self.definition.keys.items() if k in arrays}
        self.keys = find_all_keys(ALIASES, arrays, {**known, **options.keys})
        for wanted in ("atomic_numbers", "positions"):
            if not self.keys[wanted]:
                raise ValueError(
                    f"no {wanted}: expected one of {', '.join(ALIASES[wanted])}, "
                    f"present are {', '.join(arrays)}; name the key with --key "
                    f"{wanted}=NAME"
                )
        self.padded = len(self._shape("positions")) == 3
        self.count = count_molecules(arrays, self.key("positions"), self.key("n_atoms"))
        self.num_atoms = 0 if self.padded else self._shape("positions")[0]
        choice = UnitChoice(
            options,
            units,
            declared={**self.definition.units, **declared_units(arrays)},
            defaults=self.definition.defaults,
        )
        self.factors = {
            quantity: choice.factor(quantity, self.keys[quantity][0])
            for quantity in ("positions", *LABEL_QUANTITIES)
            if self.keys[quantity]
        }
        self._check_shapes()
        self.level = options.level or self._level()

    def key(self, quantity: str) -> str | None:
        """The key of a quantity, the first of several that must agree."""
        return self.keys[quantity][0] if self.keys[quantity] else None

    def _shape(self, quantity: str) -> tuple[int, ...]:
        return tuple(self.arrays[self.keys[quantity][0]].shape)

    def _level(self) -> str:
        if "level_of_theory" in self.arrays:
            return str(plain_text(np.asarray(self.arrays["level_of_theory"][()])))
        energy = self.key("energy")
        suffix = unit_suffix("energy", energy)[1] if energy else ""
        return suffix or self.definition.level

    def _check_shapes(self) -> None:
        numbers, positions = self._shape("atomic_numbers"), self._shape("positions")
        if self.padded and numbers not in (positions[:2], positions[1:2]):
            raise ValueError(
                f"atomic numbers have shape {numbers}, expected {positions[:2]} as for "
                "the positions"
            )
        for quantity, keys in self.keys.items():
            for key in keys:
                if quantity not in ("atomic_numbers", "n_atoms", "name"):
                    self._check_shape(quantity, key)
        if self.keys["virial"] and not self.keys["cell"]:
            raise ValueError(
                f"{self.keys['virial'][0]} is a virial, but without a cell the volume "
                "is unknown; name the cell with --key cell=NAME"
            )
        if not self.padded and numbers != positions[:1]:
            raise ValueError(
                f"atomic_numbers have shape {numbers}, expected {positions[:1]} for "
                f"{self.count} molecules"
            )
        if self.keys["name"]:
            self._check_words(self.keys["name"][0], [(self.count,), (self.count, 1)])
        for key, wanted in self.options.where.items():
            if key not in self.arrays:
                near = difflib.get_close_matches(key, self.arrays, n=3, cutoff=0.4)
                raise ValueError(
                    f"--where {key}={wanted}: no such key; "
                    f"{'similar' if near else 'present'}: "
                    f"{', '.join(near or self.arrays)}"
                )
            shapes = [(self.count,), (self.count, 1), (1,), ()]
            self._check_words(key, shapes)

    def _check_words(self, key: str, shapes: list[tuple[int, ...]]) -> None:
        """One value for each molecule, or one for all."""
        if tuple(self.arrays[key].shape) not in shapes:
            raise ValueError(
                f"{key} has shape {tuple(self.arrays[key].shape)}, expected {shapes[0]}"
            )

    def _check_shape(self, quantity: str, key: str) -> None:
        spec, array = FIELDS[FIELD_OF.get(quantity, quantity)], self.arrays[key]
        shapes = [spec.shape]
        if quantity in _TENSORS:
            shapes = [(6,), (9,), (3, 3)]
        elif quantity == "cell":
            shapes = [(3, 3), (9,)]
        lead: tuple[int, ...] = (self.count,)
        if spec.per_atom:
            lead = self._shape("positions")[:2] if self.padded else (self.num_atoms,)
        expected = [(*lead, *shape) for shape in shapes]
        if spec.shape == ():
            expected.append((*lead, 1))
        name = quantity if spec.per_atom else key
        if tuple(array.shape) not in expected:
            verb = "have" if spec.per_atom else "has"
            raise ValueError(
                f"{name} {verb} shape {tuple(array.shape)}, expected {expected[0]} for "
                f"{self.count} molecules"
            )
        if array.dtype.kind not in "iufb":
            raise ValueError(f"{key} holds {array.dtype}, expected numbers")


def count_molecules(
    arrays: Mapping[str, Rows], positions: str | None, n_atoms: str | None
) -> int:
    """Number of molecules, by shapes alone.

    Args:
        arrays: Key -> array.
        positions: Key of the positions.
        n_atoms: Key of the atoms per molecule, None where there is none.

    Raises:
        ValueError: The shapes are not those of padded or ragged arrays.
    """
    shape = tuple(arrays[positions].shape) if positions else ()
    count = shape[0] if len(shape) == 3 else 0
    if n_atoms is not None:
        sizes = arrays[n_atoms]
        held = int(np.prod(sizes.shape, dtype=np.int64))
        count = count if len(shape) == 3 else held
        if held != count:
            raise ValueError(f"{held} n_atoms for {count} molecules")
        if sizes.dtype.kind not in "iu" or sizes.shape not in ((count,), (count, 1)):
            raise ValueError(
                f"{n_atoms} is {sizes.dtype} of shape {tuple(sizes.shape)}, expected "
                "one whole number for each molecule"
            )
    elif len(shape) != 3:
        raise ValueError(
            f"positions of shape {shape} are ragged but there is no n_atoms; padded "
            "arrays need (molecules, atoms, 3)"
        )
    if count == 0:
        raise ValueError("zero molecules: there is nothing to convert")
    return count
