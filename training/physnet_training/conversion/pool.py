"""Several sources at a time, in processes that end with the command."""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import suppress
from functools import partial

from physnet_training.conversion.pipe import SourceTask, convert_source
from physnet_training.conversion.workspace import Workspace

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
        SourceTask(source, workspace.source(index), job.piece_molecules, job.on_invalid)
        for index, source in enumerate(job.sources)
    ]
    if workers > 1 and len(tasks) > 1:
        _convert_in_processes(tasks, workers, on_progress)
        return
    for index, task in enumerate(tasks):
        convert_source(task, partial(on_progress, index))


def _convert_in_processes(
    tasks: list[SourceTask], workers: int, on_progress: SourceProgress
) -> None:
    # Not the standard library's pool: that one imports the caller's script again.
    from loky import ProcessPoolExecutor
    from loky.process_executor import BrokenProcessPool

    pool = ProcessPoolExecutor(
        min(workers, len(tasks)), initializer=_end_with, initargs=(os.getpid(),)
    )
    try:
        pending = {pool.submit(work, task): i for i, task in enumerate(tasks)}
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


def work(task: SourceTask) -> None:
    """What a worker does with one source."""
    convert_source(task, partial(_write_count, task))


def _write_count(task: SourceTask, count: int) -> None:
    (task.folder / _COUNT).write_text(str(count), encoding="ascii")


def _read_count(task: SourceTask) -> int:
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
