"""Finished labels on disk, a line of JSON each: what a killed run leaves to the next.

A line is written in one call and flushed. A run that dies in the middle of one leaves a
line without an end, which is dropped. Every process of a run has its own file; all
files of the folder are read, so that processes may be divided differently later.
"""

import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from physnet_training.labelling.plan import Job

_SYNC_SECONDS = 5.0
_ADVICE = "finish it with the same options, or choose another target"


class Place(NamedTuple):
    """Where a line stands."""

    path: Path
    offset: int


class Journal:
    """Labels, failures and intermediate results of one run.

    Args:
        folder: Holds the files; made when it does not exist.
        name: This process' file.
        settings: What must be equal for labels to belong together.

    Attributes:
        folder: As given.
        labels: Finished labels.
        failures: Reasons of failed ones; a later success removes them.

    Raises:
        ValueError: The folder was begun with other settings, a line is damaged, or
            another process writes this file now.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.labels: dict[Job, Place] = {}
        self.failures: dict[Job, str] = {}
        self._geometries: dict[tuple[int, int], Place] = {}
        self._starts: dict[str, Place] = {}
        self._readers: dict[Path, BinaryIO] = {}
        self.folder = folder
        self._path = folder / name
        self._settings = json.loads(json.dumps(settings))  # as it will be read
        self._file = self._path.open("a+b")
        self._synced = time.monotonic()
        try:
            _lock(self._file, self._path)
            _drop_unfinished_line(self._file)
            for path in sorted(folder.glob("journal-*.jsonl")):
                self._read(path)
            if self._file.seek(0, os.SEEK_END) == 0:
                self._append({"settings": self._settings})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files; the next process may write."""
        self._file.close()
        for reader in self._readers.values():
            reader.close()

    def add_label(self, job: Job, values: Mapping[str, Any]) -> None:
        """Keep a finished label."""
        self.labels[job] = self._append({"label": list(job), **values})
        self.failures.pop(job, None)

    def add_failure(self, job: Job, reason: str) -> None:
        """Keep why a label failed."""
        self._append({"failure": list(job), "reason": reason})
        self.failures[job] = reason

    def add_geometry(self, chain: int, sample: int, values: Mapping[str, Any]) -> None:
        """Keep a geometry from which a trajectory goes on."""
        line = {"geometry": [chain, sample], **values}
        self._geometries[(chain, sample)] = self._append(line)

    def add_start(self, key: str, values: Mapping[str, Any]) -> None:
        """Keep a relaxed structure and its Hessian."""
        self._starts[key] = self._append({"start": key, **values})

    def label(self, job: Job) -> dict[str, Any]:
        """The values of a finished label."""
        return self._get(self.labels[job])

    def geometry(self, chain: int, sample: int) -> dict[str, Any] | None:
        """What ``add_geometry`` kept, if anything."""
        place = self._geometries.get((chain, sample))
        return None if place is None else self._get(place)

    def has_start(self, key: str) -> bool:
        """Whether ``add_start`` kept something."""
        return key in self._starts

    def start(self, key: str) -> dict[str, Any] | None:
        """What ``add_start`` kept, if anything."""
        place = self._starts.get(key)
        return None if place is None else self._get(place)

    def _append(self, line: Mapping[str, Any]) -> Place:
        # Python writes floats so that they come back bit by bit.
        data = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(data)
        self._file.flush()
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()
        return Place(self._path, offset)

    def _get(self, place: Place) -> dict[str, Any]:
        if place.path not in self._readers:
            self._readers[place.path] = place.path.open("rb")
        reader = self._readers[place.path]
        reader.seek(place.offset)
        found: dict[str, Any] = json.loads(reader.readline())
        return found

    def _read(self, path: Path) -> None:
        with path.open("rb") as file:
            offset = 0
            for number, data in enumerate(file, start=1):
                if not data.endswith(b"\n"):
                    break  # another process is about to finish this line
                try:
                    settings = self._take(json.loads(data), Place(path, offset))
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"{path}, line {number}: {error}; remove the line, its label "
                        "is then calculated again"
                    ) from error
                if settings is not None:
                    _compare(path.parent, settings, self._settings)
                offset += len(data)

    def _take(self, line: dict[str, Any], place: Place) -> dict[str, Any] | None:
        """Index a line; return the settings, if it is the line that holds them."""
        if "settings" in line:
            return dict(line["settings"])
        if "label" in line:
            job = Job(*line["label"])
            self.labels[job] = place
            self.failures.pop(job, None)
        elif "failure" in line:
            job = Job(*line["failure"])
            if job not in self.labels:
                self.failures[job] = str(line["reason"])
        elif "geometry" in line:
            chain, sample = line["geometry"]
            self._geometries[(chain, sample)] = place
        else:
            self._starts[line["start"]] = place
        return None


def _compare(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise where labels of two runs would be mixed."""
    for name in sorted({*old, *new}):
        before, now = old.get(name), new.get(name)
        if before != now:
            if isinstance(before, dict) and isinstance(now, dict):
                part = next(k for k in {**before, **now} if before.get(k) != now.get(k))
                name, before, now = f"{name} {part}", before.get(part), now.get(part)
            raise ValueError(
                f"{folder} was begun with {name} = {before}, asked is {now}; {_ADVICE}"
            )


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(
            f"{path} is being written by another process; wait for it, or give each "
            "process another --process-index"
        ) from error


def _drop_unfinished_line(file: BinaryIO) -> None:
    """Cut off what follows the last line end."""
    size = file.seek(0, os.SEEK_END)
    position, block = size, 1 << 16
    while position > 0:
        begin = max(0, position - block)
        file.seek(begin)
        found = file.read(position - begin).rfind(b"\n")
        if found >= 0:
            position = begin + found + 1
            break
        position = begin
    if position < size:
        file.truncate(position)
