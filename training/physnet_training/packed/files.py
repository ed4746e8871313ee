"""Files that are whole or absent, their checksums, and the lock of who makes them."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

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
