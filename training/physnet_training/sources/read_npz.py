"""Molecules out of NPZ archives of any length, in bounded memory."""

import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_training.sources.arrays import (
    ArrayTable,
    Definition,
    count_molecules,
    read_batches,
)
from physnet_training.sources.keys import Reading, ReadOptions, find_keys

Array = NDArray[Any]

_PHYSNET = Definition(  # the units of PhysNet's own layout
    defaults={"E": "eV", "F": "eV/angstrom", "R": "angstrom", "D": "e*angstrom"}
)
_SGDML = Definition(defaults={"R": "angstrom"})  # energies in whatever e_unit says
_RMD17 = Definition(
    keys={"energy": "energies", "forces": "forces", "positions": "coords"},
    units={"coords": "angstrom", "energies": "kcal/mol", "forces": "kcal/mol/angstrom"},
    level="PBE/def2-SVP",
    complete=True,
)
_DAMAGE = (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError)
_SKIP = 1 << 24  # bytes read at once where rows are passed over


def read_npz(path: Path, options: ReadOptions, reading: Reading) -> Iterator[Molecules]:
    """Molecules of an NPZ file, compressed or not, read forward in pieces.

    Two layouts: padded, ``R`` (n, A, 3) with ``Z`` (n, A), as PhysNet and Asparagus
    write it (eV, Å, e·Å by definition); ragged, ``n_atoms`` with flat per-atom arrays.
    Files of sGDML (MD17, MD22) name their units or not at all, those of rMD17 are in
    kcal/mol.

    Raises:
        ValueError: The file is damaged, a key or a unit is missing, or a shape is
            wrong.
    """
    with ExitStack() as stack:
        try:
            members = _members(path, stack)
        except (*_DAMAGE, ValueError) as error:
            raise _unreadable(path, error) from error
        try:
            definition = _recognise(members)
            table = ArrayTable(members, options, reading, definition=definition)
            yield from read_batches(table, options.first_row)
            for member in members.values():
                member.finish()
        except _DamagedMember as error:
            raise _unreadable(path, error) from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def count_npz(path: Path) -> int | None:
    """Number of molecules by the headers alone; None where they do not say."""
    try:
        with ExitStack() as stack:
            members = _members(path, stack)
            keys = [find_keys(name, members, {}) for name in ("positions", "n_atoms")]
            positions, n_atoms = (found[0] if found else None for found in keys)
            return count_molecules(members, positions, n_atoms)
    except (*_DAMAGE, ValueError):
        return None  # reading it says what is wrong


def _recognise(members: dict[str, "_Member"]) -> Definition:
    """What is known of a file by the keys it holds."""
    if {"nuclear_charges", "coords", "energies", "old_energies"} <= set(members):
        return _RMD17
    # sGDML's datasets carry these scalars (sgdml/utils/io.py), PhysNet's never.
    if {"z", "theory"} <= set(members) or {"e_unit", "r_unit"} <= set(members):
        return _SGDML
    return _PHYSNET


def _members(path: Path, stack: ExitStack) -> dict[str, "_Member"]:
    """The arrays of an archive, opened as long as the stack is."""
    archive = stack.enter_context(zipfile.ZipFile(path))
    members = {
        info.filename.removesuffix(".npy"): _Member(archive, info, stack)
        for info in archive.infolist()
        if info.filename.endswith(".npy")
    }
    if not members:
        raise ValueError("no arrays in it")
    return members


class _DamagedMember(Exception):
    """The bytes of an array are not what the archive says."""


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} cannot be read as NPZ: {error}; it is truncated, damaged or holds "
        "Python objects: export it again as plain arrays"
    )


class _Member:
    """One array of an archive: rows are taken forward, going back starts over."""

    def __init__(
        self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, stack: ExitStack
    ) -> None:
        self._archive = archive
        self._info = info
        self._stack = stack
        self._columnwise: Array | None = None
        with archive.open(info) as file:
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read is None:
                raise ValueError(f"{info.filename} is of an unknown version {version}")
            self.shape, columns_first, self.dtype = read(file)
            self._start = file.tell()
        if self.dtype.hasobject:
            raise ValueError(f"{info.filename} holds Python objects")
        self._transposed = columns_first and len(self.shape) > 1
        rows = self.shape[0] if self.shape else 1
        width = int(np.prod(self.shape[1:], dtype=np.int64))
        self._row_bytes = width * self.dtype.itemsize
        held = info.file_size - self._start
        if held != rows * self._row_bytes:
            raise ValueError(
                f"{info.filename} holds {held} bytes, its header asks for "
                f"{rows * self._row_bytes}"
            )
        self._file: IO[bytes] | None = None
        self._row = 0

    def __getitem__(self, rows: Any) -> Array:
        """A slice of rows, or the whole array for ``()``."""
        if rows == ():
            begin, end = 0, self.shape[0] if self.shape else 1
        else:
            begin, end, _ = rows.indices(self.shape[0])
        if self._transposed:
            return self._memory_map()[begin:end]
        count = max(end - begin, 0)
        found = np.frombuffer(
            self._read(begin, count * self._row_bytes), dtype=self.dtype
        )
        self._row = begin + count
        return found.reshape((count, *self.shape[1:]) if self.shape else ())

    def finish(self) -> None:
        """Read what is left of an array of which something was read: its checksum."""
        with self._noticing_damage():
            while self._file is not None and self._file.read(_SKIP):
                pass

    @contextmanager
    def _noticing_damage(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            raise _DamagedMember(f"{self._info.filename}: {error}") from error

    def _read(self, begin: int, size: int) -> bytes:
        """Bytes of some rows."""
        with self._noticing_damage():
            if self._file is None or begin < self._row:
                if self._file is not None:
                    self._file.close()
                self._file = self._stack.enter_context(self._archive.open(self._info))
                self._row = 0
                self._file.read(self._start)
            ahead = (begin - self._row) * self._row_bytes
            while ahead > 0:
                ahead -= len(self._file.read(min(ahead, _SKIP))) or ahead
            content = self._file.read(size)
        if len(content) != size:
            raise _DamagedMember(f"{self._info.filename} ends too early")
        return content

    def _memory_map(self) -> Array:
        """An array whose rows do not lie together, unpacked to a temporary file."""
        if self._columnwise is None:
            file = self._stack.enter_context(tempfile.TemporaryFile())
            self._read(0, 0)
            with self._noticing_damage():
                while self._file is not None and (content := self._file.read(_SKIP)):
                    file.write(content)
            file.flush()
            self._columnwise = np.memmap(
                file, dtype=self.dtype, mode="r", shape=self.shape, order="F"
            )
        return self._columnwise
