"""Finished calculations on disk, a line of JSON each: what a killed run leaves behind.

A line is written in one call and synchronised. A run that dies in the middle of one
leaves a line without an end, which is dropped. Labels say all about themselves, so that
they can be collected without the plan, and while others are written.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

JOURNAL = "journal.jsonl"
"""Its name in the folder of a run."""


class Journal:
    """Results and failures by key; only one process writes at a time.

    Args:
        path: The file; made, with its folder, when it does not exist.
        settings: What must be equal for labels to belong together.

    Attributes:
        path: As given.
        failures: Key -> reason; a later success removes it.

    Raises:
        ValueError: It was begun with other settings, a line is damaged, or another
            process writes it now.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.failures: dict[str, str] = {}
        self._offsets: dict[str, int] = {}
        self._lock = FileLock(path.with_name(f"{path.name}.lock"), timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ValueError(
                f"{path} is being written by another process; wait for it or stop it"
            ) from error
        self._file = path.open("a+b")
        try:
            self._read(json.loads(json.dumps(settings)))  # as it was read
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __contains__(self, key: str) -> bool:
        return key in self._offsets

    def __getitem__(self, key: str) -> dict[str, Any]:
        self._file.seek(self._offsets[key])
        entry: dict[str, Any] = json.loads(self._file.readline())
        return entry

    def close(self) -> None:
        """Let the next process write."""
        self._file.close()
        self._lock.release()

    def add(self, kind: str, key: str, values: Mapping[str, Any]) -> None:
        """Keep a result.

        Args:
            kind: ``label``, ``start`` or ``geometry``.
            key: What it belongs to.
            values: JSON-serialisable and finite.
        """
        self._offsets[key] = self._append({kind: key, **values})
        self.failures.pop(key, None)

    def fail(self, key: str, reason: str) -> None:
        """Keep why there is no result."""
        self._append({"failure": key, "reason": reason})
        self.failures[key] = reason

    def _append(self, line: Mapping[str, Any]) -> int:
        # Python writes floats so that they come back bit by bit.
        data = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())
        return offset

    def _read(self, settings: dict[str, Any]) -> None:
        begun, whole = False, 0
        for offset, end, entry in _entries(self.path):
            whole = end
            if "settings" in entry:
                _compare(self.path, entry["settings"], settings)
                begun = True
            elif "failure" in entry:
                if entry["failure"] not in self._offsets:
                    self.failures[entry["failure"]] = str(entry["reason"])
            else:
                key = next(
                    entry[k] for k in ("label", "start", "geometry") if k in entry
                )
                self._offsets[key] = offset
                self.failures.pop(key, None)
        self._file.truncate(whole)  # what follows is a line that was not finished
        if not begun:
            self._append({"settings": settings})


def read_labels(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Settings and finished labels of a journal, which may be written meanwhile.

    Raises:
        ValueError: It is no journal, or a line is damaged.
    """
    entries = [entry for *_, entry in _entries(path)]
    settings = [entry["settings"] for entry in entries if "settings" in entry]
    if not settings:
        raise ValueError(f"{path} is no journal of labels: it names no settings")
    return settings[0], [entry for entry in entries if "label" in entry]


def _entries(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Begin, end and content of each whole line."""
    with path.open("rb") as file:
        begin = 0
        for number, data in enumerate(file, start=1):
            if not data.endswith(b"\n"):
                return  # it is being written
            try:
                entry = json.loads(data)
                if not {"settings", "failure", "label", "start", "geometry"} & {*entry}:
                    raise ValueError("neither a label nor a failure")
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: {error}; remove the line, its label is "
                    "then calculated again"
                ) from error
            end = begin + len(data)
            yield begin, end, entry
            begin = end


def _compare(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise where labels of two runs would be mixed."""
    for name in sorted({*old, *new}):
        before, now = old.get(name), new.get(name)
        if before != now:
            if isinstance(before, dict) and isinstance(now, dict):
                part = next(k for k in {**before, **now} if before.get(k) != now.get(k))
                name, before, now = f"{name} {part}", before.get(part), now.get(part)
            raise ValueError(
                f"{path.parent} was begun with {name} = {before}, asked is {now}; "
                "finish it with the same options, or choose another target"
            )
