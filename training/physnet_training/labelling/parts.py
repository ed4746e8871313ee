"""Finished parts of a labelled dataset: set aside, put together, given their name."""

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physnet_training.packed.files import write_json


@dataclass(frozen=True)
class Part:
    """One process' share of the labels, ``index`` counted from 0 to ``count`` - 1."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index:05d}-of-{self.count:05d}"

    @property
    def failures_file(self) -> str:
        """Name of the list of failures."""
        return "failures.csv" if self.count == 1 else f"failures-{self}.csv"


def part_folder(folder: Path, part: Part) -> Path:
    """Where the dataset of a part is written before it gets its name."""
    if part.count == 1:
        return folder / "dataset"
    return folder / f"parts-of-{part.count:05d}" / f"part-{part.index:05d}"


def is_written(folder: Path, target: Path, part: Part) -> bool:
    """Whether a part was written, and is still there or in the finished dataset."""
    if not _marker(folder, part).exists():
        return False
    written = part_folder(folder, part)
    # Numbered shards: an earlier process was stopped while it put the parts together.
    numbered = part.count > 1 and any(written.parent.glob("shard-*"))
    empty = read_mark(folder, part)["labels"] == 0
    return empty or numbered or written.exists() or target.exists()


def discard_part(folder: Path, part: Part) -> None:
    """Remove what an earlier run wrote of a part, or had begun to write."""
    _marker(folder, part).unlink(missing_ok=True)
    written = part_folder(folder, part)
    for path in (written, *written.parent.glob(f".{written.name}.partial-*")):
        shutil.rmtree(path, ignore_errors=True)


def mark_written(folder: Path, part: Part, summary: Mapping[str, Any]) -> None:
    """Note that a part stands in its folder, or is empty (``labels`` is 0)."""
    write_json(_marker(folder, part), summary)


def read_mark(folder: Path, part: Part) -> dict[str, Any]:
    """What ``mark_written`` noted."""
    found: dict[str, Any] = json.loads(_marker(folder, part).read_text("utf-8"))
    return found


def place(folder: Path, target: Path, part: Part) -> bool:
    """Give the dataset its name if it is complete; return whether it has it.

    A dataset in one part replaces an older one. Several parts become shards, numbered
    without gaps; whoever finishes last does this, under a lock.
    """
    with _lock(folder):
        if part.count == 1:
            _replace(part_folder(folder, part), target, folder)
        elif not target.exists():
            _assemble(folder, target, part.count)
    return target.exists()


def _replace(new: Path, target: Path, folder: Path) -> None:
    if not new.exists():
        return
    old = folder / "replaced"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _assemble(folder: Path, target: Path, count: int) -> None:
    parts = [Part(index, count) for index in range(count)]
    if not all(_marker(folder, part).exists() for part in parts):
        return
    filled = [part for part in parts if read_mark(folder, part)["labels"]]
    if not filled:
        return
    root = part_folder(folder, filled[0]).parent
    for number, part in enumerate(filled):
        here = part_folder(folder, part)
        if here.exists():  # else it has its number since before a crash
            here.rename(root / f"shard-{number:05d}")
    root.rename(target)


def _marker(folder: Path, part: Part) -> Path:
    return folder / f"written-{part}.json"


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
