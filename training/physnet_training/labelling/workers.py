"""Worker processes that may hang or die without taking the run with them."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_CONTEXT = get_context("spawn")  # a fork would copy locks of this process' threads


class Source(Protocol):
    """What hands out tasks and takes results."""

    def next_task(self) -> Any | None:
        """Another task; None while there is none, for now or for good."""

    def received(self, task: Any, event: Any) -> None:
        """A worker reports something about its task."""

    def finished(self, task: Any) -> None:
        """A worker is done with its task."""

    def lost(self, task: Any, reason: str) -> None:
        """The worker was killed or died at this task."""


class _Worker:
    """A process and the task it works at."""

    def __init__(self, work: Callable[[Any], Iterator[Any]]) -> None:
        self.connection, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(theirs, work), daemon=True)
        with _one_thread():
            self.process.start()
        theirs.close()
        self.task: Any = None
        self.since = 0.0
        self.ready = False

    def give(self, task: Any) -> None:
        self.task, self.since = task, time.monotonic()
        with suppress(ConnectionError):  # it died: noticed when it is listened to
            self.connection.send(task)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def run_tasks(
    source: Source,
    work: Callable[[Any], Iterator[Any]],
    *,
    workers: int,
    timeout_s: float | None = None,
) -> None:
    """Work at tasks in parallel processes until the source has none left.

    Args:
        source: Hands out tasks; called in this process only.
        work: A function of a module; yields events about a task. It runs with one
            thread per process.
        workers: Most processes at a time.
        timeout_s: A worker that reports nothing for so long is killed.

    Raises:
        RuntimeError: A worker cannot start.
    """
    team: list[_Worker] = []
    try:
        while True:
            _hand_out(source, team, work, workers)
            busy = [worker for worker in team if worker.task is not None]
            if not busy:
                return
            wait([worker.connection for worker in busy], _patience(busy, timeout_s))
            for worker in busy:
                if not _listen(source, worker, timeout_s):
                    team.remove(worker)
                    worker.stop()
    finally:
        for worker in team:
            worker.stop()


def _hand_out(
    source: Source,
    team: list[_Worker],
    work: Callable[[Any], Iterator[Any]],
    workers: int,
) -> None:
    """Give every idle worker a task, and hire where there are more tasks."""
    idle = [worker for worker in team if worker.task is None]
    while idle or len(team) < workers:
        task = source.next_task()
        if task is None:
            return
        if not idle:
            team.append(_Worker(work))
            idle.append(team[-1])
        idle.pop().give(task)


def _patience(busy: list[_Worker], timeout_s: float | None) -> float | None:
    if timeout_s is None:
        return None
    first = min(worker.since for worker in busy)
    return max(0.0, first + timeout_s - time.monotonic())


def _listen(source: Source, worker: _Worker, timeout_s: float | None) -> bool:
    """Take what a worker reported; return whether it lives on."""
    task = worker.task
    try:
        while worker.connection.poll():
            event = worker.connection.recv()
            worker.since = time.monotonic()
            if not worker.ready:
                worker.ready = True  # its first message says no more than this
            elif event is None:
                worker.task = None
                source.finished(task)
                return True
            else:
                source.received(task, event)
    except (EOFError, ConnectionError):
        worker.process.join()
        if not worker.ready:
            raise RuntimeError(
                "a worker process could not start (its message stands above); a script "
                'that labels must do so below if __name__ == "__main__":'
            ) from None
        source.lost(task, f"the process died with code {worker.process.exitcode}")
        return False
    if timeout_s is not None and time.monotonic() - worker.since >= timeout_s:
        source.lost(task, f"it took longer than {timeout_s:g} s")
        return False
    return True


def _serve(connection: Connection, work: Callable[[Any], Iterator[Any]]) -> None:
    """The worker's loop; it ends when the other end of the pipe is gone."""
    # Ctrl-C reaches the whole group; the parent decides and kills its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        connection.send(None)
        while True:
            for event in work(connection.recv()):
                connection.send(event)
            connection.send(None)
    except (EOFError, ConnectionError):
        return


@contextmanager
def _one_thread() -> Iterator[None]:
    """Environment of a child in which numerical libraries use one thread."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
