"""Molecules out of ASE's Atoms: any frames, ASE trajectories and ASE databases."""

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.io.formats import UnknownFileTypeError
from ase.io.trajectory import Trajectory
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules, gather
from physnet_ase.quantities import QUANTITIES, labels
from physnet_ase.state import state_key, stated_state
from physnet_ase.units import conversion_factor
from physnet_training.sources.arrays import matches, stress_from_virial, voigt
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
    meaning,
    name_of,
    refuse_one_level,
    trainable,
    without_prefix,
)

if TYPE_CHECKING:
    from ase.db.row import AtomsRow

Array = NDArray[Any]

_CHUNK = 2000  # frames joined to one batch
_SAME = 1e-5  # eV, eV/Å, e·Å: what several keys for one label may differ by
_STRUCTURE = ("numbers", "positions")
_INITIAL = ("initial_charges", "initial_magmoms")


class FrameReader:
    """Turns Atoms into molecules, with the same keys and units for all of a file.

    Args:
        options: What the user says.
        reading: Receives units, and keys that are not used.
    """

    def __init__(self, options: ReadOptions, reading: Reading) -> None:
        self.options, self.reading = options, reading
        self._choice = UnitChoice(options, reading, declared={}, defaults=_ase_units())
        self._length = self._choice.factor("positions", "positions")
        self._known: dict[frozenset[Any], dict[str, list[str]]] = {}
        self._first_level: str | None = None
        self._level_keys: list[str] = []

    def read(
        self, atoms: Atoms, row: int, facts: tuple[str, ...] = ()
    ) -> Molecules | None:
        """What one frame says, in internal units; None if it is not wanted.

        Forces are those of the attached results, so that no constraint changes them.

        Args:
            atoms: Its calculator holds results.
            row: 0-based number in its file.
            facts: What the reader had to assume, see ``Molecules.facts``.

        Raises:
            ValueError: A shape is wrong, a unit missing, two keys contradict, or a key
                looks like a label and is not read.
        """
        if len(atoms) == 0:
            raise ValueError("it has no atoms; remove the frame")
        said = _ignoring(atoms, self.options, self.reading)
        for key, wanted in self.options.where.items():
            if key not in atoms.info or not np.all(matches(atoms.info[key], wanted)):
                return None
        keys = self._keys(said, len(atoms))
        values: dict[str, Array] = {
            "atomic_numbers": atoms.numbers,
            "positions": atoms.positions * self._length,
            "pbc": np.asarray(atoms.pbc, dtype=np.uint8)[None],
        }
        if atoms.pbc.any():
            values["cell"] = atoms.cell.array[None] * self._length
        for quantity in trainable():
            if keys[quantity]:
                label = self._agreed(quantity, keys[quantity], said, atoms)
                values[field_of(quantity)] = label
        for name, number in self._state(atoms, said).items():
            if number is not None:
                values[name] = np.array([number])
        return Molecules(
            np.array([len(atoms)], dtype=np.int32),
            values,
            np.array([row]),
            np.array([str(atoms.info.get(self.options.keys.get("name", "name"), ""))]),
            np.array([self._level(keys["energy"], atoms.info)]),
            facts=facts,
        )

    def _keys(self, said: Mapping[str, Any], count: int) -> dict[str, list[str]]:
        """Quantity -> keys; looked up once for all frames that say the same things."""
        present = frozenset(
            (key, _is_array(value)) for key, value in said.items() if type(key) is str
        )
        if present not in self._known:
            shapes = {key: np.shape(said[key]) for key, _ in present}
            shapes = {key: shapes[key] for key in said if key in shapes}
            chosen = {k: v for k, v in self.options.keys.items() if k in trainable()}
            # Energies of atoms, and S or M that is an array, are something else.
            free = [key for key in shapes if not _is_other(key, shapes[key], chosen)]
            keys = find_all_keys(trainable(), free, chosen)
            used = {key for several in keys.values() for key in several}
            used |= {key for key in free if _names_state(key)}
            used |= {*self.options.keys.values(), *self.options.where, "name", "id"}
            levels = level_columns(said, self.options)
            self._level_keys = list(dict.fromkeys([*self._level_keys, *levels]))
            used |= {*levels, *_INITIAL, *_STRUCTURE}
            unused = {key: said[key] for key in shapes if key not in used}
            vectors = [key for key in unused if shapes[key] == (count, 3)]
            self._refuse_units(unused)
            check_unused(unused, vectors, self.options, self.reading)
            self._known[present] = keys
        return self._known[present]

    def _refuse_units(self, unused: Mapping[str, Any]) -> None:
        """A unit behind a number, as in ``energy=-76.4 Eh``, is a word by itself."""
        for key, value in unused.items():
            factor = conversion_factor("energy", key) if value is True else None
            if factor not in (None, 1.0) and not self.options.energy_unit:
                raise ValueError(
                    f"the comment line holds the word {key!r}, a unit; say "
                    f"--energy-unit {key}, or name the energy energy_{key.lower()}"
                )

    def _agreed(
        self, quantity: str, keys: list[str], said: Mapping[str, Any], atoms: Atoms
    ) -> Array:
        """A label that all its keys agree on, in internal units."""
        first = self._label(quantity, keys[0], said[keys[0]], atoms)
        for key in keys[1:]:
            try:
                other = self._label(quantity, key, said[key], atoms)
            except ValueError as error:
                raise competing(quantity, keys) from error
            if not np.allclose(first, other, rtol=0.0, atol=_SAME, equal_nan=True):
                raise competing(quantity, keys)
        return first

    def _label(self, quantity: str, key: str, value: Any, atoms: Atoms) -> Array:
        """Values of a label, per-molecule ones with a leading 1."""
        factor = self._choice.factor(quantity, key)
        if quantity in ("stress", "virial"):
            tensor = _tensor(key, value) * factor
            if quantity == "stress":
                return tensor
            if atoms.cell.rank < 3:
                raise ValueError(f"{key} is a virial, but there is no volume")
            return stress_from_virial(tensor, atoms.cell.array[None] * self._length)
        spec = QUANTITIES[field_of(quantity)]
        shape = (len(atoms), *spec.shape) if spec.per_atom else spec.shape
        array = np.asarray(value)
        if array.shape != shape or array.dtype.kind not in "iuf":
            raise ValueError(
                f"{key} is {array.dtype} of shape {array.shape}, expected numbers of "
                f"shape {shape} as {spec.name}"
            )
        return (array if spec.per_atom else array[None]) * factor

    def _state(self, atoms: Atoms, said: Mapping[str, Any]) -> dict[str, float | None]:
        """Charge and multiplicity: of the keys chosen, else as the calculator does."""
        chosen = {k: v for k, v in self.options.keys.items() if k in STATE}
        state: dict[str, float | None] = {}
        if len(chosen) < len(STATE):
            try:
                stated = stated_state(_without(atoms, chosen.values()))
            except ValueError as error:
                raise ValueError(
                    f"{error}, or say which key to take with --key total_charge=NAME, "
                    "--key spin_multiplicity=NAME"
                ) from error
            state = dict(zip(STATE, stated, strict=True))
        return state | {name: _number(key, said) for name, key in chosen.items()}

    def _level(self, energy: list[str], info: Mapping[str, Any]) -> str:
        """The level of theory that a frame names."""
        keys = self._level_keys
        columns = {key: str(info[key]) for key in keys if key in info}
        named = meaning(energy[0]) if energy else None
        plain = name_of(columns, named.level if named else "")
        if not self.options.level:
            return plain
        first, self._first_level = self._first_level, self._first_level or plain
        if columns and first and first != plain:
            refuse_one_level({next(iter(columns)): [first, plain]}, self.options)
        return self.options.level


def join_frames(frames: Iterator[Molecules | None]) -> Iterator[Molecules]:
    """Frames that are wanted, joined to batches."""
    return gather((frame for frame in frames if frame is not None), _CHUNK)


class _AseUnits(dict[str, str]):
    """ASE's convention: its names of results, in any case, are in its units."""

    def get(self, key: str, default: Any = None) -> Any:
        """The unit of a key, with or without a prefix."""
        return super().get(without_prefix(key).lower(), default)


def _ase_units() -> _AseUnits:
    names = {label.ase_name: label.unit for label in labels() if label.ase_name}
    more = {"free_energy": "eV", "force": "eV/angstrom", "virial": "eV"}
    return _AseUnits({**names, **more, "positions": "angstrom"})


def _ignoring(atoms: Atoms, options: ReadOptions, reading: Reading) -> dict[str, Any]:
    """Everything a frame says but its structure; what is ignored is taken from it."""
    if atoms.calc is None:
        results: dict[str, Any] = {}
    else:
        results = {k: v for k, v in atoms.calc.results.items() if v is not None}
    for key in options.ignore:
        for place in (atoms.info, atoms.arrays, results):
            if key in place and key not in _STRUCTURE:
                if key not in reading.ignored:
                    reading.ignored.append(key)
                del place[key]
    for key in results:
        for place, where in ((atoms.info, "information"), (atoms.arrays, "arrays")):
            if key in place and not _equal(place[key], results[key]):
                raise ValueError(
                    f"{key} is {_short(place[key])} in its {where} but "
                    f"{_short(results[key])} among its calculator's results; keep one "
                    f"of them in the file, or leave both out with --ignore {key}"
                )
    said = {**atoms.arrays, **atoms.info, **results}
    return {key: said[key] for key in said if key not in _STRUCTURE}


def _is_array(value: Any) -> bool:
    """Whether a value is more than a number or a word; quick, for every frame."""
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0


def _equal(one: Any, other: Any) -> bool:
    first, second = np.asarray(one), np.asarray(other)
    if first.shape != second.shape or first.dtype.kind not in "iuf":
        return bool(np.array_equal(first, second))
    return bool(np.allclose(first, second, rtol=0.0, atol=_SAME, equal_nan=True))


def _short(value: Any) -> str:
    array = np.asarray(value)
    return str(value) if array.ndim == 0 else f"an array of shape {array.shape}"


def _is_other(key: str, shape: tuple[int, ...], chosen: Mapping[str, str]) -> bool:
    """Whether a key of a known name holds something of another shape."""
    if key in chosen.values() or not shape:
        return False
    return key == "energies" or (len(key) == 1 and _names_state(key))


def _names_state(key: str) -> bool:
    named = meaning(key)
    return named is not None and named.quantity in STATE


def _without(atoms: Atoms, keys: Collection[str]) -> Atoms:
    """The same atoms without some information, so that it cannot contradict."""
    if not keys:
        return atoms
    copy = atoms.copy()
    for key in keys:
        copy.info.pop(key, None)
    return copy


def _number(key: str, said: Mapping[str, Any]) -> float:
    """The value of a key that was chosen as charge or multiplicity."""
    if key not in said:
        raise ValueError(f"there is no {key!r}, which --key asks for")
    number = np.asarray(said[key])
    if number.shape != () or number.dtype.kind not in "iuf":
        raise ValueError(f"{key} is {said[key]!r}, expected a number")
    return float(number) + (state_key(key) == "unpaired")


def _tensor(key: str, value: Any) -> Array:
    """Six components in ASE's order. (1, 6)."""
    array = np.asarray(value)
    if array.shape not in ((6,), (9,), (3, 3)) or array.dtype.kind not in "iuf":
        raise ValueError(
            f"{key} is {array.dtype} of shape {array.shape}, expected 6 numbers (xx "
            "yy zz yz xz xy) or 3 x 3"
        )
    return voigt(array[None])


_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    EOFError,
    TypeError,
    AttributeError,
    sqlite3.Error,
    UnknownFileTypeError,
    JSONDecodeError,
)
_AT_ONCE = 1000  # database rows held in memory


def read_trajectory(
    path: Path, options: ReadOptions, reading: Reading
) -> Iterator[Molecules]:
    """Frames of an ASE trajectory (``.traj``), in batches.

    Units are ASE's (eV, Å, e·Å) unless the user says otherwise.

    Raises:
        ValueError: The file is damaged, a key is missing, keys contradict, or a shape
            is wrong; the message names the frame, counted from 0.
    """
    return join_frames(_trajectory_frames(path, options, reading))


def read_database(
    path: Path, options: ReadOptions, reading: Reading
) -> Iterator[Molecules]:
    """Rows of an ASE database (``.db``, ``.json``) by ascending id, in batches.

    Charge, multiplicity and further labels are looked for among the key-value pairs and
    in the data of a row. Arguments and errors as for ``read_trajectory``; ``where``
    compares key-value pairs, data and ``id``.
    """
    return join_frames(_database_frames(path, options, reading))


def count_trajectory(path: Path) -> int | None:
    """Number of frames; None for a file that cannot be read."""
    try:
        with closing(Trajectory(path)) as trajectory:
            return len(trajectory)
    except _DAMAGE:
        return None  # reading it says what is wrong


def count_database(path: Path) -> int | None:
    """Number of rows; None for a file that cannot be read."""
    try:
        _check_database(path)
        return int(_connect(path).count())
    except _DAMAGE:
        return None


def _trajectory_frames(
    path: Path, options: ReadOptions, reading: Reading
) -> Iterator[Molecules | None]:
    reader, row = FrameReader(options, reading), options.first_row
    try:
        trajectory = Trajectory(path)
    except _DAMAGE as error:
        raise _unreadable(path, "trajectory", str(error)) from error
    with closing(trajectory):
        for row in range(options.first_row, len(trajectory)):
            try:
                atoms: Atoms = trajectory[row]
            except _DAMAGE as error:
                place = f"frame {row} (0-based): {error}"
                raise _unreadable(path, "trajectory", place) from error
            yield _read(reader, path, atoms, row)


def _database_frames(
    path: Path, options: ReadOptions, reading: Reading
) -> Iterator[Molecules | None]:
    reader, row = FrameReader(options, reading), options.first_row
    while True:
        try:
            _check_database(path)
            with _connect(path) as database:
                # ASE fetches all that a query finds, so ask for a part at a time.
                found = list(database.select(sort="id", limit=_AT_ONCE, offset=row))
            frames = [_row_content(one) for one in found]
        except _DAMAGE as error:
            place = f"row {row} (0-based) or after: {error}"
            raise _unreadable(path, "database", place) from error
        for atoms in frames:
            yield _read(reader, path, atoms, row)
            row += 1
        if len(frames) < _AT_ONCE:
            return


def _connect(path: Path) -> Any:
    """Open a database; imported here, because it brings half a second of SciPy."""
    from ase.db import connect

    if path.suffix.lower() == ".aselmdb":
        try:
            return connect(path, type="aselmdb", readonly=True, use_lock_file=False)
        except ImportError as error:
            raise ValueError(
                f"reading .aselmdb needs the package ase-db-backends ({error}); "
                "install it, or write the rows to a .db or .extxyz file"
            ) from error
    return connect(path, use_lock_file=False)


def _row_content(row: "AtomsRow") -> Atoms:
    """Atoms with results; what else the row says is their information."""
    # ASE answers the sum of the initial charges when asked for the pair "charge".
    stored = vars(row)
    said = {"id": row.id, **{key: stored[key] for key in row.key_value_pairs}}
    for key, value in row.data.items():
        if key in said and not np.array_equal(said[key], value):
            raise ValueError(
                f"{key} is {said[key]!r} among the key-value pairs but {value!r} in "
                f"the data of id {row.id}"
            )
        said[key] = value
    atoms: Atoms = row.toatoms()
    atoms.info.update(said)
    return atoms


def _check_database(path: Path) -> None:
    """Refuse what is no ASE database before ASE would write its tables into it."""
    if path.suffix.lower() != ".db":
        return
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        if ("systems",) not in tables.fetchall():
            raise ValueError("it holds no table of systems")


def _read(reader: FrameReader, path: Path, atoms: Atoms, row: int) -> Molecules | None:
    try:
        return reader.read(atoms, row)
    except ValueError as error:
        raise ValueError(f"{path}: molecule {row} (0-based): {error}") from error


def _unreadable(path: Path, kind: str, what: str) -> ValueError:
    return ValueError(
        f"{path} cannot be read as ASE {kind}: {what}; it is truncated or damaged"
    )
