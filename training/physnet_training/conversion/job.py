"""A conversion as it was asked for, and the hidden folder in which it is made."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from physnet_ase import __version__
from physnet_training.conversion.intake import Policy
from physnet_training.sources.molecules import ReadOptions
from physnet_training.storage.durable import write_json
from physnet_training.storage.locking import locked

_log = logging.getLogger(__name__)

SHARD_MOLECULES = 1_000_000
"""Most molecules of a shard, unless the user says otherwise."""
_STAMP = ("bytes", "modified_ns")  # of a source
MIN_KEPT = 10_000
"""After an error fewer finished molecules than these, and no whole shard, are not worth
a folder that the user has to know about."""


@dataclass(frozen=True)
class Source:
    """A file or directory to convert, and what the user says about it."""

    path: Path
    options: ReadOptions


@dataclass(frozen=True)
class Job:
    """A conversion.

    Attributes:
        sources: In the order of the dataset.
        target: The directory to make, or to append to.
        shard_molecules: Most molecules per shard; None: shards only where there are
            more than ``SHARD_MOLECULES``.
        on_invalid: What to do with invalid molecules.
        append: Add shards to the existing root ``target``.
        workers: Most processes; None: as many as there are processors, if that pays.
    """

    sources: tuple[Source, ...]
    target: Path
    shard_molecules: int | None = None
    on_invalid: Policy = "error"
    append: bool = False
    workers: int | None = None

    @property
    def piece_molecules(self) -> int:
        """Most molecules of a piece, and of a shard."""
        return self.shard_molecules or SHARD_MOLECULES


class Workspace:
    """The hidden folder ``.NAME.partial`` next to the target.

    ``source-00000/piece-00000/`` and so on are finished packed directories;
    ``source-00000/done.json`` says that a source is read to its end.

    Args:
        job: The conversion.

    Attributes:
        path: The folder.
        lock: Descriptor of the lock file while the folder is open.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.lock = -1
        self.path = job.target.parent / f".{job.target.name}.partial"

    @contextmanager
    def open(self) -> Iterator["Workspace"]:
        """Claim the folder; leave nothing behind but pieces that are worth keeping.

        Raises:
            ValueError: It holds the finished pieces of another command, or another
                process is working in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path / "lock", self.job.target) as self.lock:
            self._refuse_others()
            try:
                self._tidy()
                yield self
            except (Exception, KeyboardInterrupt):
                self._leave()
                raise
            shutil.rmtree(self.path)

    @property
    def assembled(self) -> Path:
        """The folder in which the shards are put together."""
        return self.path / "assembled"

    @property
    def plan_file(self) -> Path:
        """Which pieces make which shard; there once all sources are read."""
        return self.path / "shards.json"

    @property
    def _job_file(self) -> Path:
        """The command that this folder belongs to."""
        return self.path / "job.json"

    def source(self, index: int) -> Path:
        """The folder of a source."""
        return self.path / f"source-{index:05d}"

    def _leave(self) -> None:
        """After an error: keep what is worth it, and say so."""
        finished = sum(
            json.loads(manifest.read_text(encoding="utf-8"))["num_molecules"]
            for manifest in self.path.glob("*/*/manifest.json")
        )
        # What was appended already must not be appended again by the next attempt.
        publishing = self.job.append and self.plan_file.exists()
        if finished < min(self.job.piece_molecules, MIN_KEPT) and not publishing:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        _log.warning(
            "%d molecules are finished and stay in %s: the same command goes on "
            "behind them; remove the folder to start anew",
            finished,
            self.path,
        )

    def _refuse_others(self) -> None:
        """Only the command that made the pieces may use them."""
        if not self._holds_something():
            return
        found = json.loads(self._job_file.read_text(encoding="utf-8"))
        wanted = describe(self.job)
        changed = []
        if not self.plan_file.exists():
            changed = _accept_corrections(found, wanted)
        different = _differences(found, wanted)
        if different:
            raise ValueError(
                f"{self.path} holds the unfinished conversion of another command to "
                f"{self.job.target}: {'; '.join(different)}. Run that command again to "
                f"finish it, or remove {self.path} to start anew"
            )
        for index in changed:
            shutil.rmtree(self.source(index), ignore_errors=True)

    def _tidy(self) -> None:
        """Remove what nobody can use."""
        if not self._holds_something():
            self.plan_file.unlink(missing_ok=True)
            for folder in self.path.glob("*/"):
                shutil.rmtree(folder)
        for unfinished in (*self.path.glob("*/.*"), *self.path.glob(".*")):
            shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink()
        write_json(self._job_file, describe(self.job))

    def _holds_something(self) -> bool:
        """Whether there is work of an earlier run that can be used."""
        if not self._job_file.exists():
            return False
        if not self.plan_file.exists():
            return any(self.path.glob("*/*/manifest.json"))
        plan = json.loads(self.plan_file.read_text(encoding="utf-8"))
        # Else its shards were published, and removed since.
        return all(self._is_there(shard) for shard in plan["shards"])

    def _is_there(self, shard: dict[str, Any]) -> bool:
        places = [self.assembled / shard["name"]]
        if self.job.append:
            places.append(self.job.target / shard["name"])
        pieces = [self.path / piece["folder"] for piece in shard["pieces"]]
        return any(p.exists() for p in places) or all(p.exists() for p in pieces)


def describe(job: Job) -> dict[str, Any]:
    """Everything that decides what the pieces hold; JSON-serialisable."""
    return {
        "package_version": __version__,
        "shard_molecules": job.shard_molecules,
        "on_invalid": job.on_invalid,
        "append": job.append,
        "sources": [
            {**_stamp(source.path), **asdict(source.options)} for source in job.sources
        ],
    }


def _stamp(path: Path) -> dict[str, Any]:
    """What tells whether a source is still the same, without reading it."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [file.stat() for file in files if file.is_file()]
    sizes = sum(stat.st_size for stat in stats)
    times = max((stat.st_mtime_ns for stat in stats), default=0)
    return {
        "path": str(path.resolve()),
        **dict(zip(_STAMP, (sizes, times), strict=True)),
    }


def _accept_corrections(found: dict[str, Any], wanted: dict[str, Any]) -> list[int]:
    """Overlook what people change after an error, as far as finished pieces allow it.

    A piece without an invalid molecule suits every policy.

    Returns:
        The sources that were changed themselves: their pieces are worth nothing.
    """
    if found["on_invalid"] == "error":
        found["on_invalid"] = wanted["on_invalid"]
    changed = []
    pairs = zip(found["sources"], wanted["sources"], strict=False)
    for index, (old, new) in enumerate(pairs):
        old["allow_missing"] |= new["allow_missing"]
        if any(old[key] != new[key] for key in _STAMP):
            changed.append(index)
            old |= {key: new[key] for key in _STAMP}
    return changed


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What differs between two descriptions, in words."""
    paths = [[source["path"] for source in d["sources"]] for d in (found, wanted)]
    if paths[0] != paths[1]:
        return [f"its sources were {', '.join(paths[0])}"]
    lines = [
        f"{key} was {found[key]!r}, is {value!r}"
        for key, value in wanted.items()
        if key != "sources" and found[key] != value
    ]
    for old, new in zip(found["sources"], wanted["sources"], strict=True):
        lines += [
            f"{key} of {new['path']} was {old.get(key)!r}, is {value!r}"
            for key, value in new.items()
            if old.get(key) != value
        ]
    return lines
