"""Several sources at a time, in processes that end with the command.

The processes are plain commands that read a task and write lines of JSON: nothing of
the caller's program is imported again, so any script may call a conversion.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from physnet_training.conversion.job import Source, Workspace
from physnet_training.conversion.source import convert_source
from physnet_training.conversion.source_report import SourceReport
from physnet_training.sources.molecules import ReadOptions

SourceProgress = Callable[[int, int], None]
"""Called with the number of a source and that of its molecules so far."""
_Event = tuple[int, dict[str, Any] | None]


def convert_sources(
    workspace: Workspace, workers: int, on_progress: SourceProgress
) -> list[SourceReport]:
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
    if workers == 1 or len(job.sources) == 1:
        return [
            convert_source(
                source,
                workspace.source(index),
                piece_molecules=job.piece_molecules,
                on_invalid=job.on_invalid,
                on_progress=partial(on_progress, index),
            )
            for index, source in enumerate(job.sources)
        ]
    return _Pool(workspace, on_progress).run(workers)


class _Worker:
    """A process that converts one source after another.

    Args:
        number: Names it in the events.
        workspace: Whose lock it inherits.
        events: Gets what it says, then None when it has ended.
    """

    def __init__(
        self, number: int, workspace: Workspace, events: "queue.SimpleQueue[_Event]"
    ) -> None:
        self.source: int | None = None  # what it is converting
        self._job, self._folder = workspace.job, workspace.source
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "physnet_training.conversion.processes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            pass_fds=[workspace.lock] if os.name == "posix" else [],
            start_new_session=True,  # Ctrl-C is for this one, which ends the others
        )

        def listen() -> None:
            for line in self.process.stdout or ():
                events.put((number, json.loads(line)))
            events.put((number, None))

        self._listener = threading.Thread(target=listen, daemon=True)
        self._listener.start()

    def convert(self, index: int) -> None:
        """Start with a source."""
        source = self._job.sources[index]
        task = {
            "path": str(source.path),
            "options": asdict(source.options),
            "folder": str(self._folder(index)),
            "piece_molecules": self._job.piece_molecules,
            "on_invalid": self._job.on_invalid,
        }
        self.source = index
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):  # it died; the listener reports that
                self.process.stdin.write(json.dumps(task) + "\n")
                self.process.stdin.flush()

    def end(self) -> None:
        """Nothing more to do: the end of its input ends the process."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        self.process.wait()
        self._listener.join()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def kill(self) -> None:
        """End it now; what it has not finished stays hidden."""
        self.process.kill()
        self.end()


class _Pool:
    """Hands the sources to the workers and hears what they say."""

    def __init__(self, workspace: Workspace, on_progress: SourceProgress) -> None:
        self.workspace = workspace
        self.on_progress = on_progress
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._workers: dict[int, _Worker] = {}
        self._waiting = deque(range(len(workspace.job.sources)))
        self._reports: dict[int, SourceReport] = {}

    def run(self, workers: int) -> list[SourceReport]:
        """Convert all sources, at most ``workers`` at a time."""
        count = len(self._waiting)
        try:
            for number in range(min(workers, count)):
                worker = _Worker(number, self.workspace, self._events)
                self._workers[number] = worker
                worker.convert(self._waiting.popleft())
            while len(self._reports) < count:
                self._handle(*self._events.get())
        finally:
            for worker in self._workers.values():
                worker.kill()
        return [self._reports[index] for index in range(count)]

    def _handle(self, number: int, event: dict[str, Any] | None) -> None:
        worker = self._workers[number]
        if worker.source is None:
            return
        if event is None:
            worker.end()
            raise RuntimeError(
                f"{self.workspace.job.sources[worker.source].path}: the process that "
                f"converted it ended with code {worker.process.returncode} (-9: "
                "killed, often for want of memory; 1: its error stands above); run the "
                "same command again, with --workers 1 if memory is short"
            )
        if "count" in event:
            self.on_progress(worker.source, event["count"])
        elif "report" in event:
            self._reports[worker.source] = SourceReport(**event["report"])
            worker.source = None
            if self._waiting:
                worker.convert(self._waiting.popleft())
        elif "errno" in event:
            raise OSError(event["errno"], event["error"])
        else:
            raise ValueError(event["error"])


def main() -> None:
    """What a worker does: tasks from its input, until that ends with the caller."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not get between the messages
    tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            tasks.put(json.loads(line))
        os._exit(0)  # what is unfinished stays hidden and is removed by the next run

    def say(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    threading.Thread(target=read, daemon=True).start()
    try:
        while True:
            say(_work(tasks.get(), lambda count: say({"count": count})))
    except Exception:
        traceback.print_exc()
        os._exit(1)  # not the normal exit, for which the thread holds a lock


def _work(task: dict[str, Any], on_progress: Callable[[int], None]) -> dict[str, Any]:
    """Convert one source; its report, or its error, as a message."""
    try:
        report = convert_source(
            Source(Path(task["path"]), ReadOptions(**task["options"])),
            Path(task["folder"]),
            piece_molecules=task["piece_molecules"],
            on_invalid=task["on_invalid"],
            on_progress=on_progress,
        )
    except ValueError as error:
        return {"error": str(error)}
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        return {"error": f"{error.strerror}{place}", "errno": error.errno}
    return {"report": asdict(report)}


if __name__ == "__main__":
    main()
