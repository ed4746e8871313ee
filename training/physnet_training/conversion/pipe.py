"""Sources to finished pieces: read → check → write, from where it was stopped."""

import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from physnet_ase.molecules import Molecules
from physnet_training.conversion.check import Checked, Policy, check
from physnet_training.conversion.job import DONE, MAX_SHARDS, Source, Workspace
from physnet_training.conversion.report import SourceReport, Taken, source_sha256
from physnet_training.packed import PackedWriter
from physnet_training.packed.files import locked, write_json
from physnet_training.packed.reader import Shard
from physnet_training.sources.formats import find_format
from physnet_training.sources.keys import Reading


class _SourceTask(NamedTuple):
    """One source to convert, to pieces in a folder of its own."""

    source: Source
    folder: Path
    piece_molecules: int
    on_invalid: Policy


def _convert_source(task: _SourceTask, on_progress: Callable[[int], None]) -> None:
    """Convert one source to pieces, behind those finished, and ``done.json``."""
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
        for piece in _finished_pieces(folder):
            taken.extend(_piece_taken(piece))
        if taken.num_molecules:
            on_progress(taken.num_molecules)
        taken = _read_on(task, taken, on_progress)
        _check_found(task.source, taken)
        pieces = {p.name: asdict(_piece_taken(p)) for p in _finished_pieces(folder)}
        report = asdict(taken.report(path, source_sha256(path)))
        write_json(done, {"report": report, "pieces": pieces})


def _finished_pieces(folder: Path) -> list[Path]:
    return sorted(folder.glob("piece-*"))


def _piece_taken(folder: Path) -> Taken:
    """What a finished piece holds of its source; opened, so that damage shows."""
    return Taken(**Shard(folder).manifest["provenance"][0])


def _read_on(
    task: _SourceTask, taken: Taken, on_progress: Callable[[int], None]
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

    def __init__(self, task: _SourceTask, reading: Reading) -> None:
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
        number = len(_finished_pieces(self.task.folder))
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


SourceProgress = Callable[[int, int], None]
"""Called with the number of a source and that of its molecules so far."""
_POLL = 0.1  # seconds between looks at the progress, and at the parent
_COUNT = "count"  # file of a source's folder: its molecules so far


def convert_sources(
    workspace: Workspace, workers: int, on_progress: SourceProgress
) -> None:
    """Convert every source of a job to finished pieces in its workspace.

    Args:
        workspace: Open.
        workers: Most processes; with 1 everything happens in this one.
        on_progress: Called from this thread.

    Raises:
        ValueError: Bad input in one source; the others are stopped.
        RuntimeError: A process was killed; the message says what to do.
    """
    job = workspace.job
    tasks = [
        _SourceTask(
            source, workspace.source(index), job.piece_molecules, job.on_invalid
        )
        for index, source in enumerate(job.sources)
    ]
    if workers > 1 and len(tasks) > 1:
        _convert_in_processes(tasks, workers, on_progress)
        return
    for index, task in enumerate(tasks):
        _convert_source(task, partial(on_progress, index))


def _convert_in_processes(
    tasks: list[_SourceTask], workers: int, on_progress: SourceProgress
) -> None:
    # Not the standard library's pool: that one imports the caller's script again.
    from loky import ProcessPoolExecutor
    from loky.process_executor import BrokenProcessPool

    pool = ProcessPoolExecutor(
        min(workers, len(tasks)), initializer=_end_with, initargs=(os.getpid(),)
    )
    try:
        pending = {pool.submit(_work, task): i for i, task in enumerate(tasks)}
        counts = dict.fromkeys(range(len(tasks)), 0)
        while pending:
            done, _ = wait(pending, _POLL, return_when=FIRST_COMPLETED)
            for index, task in enumerate(tasks):
                count = _read_count(task)
                if count > counts[index]:
                    counts[index] = count
                    on_progress(index, count)
            for future in done:
                task = tasks[pending[future]]
                try:
                    future.result()
                except BrokenProcessPool as error:
                    raise RuntimeError(
                        f"{task.source.path}: a process of this conversion was ended "
                        "from outside, often for want of memory; run the same command "
                        "again, with --workers 1 if memory is short"
                    ) from error
                del pending[future]
    finally:
        pool.shutdown(wait=True, kill_workers=True)


def _work(task: _SourceTask) -> None:
    _convert_source(task, partial(_write_count, task))


def _write_count(task: _SourceTask, count: int) -> None:
    (task.folder / _COUNT).write_text(str(count), encoding="ascii")


def _read_count(task: _SourceTask) -> int:
    with suppress(OSError, ValueError):  # not there yet, or just being written
        return int((task.folder / _COUNT).read_text(encoding="ascii"))
    return 0


def _end_with(parent: int) -> None:
    """Let this process end with the command, which alone listens to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL)
        os._exit(1)  # what is unfinished is removed by the next run

    threading.Thread(target=watch, daemon=True).start()
