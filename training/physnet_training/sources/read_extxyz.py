"""Molecules out of extended XYZ, plain or gzipped, by way of ASE's reader."""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ase import Atoms
from ase.io.extxyz import read_xyz

from physnet_training.sources.ase_frames import FrameReader, join_frames
from physnet_training.sources.molecules import Molecules, ReadOptions

_DAMAGE = (OSError, ValueError, KeyError, IndexError, EOFError, zlib.error)


def read_extxyz(
    path: Path, options: ReadOptions, units: dict[str, str]
) -> Iterator[Molecules]:
    """Frames of an extended XYZ file, in pieces.

    Args:
        path: The file.
        options: What the user says.
        units: Receives quantity -> the unit taken and why.

    Raises:
        ValueError: The file is damaged, a key or a unit is missing, or a shape is
            wrong; the message names the frame, counted from 0.
    """
    return join_frames(_frames(path, options, units))


def _frames(
    path: Path, options: ReadOptions, units: dict[str, str]
) -> Iterator[Molecules | None]:
    reader, row = FrameReader(options, units), -1
    with _opened(path) as file:
        lines = _Lines(file)
        while True:
            row += 1
            try:
                text = lines.frame()
                if not text:
                    return
                if row < options.first_row:
                    continue
                atoms: Atoms = next(read_xyz(io.StringIO(text), 0))
            except _DAMAGE as error:
                raise ValueError(
                    f"{path} cannot be read at molecule {row} (0-based): {error}; the "
                    "file is truncated or no extended XYZ"
                ) from error
            try:
                yield reader.read(row, atoms)
            except ValueError as error:
                raise ValueError(
                    f"{path}: molecule {row} (0-based): {error}"
                ) from error


def _opened(path: Path) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


class _Lines:
    """Cuts a file into the lines of single frames, without seeking."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._ahead = ""

    def frame(self) -> str:
        """Text of the next frame, empty at the end.

        Raises:
            ValueError: The first line is no number of atoms.
        """
        first = self._ahead or self._file.readline()
        if not first.strip():
            return ""
        try:
            num_atoms = int(first)
        except ValueError as error:
            raise ValueError(
                f"a number of atoms was expected, got {first.strip()!r}"
            ) from error
        lines = [first, *(self._file.readline() for _ in range(num_atoms + 1))]
        if not lines[-1]:
            raise ValueError(f"the file ends within {num_atoms} atoms")
        # ASE accepts cell vectors in lines of their own after the atoms.
        while (ahead := self._file.readline()).lstrip().startswith("VEC"):
            lines.append(ahead)
        self._ahead = ahead
        return "".join(lines)
