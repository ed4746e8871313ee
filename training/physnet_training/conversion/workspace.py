"""The hidden folder in which a conversion is made, and what stands in it."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from physnet_training.conversion.job import (
    Job,
    accept_corrections,
    describe,
    differences,
)
from physnet_training.conversion.report import SourceReport, Taken
from physnet_training.packed.files import locked, write_json

_log = logging.getLogger(__name__)

DONE = "done.json"
"""In the folder of a source that is read to its end: its report and its pieces."""
MAX_SHARDS = 100_000
"""Numbers have five digits."""
MIN_KEPT = 10_000
"""After an error fewer finished molecules than these, and no whole shard, are not worth
a folder that the user has to know about."""


@dataclass(frozen=True)
class Piece:
    """A finished packed directory with molecules of one source."""

    folder: Path
    source: int
    taken: Taken


@dataclass
class PlannedShard:
    """Pieces that make one shard."""

    name: str
    pieces: list[Piece] = field(default_factory=list)


class Workspace:
    """The hidden folder ``.NAME.partial`` next to the target.

    ``source-00000/piece-00000/`` and so on are finished packed directories,
    ``source-00000/done.json`` says that a source is read to its end, ``assembled/``
    holds shards. Which pieces make which shard follows from the ``done.json`` alone.

    Args:
        job: The conversion.

    Attributes:
        path: The folder.
        num_old: Shards of the root before anything was appended.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.path = job.target.parent / f".{job.target.name}.partial"
        self.num_old = self._count_shards() if job.append else 0

    @contextmanager
    def open(self) -> Iterator["Workspace"]:
        """Claim the folder; leave nothing behind but pieces that are worth keeping.

        Raises:
            ValueError: It holds the finished pieces of another command, or another
                process is working in it.
        """
        target = self.job.target
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path / "lock", f"converting to {target}"):
            if target.exists() and not self.job.append:
                shutil.rmtree(self.path)
                raise ValueError(
                    f"another process has just finished a conversion to {target}; look "
                    "at it"
                )
            self._claim()
            try:
                yield self
            except (Exception, KeyboardInterrupt):
                self._leave()
                raise
            shutil.rmtree(self.path)

    @property
    def assembled(self) -> Path:
        """The folder in which the shards are put together."""
        return self.path / "assembled"

    def source(self, index: int) -> Path:
        """The folder of a source."""
        return self.path / f"source-{index:05d}"

    def reports(self) -> list[SourceReport]:
        """What was taken from each source; all are read to their ends."""
        return [SourceReport(**done["report"]) for done in self._done()]

    def shards(self) -> list[PlannedShard]:
        """Which pieces make which shard: in their order, as many as fit."""
        shards: list[PlannedShard] = []
        room = 0
        for index, done in enumerate(self._done()):
            for name, taken in done["pieces"].items():
                piece = Piece(self.source(index) / name, index, Taken(**taken))
                if piece.taken.num_molecules > room:
                    number = self.num_old + len(shards)
                    shards.append(PlannedShard(f"shard-{number:05d}"))
                    room = self.job.piece_molecules
                room -= piece.taken.num_molecules
                shards[-1].pieces.append(piece)
        if self.num_old + len(shards) > MAX_SHARDS:
            raise ValueError(
                f"{self.num_old + len(shards)} shards are more than {MAX_SHARDS}; say "
                "a larger --shard-molecules"
            )
        return shards

    def place(self, shard: PlannedShard) -> Path:
        """Where a shard stands: still hidden, or under its name already."""
        published = self.job.target / shard.name
        if self.job.append and published.exists():
            return published
        return self.assembled / shard.name

    def check_root(self) -> None:
        """The root must be as an interrupted conversion left it.

        Raises:
            ValueError: Shards were added or removed meanwhile.
        """
        if not self.job.append:
            return
        target = self.job.target
        added = sum((target / shard.name).exists() for shard in self.shards())
        others = self._count_shards() - added
        if others != self.num_old:
            raise ValueError(
                f"{target} had {self.num_old} shards when this conversion began, now "
                f"it has {others} others; remove {self.path} to start anew"
            )

    def _count_shards(self) -> int:
        return len(list(self.job.target.glob("shard-*")))

    def _all_done(self) -> bool:
        sources = range(len(self.job.sources))
        return all((self.source(index) / DONE).exists() for index in sources)

    def _done(self) -> list[dict[str, Any]]:
        files = [self.source(index) / DONE for index in range(len(self.job.sources))]
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]

    def _claim(self) -> None:
        """Take up what an earlier run of this command left, or begin with nothing."""
        wanted, file = describe(self.job), self.path / "job.json"
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
            self.num_old = found.pop("num_old")
            if self._is_usable(len(found["sources"])):
                self._refuse_others(found, wanted)
            else:
                self.num_old = self._count_shards() if self.job.append else 0
                for folder in self.path.glob("*/"):
                    _remove(folder)
        for unfinished in (*self.assembled.glob(".*"), *self.path.glob(".*")):
            shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink()
        write_json(file, {**wanted, "num_old": self.num_old})

    def _is_usable(self, num_sources: int) -> bool:
        """Whether there is work of an earlier run that can be used."""
        if num_sources != len(self.job.sources) or not self._all_done():
            return any(self.path.glob("source-*/piece-*/manifest.json"))
        # Else its shards were published, and removed since.
        return all(
            self.place(shard).exists() or all(p.folder.exists() for p in shard.pieces)
            for shard in self.shards()
        )

    def _refuse_others(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        """Only the command that made the pieces may use them."""
        begun = self.assembled.exists()
        changed = [] if begun else accept_corrections(found, wanted)
        different = differences(found, wanted)
        if different:
            raise ValueError(
                f"{self.path} holds the unfinished conversion of another command to "
                f"{self.job.target}: {'; '.join(different)}. Run that command again to "
                f"finish it, or remove {self.path} to start anew"
            )
        for index in changed:
            _remove(self.source(index))

    def _leave(self) -> None:
        """After an error: keep what is worth it, and say so."""
        finished = sum(
            json.loads(manifest.read_text(encoding="utf-8"))["num_molecules"]
            for manifest in self.path.glob("*/*/manifest.json")
        )
        # What was appended already must not be appended again by the next attempt.
        publishing = self.job.append and self._all_done()
        if finished < min(self.job.piece_molecules, MIN_KEPT) and not publishing:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        _log.warning(
            "%d molecules are finished and stay in %s: the same command goes on "
            "behind them; remove the folder to start anew",
            finished,
            self.path,
        )


def _remove(folder: Path) -> None:
    """Remove a folder once the process of a killed command has left it."""
    if folder.exists():
        with locked(folder / "lock", f"writing to {folder}"):
            shutil.rmtree(folder)
