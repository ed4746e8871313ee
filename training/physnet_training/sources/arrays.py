"""Named arrays, padded or ragged, of any file: what they mean, and their molecules."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from ase.data import atomic_numbers as NUMBER_OF
from ase.data import chemical_symbols
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.quantities import QUANTITIES
from physnet_ase.state import state_key
from physnet_training.sources.keys import (
    STATE,
    Reading,
    ReadOptions,
    UnitChoice,
    check_unused,
    competing,
    field_of,
    find_all_keys,
    level_columns,
    level_of,
    meaning,
    sought,
    trainable,
)

Array = NDArray[Any]

MAX_MOLECULES = 20_000
"""Molecules in one batch."""
MAX_BYTES = 1 << 25
"""Bytes of the source in one batch, unless a single molecule has more."""
_ISOTOPES = {"D": "H", "T": "H"}
_LABELLED = re.compile(r"([A-Z][a-z]?)(?:\d+|_.*)")
_TENSORS = ("stress", "virial")
_UNIT_KEYS = ("e_unit", "r_unit")


class Rows(Protocol):
    """An array on disk or in memory, of which rows can be taken."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As of a NumPy array."""

    @property
    def dtype(self) -> Any:
        """As of a NumPy array."""

    def __getitem__(self, rows: Any, /) -> Any:
        """A slice of rows, or everything for ``()``."""


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
        complete: What else a file of this format may hold is known to be no label that
            anybody misses.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    level: str = ""
    facts: tuple[str, ...] = ()
    nan_is_missing: bool = False
    complete: bool = False


class ArrayTable:
    """The arrays of one file or group, looked up and checked before they are read.

    Attributes:
        arrays: Key -> array, without those that the user ignores.
        keys: Quantity -> the keys that hold it, none where there is none.
        factors: Quantity -> factor to the internal unit.
        padded: Whether positions have the shape (molecules, atoms, 3).
        count: Number of molecules.
        num_atoms: Number of atoms of ragged arrays.
        level: Level of theory by the file's format or the name of its energy.
        level_keys: Keys that say the level of theory of all or of each molecule.

    Args:
        arrays: Key -> array; only shapes and a few words are looked at.
        options: What the user says.
        reading: Receives units, and keys that are not used.
        definition: What the format says.

    Raises:
        ValueError: A key or a unit is missing, a shape is wrong, or a key looks like a
            label and is not read.
    """

    def __init__(
        self,
        arrays: Mapping[str, Rows],
        options: ReadOptions,
        reading: Reading,
        *,
        definition: Definition | None = None,
    ) -> None:
        for key in options.ignore:
            if key in arrays and key not in reading.ignored:
                reading.ignored.append(key)
        self.arrays = {k: a for k, a in arrays.items() if k not in options.ignore}
        self.options = options
        self.definition = definition or Definition()
        self.keys = self._find_keys()
        for wanted in ("atomic_numbers", "positions"):
            if not self.keys[wanted]:
                raise ValueError(
                    f"no {wanted}: expected one of {', '.join(sought()[wanted])}, "
                    f"present are {', '.join(self.arrays)}; name the key with --key "
                    f"{wanted}=NAME"
                )
        self.padded = len(self.shape("positions")) == 3
        self.count = count_molecules(
            self.arrays, self.key("positions"), self.key("n_atoms")
        )
        self.num_atoms = 0 if self.padded else self.shape("positions")[0]
        self._drop_other_things()
        choice = UnitChoice(
            options,
            reading,
            declared={**self.definition.units, **_declared_units(self.arrays)},
            defaults=self.definition.defaults,
        )
        self.factors = {
            quantity: choice.factor(quantity, self.keys[quantity][0])
            for quantity in ("positions", *trainable())
            if self.keys[quantity]
        }
        self._check_shapes()
        self.level_keys = level_columns(self.arrays, options)
        named = meaning(self.keys["energy"][0]) if self.keys["energy"] else None
        self.level = (named.level if named else "") or self.definition.level
        self._check_unused(reading)

    def key(self, quantity: str) -> str | None:
        """The key of a quantity, the first of several that must agree."""
        return self.keys[quantity][0] if self.keys[quantity] else None

    def shape(self, quantity: str) -> tuple[int, ...]:
        """Shape of the array that holds a quantity."""
        return tuple(self.arrays[self.keys[quantity][0]].shape)

    def _find_keys(self) -> dict[str, list[str]]:
        known = {q: k for q, k in self.definition.keys.items() if k in self.arrays}
        chosen = {**known, **self.options.keys}
        chosen.pop("level", None)
        keys = find_all_keys(sought(), self.arrays, chosen)
        for quantity, several in keys.items():
            if len(several) > 1 and quantity not in STATE:
                raise competing(quantity, several)
        return keys

    def _drop_other_things(self) -> None:
        """Arrays under one letter, such as S and M, may be no state at all."""
        for quantity in STATE:
            if quantity not in self.options.keys:
                self.keys[quantity] = [
                    key
                    for key in self.keys[quantity]
                    if len(key) > 1 or self.arrays[key].shape in self._per_molecule()
                ]

    def _per_molecule(self) -> list[tuple[int, ...]]:
        """Shapes of one number for each molecule, or one for all."""
        return [(self.count,), (self.count, 1), ()]

    def _check_unused(self, reading: Reading) -> None:
        used = {key for keys in self.keys.values() for key in keys}
        used |= {*self.level_keys, *self.options.where, "units", *_UNIT_KEYS}
        unused = {key: a for key, a in self.arrays.items() if key not in used}
        atoms = self.shape("positions")[:-1]
        vectors = [k for k, a in unused.items() if tuple(a.shape) == (*atoms, 3)]
        if self.definition.complete:
            reading.unused += [key for key in unused if key not in reading.unused]
            return
        kinds = {key: np.empty(0, array.dtype) for key, array in unused.items()}
        check_unused(kinds, vectors, self.options, reading)

    def _check_shapes(self) -> None:
        numbers, positions = self.shape("atomic_numbers"), self.shape("positions")
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
            self._check_words(self.keys["name"][0], self._per_molecule())
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
        spec, array = QUANTITIES[field_of(quantity)], self.arrays[key]
        shapes = [spec.shape]
        if quantity in _TENSORS:
            shapes = [(6,), (9,), (3, 3)]
        elif quantity == "cell":
            shapes = [(3, 3), (9,)]
        lead: tuple[int, ...] = (self.count,)
        if spec.per_atom:
            lead = self.shape("positions")[:2] if self.padded else (self.num_atoms,)
        expected = [(*lead, *shape) for shape in shapes]
        if spec.shape == ():
            expected.append((*lead, 1))
        if quantity in STATE:
            expected.append(())
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


def plain_text(values: Array) -> Array:
    """Bytes as text; anything else as it is."""
    return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values


def matches(values: Any, wanted: str) -> Array:
    """Where values are what the user asked for; numbers are compared as numbers."""
    array = plain_text(np.asarray(values))
    if array.dtype.kind in "iuf":
        try:
            return np.asarray(array == float(wanted))
        except ValueError:
            return np.zeros(array.shape, dtype=bool)
    return np.asarray(array.astype(str) == wanted)


def _element_numbers(values: Array, key: str) -> Array:
    """Atomic numbers, also from element symbols."""
    if values.dtype.kind not in "SU":
        return values
    symbols, inverse = np.unique(plain_text(values), return_inverse=True)
    for symbol in symbols:
        if symbol and symbol not in NUMBER_OF:
            try:
                remedy = f"; write {element_of(str(symbol))}"
            except KeyError:
                remedy = ""
            raise ValueError(
                f"{key} holds {str(symbol)!r}, which is no element symbol{remedy}"
            )
    numbers = np.array([NUMBER_OF[s] if s else 0 for s in symbols.tolist()])
    return numbers[inverse].reshape(values.shape)


def element_of(label: str) -> str:
    """The element of a label: an isotope, a number, or a symbol with a suffix.

    Raises:
        KeyError: There is no telling which element it is.
    """
    if label in _ISOTOPES:
        return _ISOTOPES[label]
    if label.isdigit() and 0 < int(label) < len(chemical_symbols):
        return chemical_symbols[int(label)]
    found = _LABELLED.fullmatch(label)
    if found and found[1] in NUMBER_OF:
        return found[1]
    raise KeyError(label)


def _declared_units(arrays: Mapping[str, Rows]) -> dict[str, str]:
    """Key -> unit: the JSON object under ``units``; sGDML's ``e_unit``, ``r_unit``."""
    declared = {}
    if set(_UNIT_KEYS) <= set(arrays):  # Chmiela et al., sgdml.org
        words = (plain_text(np.asarray(arrays[key][()])) for key in _UNIT_KEYS)
        energy, length = (str(word.reshape(-1)[0]) for word in words)
        declared = {"E": energy, "F": f"{energy}/{length}", "R": length}
    if "units" not in arrays:
        return declared
    text = arrays["units"][()]
    try:
        stated = json.loads(str(text))
        return declared | {str(key): str(unit) for key, unit in stated.items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"units must be a JSON object of key: unit, got {text!r}"
        ) from error


def voigt(tensor: Array) -> Array:
    """Symmetric tensors (n, 6), (n, 9) or (n, 3, 3) as xx yy zz yz xz xy. (n, 6)."""
    if tensor.shape[1:] == (6,):
        return tensor
    full = tensor.reshape(len(tensor), 3, 3)
    full = (full + full.swapaxes(1, 2)) / 2
    return full[:, (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]


def stress_from_virial(virial: Array, cells: Array) -> Array:
    """Stress -W/V in ASE's sign and order, from virials W in eV. (n, 6), eV/Å³.

    NaN where there is no cell, since the volume is not known there.
    """
    volume = np.abs(np.linalg.det(cells))[:, None]
    known = volume > 0
    return np.where(known, -voigt(virial) / np.where(known, volume, 1.0), np.nan)


def read_batches(
    table: ArrayTable, first_row: int = 0, offset: int = 0
) -> Iterator[Molecules]:
    """The molecules of a table, those the user wants; its arrays are read forward.

    Args:
        table: The arrays.
        first_row: First row to read, counted in the table.
        offset: Number of the table's first row in its file.

    Raises:
        ValueError: The arrays contradict each other; the message names the molecule.
    """
    bounds = _padded_bounds if table.padded else _ragged_bounds
    for begin, sizes, first_atom in bounds(table, first_row, offset):
        molecules = _Batch(table, begin, sizes, first_atom, offset).molecules()
        if len(molecules):
            yield molecules


def _row_bytes(table: ArrayTable, quantities: Iterable[str]) -> int:
    """Bytes of one row of all arrays of some quantities."""
    arrays = [table.arrays[key] for name in quantities for key in table.keys[name]]
    sizes = [int(np.prod(a.shape[1:])) * a.dtype.itemsize for a in arrays]
    return max(sum(sizes), 1)


def _padded_bounds(
    table: ArrayTable, first_row: int, offset: int
) -> Iterator[tuple[int, Array, int]]:
    """First row of each batch and the atoms of its molecules."""
    fitting = MAX_BYTES // _row_bytes(table, table.keys)
    step = int(np.clip(fitting, 1, MAX_MOLECULES))
    width = table.shape("positions")[1]
    for begin in range(first_row, table.count, step):
        end = min(begin + step, table.count)
        if table.keys["n_atoms"]:
            yield begin, _sizes(table, begin, end, offset=offset), 0
        else:
            yield begin, np.full(end - begin, width, np.int32), 0


def _ragged_bounds(
    table: ArrayTable, first_row: int, offset: int
) -> Iterator[tuple[int, Array, int]]:
    """First row, atoms of each molecule and first atom of each batch."""
    first_atom = _atoms_before(table, first_row, offset)
    known = [name for name in table.keys if field_of(name) in QUANTITIES]
    per_atom = [name for name in known if QUANTITIES[field_of(name)].per_atom]
    limit = max(MAX_BYTES // _row_bytes(table, per_atom), 1)
    for begin in range(first_row, table.count, MAX_MOLECULES):
        end = min(begin + MAX_MOLECULES, table.count)
        sizes = _sizes(table, begin, end, offset=offset)
        ends, start = np.cumsum(sizes, dtype=np.int64), 0
        while start < len(sizes):
            done = int(ends[start - 1]) if start else 0
            stop = int(np.searchsorted(ends, done + limit, side="right"))
            stop = max(stop, start + 1)
            yield begin + start, sizes[start:stop], first_atom + done
            start = stop
        first_atom += int(ends[-1])


def _sizes(table: ArrayTable, begin: int, end: int, *, offset: int) -> Array:
    """``n_atoms`` of some rows. int32."""
    sizes = np.asarray(table.arrays[table.keys["n_atoms"][0]][begin:end]).reshape(-1)
    if (sizes < 1).any():
        row = int(np.argmax(sizes < 1))
        raise ValueError(
            f"molecule {offset + begin + row} (0-based) has n_atoms {sizes[row]}; it "
            "must be a whole number of at least 1"
        )
    return sizes.astype(np.int32)


def _atoms_before(table: ArrayTable, first_row: int, offset: int) -> int:
    """Number of atoms before a row, after a check that all rows sum to all atoms."""
    total = before = 0
    for begin in range(0, table.count, MAX_MOLECULES):
        end = min(begin + MAX_MOLECULES, table.count)
        sizes = _sizes(table, begin, end, offset=offset).astype(np.int64)
        before += int(sizes[: max(first_row - begin, 0)].sum())
        total += int(sizes.sum())
    if total != table.num_atoms:
        raise ValueError(
            f"n_atoms sums to {total}, but there are positions of {table.num_atoms} "
            "atoms"
        )
    return before


class _Batch:
    """Some consecutive molecules of a table, in internal units."""

    def __init__(
        self, table: ArrayTable, begin: int, sizes: Array, first_atom: int, offset: int
    ) -> None:
        self.table = table
        self.rows = slice(begin, begin + len(sizes))
        self.atoms = slice(first_atom, first_atom + int(sizes.sum(dtype=np.int64)))
        self.n_atoms = sizes
        self.first = offset + begin
        self.mask: Array | None = None  # where padded arrays hold atoms, unless all do
        self.numbers = self._numbers()

    def molecules(self) -> Molecules:
        """What the arrays say of them, without those the user does not want."""
        table, count = self.table, len(self.n_atoms)
        length = table.factors["positions"]
        values = {
            "atomic_numbers": self.numbers,
            "positions": _times(self._per_atom(table.keys["positions"][0]), length),
        }
        for name in STATE:
            if table.keys[name]:
                values[name] = self._state(name)
        for name in ("cell", "pbc"):
            if table.keys[name]:
                values[name] = self._rows(table.keys[name][0])
        if "cell" in values:
            values["cell"] = _times(values["cell"].reshape(count, 3, 3), length)
            if "pbc" not in values:  # as ASE has it; a cell of zeros is none
                periodic = np.any(values["cell"], axis=(1, 2))
                values["pbc"] = np.repeat(np.reshape(periodic, (-1, 1)), 3, axis=1)
        for quantity in trainable():
            if table.keys[quantity]:
                values[field_of(quantity)] = self._label(quantity, values)
        name_key = table.key("name")
        found = Molecules(
            self.n_atoms,
            values,
            np.arange(self.first, self.first + count),
            None if name_key is None else self._words(name_key),
            self._levels(),
            self._absent(values),
            table.definition.facts,
        )
        chosen = np.ones(count, dtype=bool)
        for key, wanted in table.options.where.items():
            chosen &= matches(self._one_each(key), wanted)
        return found if chosen.all() else found.keep(chosen)

    def _label(self, quantity: str, values: dict[str, Array]) -> Array:
        key, spec = self.table.keys[quantity][0], QUANTITIES[field_of(quantity)]
        found = self._per_atom(key) if spec.per_atom else self._rows(key)
        if not spec.per_atom and quantity not in _TENSORS:
            found = found.reshape(len(found), *spec.shape)
        found = _times(found, self.table.factors[quantity])
        if quantity == "virial":
            return stress_from_virial(found, values["cell"])
        return voigt(found) if quantity == "stress" else found

    def _words(self, key: str) -> Array:
        """One word for each molecule, or one for all."""
        return plain_text(self._one_each(key)).astype(str)

    def _levels(self) -> Array | None:
        """Level of theory of each molecule, None where nothing says it."""
        columns = {key: self._words(key) for key in self.table.level_keys}
        found = level_of(columns, self.table.level, self.table.options)
        if isinstance(found, str):
            return np.full(len(self.n_atoms), found) if found else None
        return found

    def _absent(self, values: dict[str, Array]) -> dict[str, Array]:
        """Labels that are NaN for whole molecules, where the format means that."""
        if not self.table.definition.nan_is_missing:
            return {}
        absent: dict[str, Array] = {}
        for quantity in trainable():
            name = field_of(quantity)
            if name not in values:
                continue
            rows = values[name].reshape(len(values[name]), -1)
            gone = np.asarray(np.isnan(rows).any(axis=1))
            if QUANTITIES[name].per_atom:
                first = np.cumsum(self.n_atoms) - self.n_atoms
                gone = np.logical_or.reduceat(gone, first)
            if gone.any():
                absent[name] = gone
        return absent

    def _state(self, name: str) -> Array:
        """Charges or multiplicities; several keys must say the same, 2S as 2S+1."""
        keys = self.table.keys[name]
        columns = [self._one_each(k) + (state_key(k) == "unpaired") for k in keys]
        for key, column in zip(keys, columns, strict=True):
            if not np.array_equal(columns[0], column):
                row = int(np.argmax(columns[0] != column))
                raise ValueError(
                    f"molecule {self.first + row} (0-based): {keys[0]} is "
                    f"{columns[0][row]} but {key} is {column[row]}; choose with --key "
                    f"{name}={keys[0]}"
                )
        return columns[0]

    def _rows(self, key: str) -> Array:
        return np.asarray(self.table.arrays[key][self.rows])

    def _one_each(self, key: str) -> Array:
        """One value for each molecule, also where there is one for all."""
        array = self.table.arrays[key]
        if array.shape in ((), (1,)):
            one = np.asarray(array[()]).reshape(())
            return np.broadcast_to(one, self.n_atoms.shape)
        return self._rows(key).reshape(-1)

    def _per_atom(self, key: str) -> Array:
        """Rows of an array with one row per atom, without padding."""
        array = self.table.arrays[key]
        if not self.table.padded:
            found = np.asarray(array[self.atoms])
            return found[:, 0] if found.shape[1:] == (1,) else found
        found = np.asarray(array[self.rows])
        width = found.shape[1]
        if found.shape[2:] == (1,):
            found = found[..., 0]
        if self.mask is not None:
            return found[self.mask]
        return found.reshape(len(found) * width, *found.shape[2:])

    def _numbers(self) -> Array:
        """Atomic numbers; in padded arrays they also say where atoms are."""
        key = self.table.keys["atomic_numbers"][0]
        array = self.table.arrays[key]
        if not self.table.padded:
            return _element_numbers(np.asarray(array[self.atoms]), key)
        count = len(self.n_atoms)
        if len(array.shape) == 1:  # one composition for all
            one = _element_numbers(np.asarray(array[()]), key)
            numbers = np.broadcast_to(one, (count, len(one)))
        else:
            numbers = _element_numbers(np.asarray(array[self.rows]), key)
        present = numbers != 0
        counted = np.count_nonzero(present, axis=1).astype(np.int32)
        if not self.table.keys["n_atoms"]:
            self.n_atoms = counted
        if counted.min(initial=0) == numbers.shape[1] == self.n_atoms.min(initial=0):
            return numbers.reshape(-1)
        self.mask = np.arange(numbers.shape[1]) < self.n_atoms[:, None]
        wrong = (self.mask != present).any(axis=1) | (self.n_atoms == 0)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"molecule {self.first + row} (0-based) says {self.n_atoms[row]} atoms "
                f"but its atomic numbers are {numbers[row].tolist()}; padding is 0 and "
                "stands at the end"
            )
        return numbers[self.mask]


def _times(array: Array, factor: float) -> Array:
    """Scaled values, without a copy where nothing changes."""
    return array if factor == 1.0 else array * factor
