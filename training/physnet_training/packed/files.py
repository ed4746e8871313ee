"""Files of a packed dataset: names, checksums, whole or absent, and who makes them.

The names of the quantities' files stand in the table of quantities.
"""

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TextIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from physnet_ase.quantities import QUANTITIES, Quantity, labels

SCHEMA_VERSION = 1
"""Version of the manifest written here; newer ones are refused."""
MANIFEST = "manifest.json"
OFFSETS = "offsets.npy"
N_ATOMS = "n_atoms.npy"
REPORT = "report.json"
"""In a root of shards: its conversions and the audit of the whole."""
INVALID_ROWS = "invalid_rows.csv"
"""Rows of the sources that were skipped or kept with a problem, where there are any."""
MAX_GROUPS = 65_536
"""Most distinct group names kept; beyond this a name no longer groups anything."""
OLD_CHARGE: Quantity = replace(QUANTITIES["total_charge"], file="Qtot.f64", dtype="<f8")
"""Read as total charge where ``total_charge.f32`` is missing."""
ALWAYS = (
    "atomic_numbers",
    "positions",
    "forces",
    "energy",
    "total_charge",
    "spin_multiplicity",
)
"""What every dataset written here holds, NaN where there is nothing."""


def units() -> dict[str, str]:
    """The only units on disk: one for all lengths, one for all charges, and labels'."""
    found = {"energy": QUANTITIES["energy"].unit}
    found["length"] = QUANTITIES["positions"].unit
    for label in labels():
        if label.unit:
            found["charge" if label.dimension == "charge" else label.name] = label.unit
    return found


SEAL = "content_sha256"
"""Key of the checksum that a JSON file holds of its other keys."""
_PATIENCE = 5.0  # seconds: what was started by a killed command notices and ends


class HashedFile:
    """A new file that knows its SHA-256 without being read again.

    Args:
        path: The file to make.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._hash = hashlib.sha256()

    def write(self, array: NDArray[Any]) -> None:
        """Append the bytes of an array."""
        if array.size == 0:
            return
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        self._file.write(data)
        self._hash.update(data)

    def finish(self) -> str:
        """Flush to the disk and close; return the hexadecimal SHA-256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._hash.hexdigest()

    def close(self) -> None:
        """Close without a guarantee, for a file that will be removed."""
        self._file.close()


def sync(path: Path) -> None:
    """Flush a file to the disk, or a directory's names where the system can do that."""
    if path.is_dir():
        with suppress(OSError):  # Windows and some file systems have no such thing
            _flush(os.open(path, os.O_RDONLY))
        return
    _flush(os.open(path, os.O_RDWR))


def _flush(handle: int) -> None:
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file, which a process that ends cannot leave behind.

    File systems without locks give no protection.

    Args:
        path: The lock file, made if needed.
        what: What is done under the lock, for the message: "converting to set".

    Raises:
        ValueError: Another process holds the lock.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_PATIENCE, poll_interval=0.1)
    except Timeout as error:
        raise ValueError(
            f"another process is {what}; wait for it or stop it"
        ) from error
    except NotImplementedError:
        pass
    try:
        yield
    finally:
        lock.release()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write or replace a JSON file in one step: readers see the old or the new one."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(text + "\n", encoding="utf-8")
    sync(aside)
    aside.replace(path)
    sync(path.parent)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: It cannot be read; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}; convert again") from error


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """``write_json`` with a checksum of the content inside."""
    rest = {key: value for key, value in content.items() if key != SEAL}
    write_json(path, {**rest, SEAL: _seal(rest)})


def check_seal(path: Path, content: Mapping[str, Any]) -> None:
    """Compare the content of a JSON file with the checksum inside.

    Raises:
        ValueError: It was changed, or has no checksum.
    """
    rest = {key: value for key, value in content.items() if key != SEAL}
    if SEAL not in content:
        raise ValueError(
            f"{path} has no {SEAL}, the checksum of itself; convert the data again"
        )
    if content[SEAL] != _seal(rest):
        raise ValueError(
            f"{path} was changed since it was written: its {SEAL} does not belong to "
            "its content; restore it or convert again"
        )


def _seal(content: Mapping[str, Any]) -> str:
    # Read back first: a key that is a number is text in the file, and sorted as such.
    text = json.dumps(json.loads(json.dumps(content)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def publish(folder: Path, target: Path) -> None:
    """Give a finished directory its name, which must be free.

    Raises:
        ValueError: Something stands there by now.
    """
    sync(folder)
    if target.exists():
        raise ValueError(
            f"{target} appeared while it was being written; choose another"
        )
    folder.rename(target)
    sync(target.parent)


Action = Literal["skipped", "kept"]


class InvalidRow(NamedTuple):
    """One such molecule; the fields are the columns of the file."""

    source: str
    row: int  # 0-based, in the source
    action: Action
    reason: str


class InvalidRowsFile:
    """``invalid_rows.csv``, made with its first row.

    Args:
        folder: Where the file shall stand.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / INVALID_ROWS
        self.counts: Counter[str] = Counter()
        self._file: TextIO | None = None

    def write(self, rows: Iterable[InvalidRow]) -> None:
        """Append rows."""
        for row in rows:
            if self._file is None:
                self._file = self.path.open("w", encoding="utf-8", newline="")
                csv.writer(self._file).writerow(InvalidRow._fields)
            csv.writer(self._file).writerow(row)
            self.counts[row.action] += 1

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            self._file.close()


def read_invalid_rows(folder: Path) -> Iterator[InvalidRow]:
    """The rows listed in a packed directory, none where nothing was invalid."""
    path = folder / INVALID_ROWS
    if not path.exists():
        return
    with path.open(encoding="utf-8", newline="") as file:
        for entry in csv.DictReader(file):
            yield InvalidRow(
                entry["source"],
                int(entry["row"]),
                "kept" if entry["action"] == "kept" else "skipped",
                entry["reason"],
            )
