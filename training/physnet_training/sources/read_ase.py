"""Molecules out of ASE trajectories and ASE databases."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.io.formats import UnknownFileTypeError
from ase.io.trajectory import Trajectory

from physnet_ase.molecules import Molecules
from physnet_training.sources.frames import Frame, FrameReader, join_frames
from physnet_training.sources.options import Reading, ReadOptions

if TYPE_CHECKING:
    from ase.db.row import AtomsRow

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

    Args:
        path: The file.
        options: What the user says; without it, units are ASE's (eV, Å, e·Å).
        reading: Receives what was taken and left.

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
            yield _read(reader, path, Frame(row, atoms))


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
            yield _read(reader, path, Frame(row, atoms))
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
    """Atoms with results; what else the row says is their information.

    Raises:
        ValueError: Key-value pairs and data contradict each other.
    """
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


def _read(reader: FrameReader, path: Path, frame: Frame) -> Molecules | None:
    try:
        return reader.read(frame)
    except ValueError as error:
        raise ValueError(f"{path}: molecule {frame.row} (0-based): {error}") from error


def _unreadable(path: Path, kind: str, what: str) -> ValueError:
    return ValueError(
        f"{path} cannot be read as ASE {kind}: {what}; it is truncated or damaged"
    )
