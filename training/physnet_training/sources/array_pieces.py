"""Molecules out of named arrays, in pieces of bounded size."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_training.sources.array_table import FIELD_OF, ArrayTable
from physnet_training.sources.array_values import (
    element_numbers,
    matches,
    plain_text,
    stress_from_virial,
    voigt,
)
from physnet_training.sources.molecules import Molecules
from physnet_training.sources.naming import LABEL_QUANTITIES
from physnet_training.storage.layout import FIELDS

Array = NDArray[Any]

MAX_MOLECULES = 20_000
"""Molecules in one piece."""
MAX_BYTES = 1 << 25
"""Bytes of the source in one piece, unless a single molecule has more."""


def read_pieces(
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
        piece = _Piece(table, begin, sizes, first_atom=first_atom, offset=offset)
        molecules = piece.molecules()
        if len(molecules.n_atoms):
            yield molecules


def _padded_bounds(
    table: ArrayTable, first_row: int, offset: int
) -> Iterator[tuple[int, Array, int]]:
    """First row of each piece and the atoms of its molecules."""
    row_bytes = sum(
        int(np.prod(table.arrays[key].shape[1:])) * table.arrays[key].dtype.itemsize
        for keys in table.keys.values()
        for key in keys
    )
    step = int(np.clip(MAX_BYTES // max(row_bytes, 1), 1, MAX_MOLECULES))
    width = table.arrays[table.keys["positions"][0]].shape[1]
    for begin in range(first_row, table.count, step):
        end = min(begin + step, table.count)
        if table.keys["n_atoms"]:
            yield begin, _sizes(table, begin, end, offset=offset), 0
        else:
            yield begin, np.full(end - begin, width, np.int32), 0


def _ragged_bounds(
    table: ArrayTable, first_row: int, offset: int
) -> Iterator[tuple[int, Array, int]]:
    """First row, atoms of each molecule and first atom of each piece."""
    first_atom = _atoms_before(table, first_row, offset)
    atom_bytes = sum(
        int(np.prod(table.arrays[key].shape[1:])) * table.arrays[key].dtype.itemsize
        for quantity, keys in table.keys.items()
        for key in keys
        if quantity not in ("n_atoms", "name")
        and FIELDS[FIELD_OF.get(quantity, quantity)].per_atom
    )
    limit = max(MAX_BYTES // max(atom_bytes, 1), 1)
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


class _Piece:
    """Some consecutive molecules of a table, in internal units."""

    def __init__(
        self,
        table: ArrayTable,
        begin: int,
        sizes: Array,
        *,
        first_atom: int,
        offset: int,
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
        for name in ("total_charge", "spin_multiplicity", "cell", "pbc"):
            if table.keys[name]:
                values[name] = self._agreeing(name)
        if "cell" in values:
            values["cell"] = _times(values["cell"].reshape(count, 3, 3), length)
        for quantity in LABEL_QUANTITIES:
            if table.keys[quantity]:
                values[FIELD_OF.get(quantity, quantity)] = self._label(quantity, values)
        name_key = table.key("name")
        found = Molecules(
            np.arange(self.first, self.first + count),
            self.n_atoms,
            values,
            None if name_key is None else plain_text(self._per_molecule(name_key, ())),
            np.full(count, table.level) if table.level else None,
            self._absent(values),
            table.definition.facts,
        )
        chosen = np.ones(count, dtype=bool)
        for key, wanted in table.options.where.items():
            chosen &= matches(self._condition(key), wanted)
        return found if chosen.all() else found.keep(chosen)

    def _label(self, quantity: str, values: dict[str, Array]) -> Array:
        key = self.table.keys[quantity][0]
        field = FIELDS[FIELD_OF.get(quantity, quantity)]
        if field.per_atom:
            found = self._per_atom(key)
        elif quantity in ("stress", "virial"):
            found = np.asarray(self.table.arrays[key][self.rows])
        else:
            found = self._per_molecule(key, field.shape)
        found = _times(found, self.table.factors[quantity])
        if quantity == "virial":
            return stress_from_virial(found, values["cell"])
        return voigt(found) if quantity == "stress" else found

    def _absent(self, values: dict[str, Array]) -> dict[str, Array]:
        """Labels that are NaN for whole molecules, where the format means that."""
        if not self.table.definition.nan_is_missing:
            return {}
        absent: dict[str, Array] = {}
        for quantity in LABEL_QUANTITIES:
            name = FIELD_OF.get(quantity, quantity)
            if name not in values:
                continue
            rows = values[name].reshape(len(values[name]), -1)
            gone = np.asarray(np.isnan(rows).any(axis=1))
            if FIELDS[name].per_atom:
                first = np.cumsum(self.n_atoms) - self.n_atoms
                gone = np.logical_or.reduceat(gone, first)
            if gone.any():
                absent[name] = gone
        return absent

    def _agreeing(self, name: str) -> Array:
        """A per-molecule field; several keys must say the same."""
        keys = self.table.keys[name]
        shape = () if name not in ("cell", "pbc") else None
        first = self._per_molecule(keys[0], shape)
        for key in keys[1:]:
            other = self._per_molecule(key, shape)
            if not np.array_equal(first, other):
                row = int(np.argmax(first != other))
                raise ValueError(
                    f"molecule {self.first + row} (0-based): {keys[0]} is {first[row]} "
                    f"but {key} is {other[row]}; choose with --key {name}={keys[0]}"
                )
        return first

    def _per_molecule(self, key: str, shape: tuple[int, ...] | None) -> Array:
        """Rows of an array with one row per molecule; (n, 1) is taken as (n,)."""
        array = np.asarray(self.table.arrays[key][self.rows])
        return array if shape is None else array.reshape(len(self.n_atoms), *shape)

    def _condition(self, key: str) -> Array:
        """What ``--where`` compares: one value for each molecule, or one for all."""
        array = self.table.arrays[key]
        if array.shape in ((), (1,)):
            return np.broadcast_to(
                np.asarray(array[()]).reshape(()), self.n_atoms.shape
            )
        return self._per_molecule(key, ())

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
            return element_numbers(np.asarray(array[self.atoms]), key)
        count = len(self.n_atoms)
        if len(array.shape) == 1:  # one composition for all
            one = element_numbers(np.asarray(array[()]), key)
            numbers = np.broadcast_to(one, (count, len(one)))
        else:
            numbers = element_numbers(np.asarray(array[self.rows]), key)
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
