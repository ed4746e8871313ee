"""Molecules out of DeePMD-kit's NumPy systems, one or a tree of them.

A system is a directory with ``type.raw`` and ``set.*`` directories of ``.npy`` files,
by definition in eV and Å (DeePMD-kit documentation, "System"): ``coord`` (frames,
3 atoms), ``box`` (frames, 9), ``energy``, ``force``, ``virial``. The virial is the
negative stress times the volume. ``type_map.raw`` names the elements, ``nopbc`` marks
open systems, and in the mixed layout ``real_atom_types.npy`` holds the types of each
frame, -1 for none.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers as NUMBER_OF
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules, gather
from physnet_training.sources.arrays import ArrayTable, Definition, Rows, read_batches
from physnet_training.sources.keys import Reading, ReadOptions

Array = NDArray[Any]

_KEYS = {
    "positions": "coord",
    "energy": "energy",
    "forces": "force",
    "virial": "virial",
    "cell": "box",
    "atomic_numbers": "real_atom_types",
}
_UNITS = {
    "positions": "angstrom",
    "energy": "eV",
    "forces": "eV/angstrom",
    "virial": "eV",
}
_PER_ATOM = ("coord", "force")


def is_deepmd(path: Path) -> bool:
    """Whether a directory is a DeePMD system or a tree of systems."""
    return next(path.rglob("type.raw"), None) is not None


def read_deepmd(
    path: Path, options: ReadOptions, reading: Reading
) -> Iterator[Molecules]:
    """Frames of all systems below a directory, in the order of their paths.

    Raises:
        ValueError: A file is missing, damaged or of a wrong shape, or a type is no
            element; the message names the directory.
    """
    return gather(_frames(path, options, reading))


def count_deepmd(path: Path) -> int | None:
    """Number of frames; None where a file cannot be read."""
    try:
        return sum(len(_load(part / "coord.npy")) for part in _sets(path))
    except ValueError:
        return None  # reading it says what is wrong


def _sets(path: Path) -> list[Path]:
    systems = sorted(file.parent for file in path.rglob("type.raw"))
    return [part for system in systems for part in sorted(system.glob("set.*"))]


def _frames(path: Path, options: ReadOptions, reading: Reading) -> Iterator[Molecules]:
    keys = {**_KEYS, **options.keys}
    definition = Definition(
        keys=keys, units={keys[quantity]: unit for quantity, unit in _UNITS.items()}
    )
    row = 0
    parts = _sets(path)
    if not parts:
        raise ValueError(f"{path}: no set.* directory beside type.raw; add the data")
    for part in parts:
        count = len(_load(part / "coord.npy"))
        first, row = options.first_row - row, row + count
        if first >= count:
            continue
        try:
            arrays = _arrays(part)
            table = ArrayTable(arrays, options, reading, definition=definition)
            yield from read_batches(table, max(first, 0), row - count)
        except ValueError as error:
            raise ValueError(f"{part}: {error}") from error


def _arrays(part: Path) -> dict[str, Rows]:
    """The arrays of one set, memory-mapped, with elements and periodicity."""
    files = {file.stem: _load(file) for file in sorted(part.glob("*.npy"))}
    system = part.parent
    count = len(files["coord"])
    types = _words(system / "type.raw")
    elements = _elements(system, types)
    arrays: dict[str, Rows] = {}
    for key, array in files.items():
        arrays[key] = array
        if key in _PER_ATOM and array.shape == (count, 3 * len(types)):
            arrays[key] = array.reshape(count, len(types), 3)
    if "real_atom_types" in files:
        arrays["real_atom_types"] = _Mapped(files["real_atom_types"], elements)
    else:
        chosen = np.array([_type(word, len(elements)) for word in types], dtype=int)
        arrays["real_atom_types"] = elements[chosen]
    periodic = not (system / "nopbc").exists() and "box" in files
    if not periodic:  # no volume either
        for key in ("box", "virial"):
            arrays.pop(key, None)
    arrays["pbc"] = np.broadcast_to(np.uint8(periodic), (count, 3))
    return arrays


def _elements(system: Path, types: list[str]) -> Array:
    """Atomic number of each type."""
    file = system / "type_map.raw"
    if not file.is_file():
        raise ValueError(
            f"type_map.raw is missing, so the elements of the types "
            f"{sorted(set(types))} are unknown; write one element symbol for each type"
        )
    symbols = _words(file)
    wrong = [symbol for symbol in symbols if symbol not in NUMBER_OF]
    if wrong:
        raise ValueError(f"type_map.raw holds {wrong[0]!r}, which is no element symbol")
    return np.array([NUMBER_OF[symbol] for symbol in symbols])


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def _type(word: str, known: int) -> int:
    """A type as a number below the number of known ones."""
    if not word.isdigit() or int(word) >= known:
        raise ValueError(
            f"type.raw holds {word!r}, but type_map.raw names types 0 to {known - 1}"
        )
    return int(word)


def _load(file: Path) -> Array:
    """An ``.npy`` file, memory-mapped."""
    try:
        return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        reason = "no array in it" if "allow_pickle" in str(error) else error
        raise ValueError(
            f"{file} cannot be read: {reason}; it is missing, truncated or damaged"
        ) from error


class _Mapped:
    """Types of each frame, read as atomic numbers; 0 where there is no atom."""

    def __init__(self, types: Array, elements: Array) -> None:
        self._types = types
        self._elements = elements
        self.shape = types.shape
        self.dtype = np.dtype(np.int64)

    def __getitem__(self, rows: Any) -> Array:
        types = np.asarray(self._types[rows])
        if types.max(initial=0) >= len(self._elements):
            raise ValueError(
                f"real_atom_types holds {types.max()}, but type_map.raw names types 0 "
                f"to {len(self._elements) - 1}"
            )
        return np.where(types < 0, 0, self._elements[types])
