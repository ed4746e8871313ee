"""One source to finished pieces: read → check → write, from where it was stopped."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from physnet_ase.molecules import Molecules
from physnet_training.conversion.check import Checked, Policy, check
from physnet_training.conversion.job import Source
from physnet_training.conversion.report import SourceReport, Taken, source_sha256
from physnet_training.conversion.workspace import DONE, MAX_SHARDS
from physnet_training.packed import PackedWriter
from physnet_training.packed.files import locked, write_json
from physnet_training.packed.reader import Shard
from physnet_training.sources.formats import find_format
from physnet_training.sources.options import Reading


@dataclass(frozen=True)
class SourceTask:
    """One source to convert.

    Attributes:
        source: The source and what the user says about it.
        folder: For ``piece-00000``, ``piece-00001``, …; finished ones in it are kept,
            the source is read on behind them.
        piece_molecules: Most molecules of a piece.
        on_invalid: What to do with invalid molecules.
    """

    source: Source
    folder: Path
    piece_molecules: int
    on_invalid: Policy


def convert_source(task: SourceTask, on_progress: Callable[[int], None]) -> None:
    """Convert one source to pieces and ``done.json``.

    Args:
        task: What to convert.
        on_progress: Called with the number of molecules of this source so far.

    Raises:
        ValueError: Bad input; the message names the source, the molecule and what to
            do.
    """
    folder, path = task.folder, task.source.path
    folder.mkdir(parents=True, exist_ok=True)
    # A process whose command was killed may take a moment until it ends.
    with locked(folder / "lock", f"converting {path}"):
        done = folder / DONE
        if done.exists():
            report = json.loads(done.read_text(encoding="utf-8"))["report"]
            on_progress(SourceReport(**report).num_molecules)
            return
        for unfinished in folder.glob(".*"):
            shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink()
        taken = Taken()
        for piece in finished_pieces(folder):
            taken.extend(piece_taken(piece))
        if taken.num_molecules:
            on_progress(taken.num_molecules)
        taken = _read_on(task, taken, on_progress)
        _check_found(task.source, taken)
        pieces = {p.name: asdict(piece_taken(p)) for p in finished_pieces(folder)}
        report = asdict(taken.report(path, source_sha256(path)))
        write_json(done, {"report": report, "pieces": pieces})


def finished_pieces(folder: Path) -> list[Path]:
    """The pieces of a source, in order."""
    return sorted(folder.glob("piece-*"))


def piece_taken(folder: Path) -> Taken:
    """What a finished piece holds of its source.

    Raises:
        ValueError: The piece is damaged; the message names the file.
    """
    manifest = Shard(folder).manifest
    return Taken(**manifest["provenance"][0])


def _read_on(
    task: SourceTask, taken: Taken, on_progress: Callable[[int], None]
) -> Taken:
    """Go on behind the finished pieces; what was taken in all."""
    options = replace(task.source.options, first_row=taken.end_row)
    reading = Reading(dict(taken.units), list(taken.unused), list(taken.ignored))
    before, path = taken.num_molecules, task.source.path
    with _Cutter(task, reading) as cutter:
        for batch in find_format(path).read(path, options, reading):
            for part in cutter.cut(batch):
                cutter.add(part, check(part, options, task.on_invalid, str(path)))
            on_progress(before + cutter.num_molecules)
        taken.extend(cutter.finish())
    return taken


class _Cutter:
    """Writes molecules into one piece after another; a context manager.

    Where rows may be left out, a full piece is finished when the next molecule comes,
    so that those between are listed with it.
    """

    def __init__(self, task: SourceTask, reading: Reading) -> None:
        self.task, self.reading = task, reading
        self._before = Taken()  # in pieces that are finished
        self._now = Taken()
        self._writer: PackedWriter | None = None

    def __enter__(self) -> "_Cutter":
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the unfinished piece."""
        if self._writer is not None:
            self._writer.abort()

    @property
    def num_molecules(self) -> int:
        """Molecules written so far."""
        return self._before.num_molecules + self._now.num_molecules

    @property
    def _room(self) -> int:
        return self.task.piece_molecules - self._now.num_molecules

    def cut(self, batch: Molecules) -> Iterator[Molecules]:
        """Parts of which each fits into the piece that is open then."""
        start = 0
        while start < len(batch):
            end = min(start + (self._room or self.task.piece_molecules), len(batch))
            whole = start == 0 and end == len(batch)
            yield batch if whole else batch.take(np.arange(start, end))
            start = end

    def add(self, read: Molecules, checked: Checked) -> None:
        """Write what remained of a part."""
        molecules = checked.molecules
        writer = self._writer
        if writer is None or (self._room == 0 and len(molecules)):
            writer = self._next(int(read.rows[0]))
        writer.report_invalid(checked.invalid)
        if len(molecules):
            writer.append(molecules)
        self._now.extend(
            Taken(
                first_row=int(read.rows[0]),
                end_row=int(read.rows[-1]) + 1,
                num_molecules=len(molecules),
                units=self.reading.units,
                unused=self.reading.unused,
                ignored=self.reading.ignored,
                assumed=checked.assumed,
                invalid=Counter(row.action for row in checked.invalid),
            )
        )
        if self.task.on_invalid == "error" and self._room == 0:
            self._close()

    def finish(self) -> Taken:
        """Finish the last piece; what was taken in all."""
        if self._now.num_molecules:
            self._close()
        else:
            self._before.extend(self._now)
        return self._before

    def _next(self, row: int) -> PackedWriter:
        """Begin a piece with this row."""
        self._close()
        number = len(finished_pieces(self.task.folder))
        if number == MAX_SHARDS:
            raise ValueError(
                f"more than {MAX_SHARDS} shards of {self.task.piece_molecules} "
                "molecules; say a larger --shard-molecules"
            )
        self._writer = PackedWriter(self.task.folder / f"piece-{number:05d}")
        self._now = Taken(first_row=row)
        return self._writer

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.provenance.append(asdict(self._now))
            self._writer.finish()
            self._writer = None
            self._before.extend(self._now)
            self._now = Taken(self._now.end_row, self._now.end_row)


def _check_found(source: Source, taken: Taken) -> None:
    if taken.num_molecules == 0:
        asked = f" with {dict(source.options.where)}" if source.options.where else ""
        skipped = taken.invalid.get("skipped", 0)
        left = f", all {skipped} were invalid and skipped" if skipped else ""
        raise ValueError(
            f"{source.path}: zero molecules{asked}{left}, nothing to convert; check "
            "the file"
        )
    if not {"energy", "forces", "gradient"} & set(taken.units):
        unused = f" (not used: {', '.join(taken.unused)})" if taken.unused else ""
        raise ValueError(
            f"{source.path}: neither energies nor forces found{unused}; name their "
            "keys with --key energy=NAME, --key forces=NAME"
        )
