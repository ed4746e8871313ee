"""Several sources at a time, each in a process that ends with the command.

The processes are plain commands that read a task and write lines of JSON: nothing of
the caller's program is imported again, so any script may call a conversion.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from physnet_training.convert_job import Source, Workspace
from physnet_training.convert_source import convert_source
from physnet_training.molecules import ReadOptions
from physnet_training.source_report import SourceReport

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


class _Pool:
    """Runs the tasks and reads what their processes say, one thread for each."""

    def __init__(self, workspace: Workspace, on_progress: SourceProgress) -> None:
        self.workspace = workspace
        self.on_progress = on_progress
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._running: dict[int, subprocess.Popen[str]] = {}
        self._reports: dict[int, SourceReport] = {}

    def run(self, workers: int) -> list[SourceReport]:
        """Convert all sources, at most ``workers`` at a time."""
        sources = self.workspace.job.sources
        waiting = deque(range(len(sources)))
        try:
            while waiting or self._running:
                while waiting and len(self._running) < workers:
                    self._start(waiting.popleft())
                self._handle(*self._events.get())
        finally:
            for process in self._running.values():
                process.kill()
                _close(process)
        return [self._reports[index] for index in range(len(sources))]

    def _start(self, index: int) -> None:
        job = self.workspace.job
        source = job.sources[index]
        task = {
            "path": str(source.path),
            "options": asdict(source.options),
            "folder": str(self.workspace.source(index)),
            "piece_molecules": job.piece_molecules,
            "on_invalid": job.on_invalid,
        }
        command = [sys.executable, "-P", "-m", "physnet_training.convert_processes"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            pass_fds=[self.workspace.lock] if os.name == "posix" else [],
            start_new_session=True,  # Ctrl-C is for this one, which ends the others
        )
        self._running[index] = process
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a process was started without pipes")
        with suppress(BrokenPipeError):  # it died at once; its exit code is reported
            # The pipe stays open: its end tells the process that this one is gone.
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
        threading.Thread(
            target=self._listen, args=(index, process.stdout), daemon=True
        ).start()

    def _listen(self, index: int, output: TextIO) -> None:
        with output:
            for line in output:
                self._events.put((index, json.loads(line)))
        self._events.put((index, None))

    def _handle(self, index: int, event: dict[str, Any] | None) -> None:
        path = self.workspace.job.sources[index].path
        if event is None:
            process = self._running.pop(index)
            _close(process)
            if index not in self._reports:
                raise RuntimeError(
                    f"{path}: the process that converted it ended with code "
                    f"{process.returncode} (-9: killed, often for want of memory); "
                    "run the same command again, with --workers 1 if memory is short"
                )
        elif "count" in event:
            self.on_progress(index, event["count"])
        elif "report" in event:
            self._reports[index] = SourceReport(**event["report"])
        elif "errno" in event:
            raise OSError(event["errno"], event["error"])
        else:
            raise ValueError(event["error"])


def _close(process: "subprocess.Popen[str]") -> None:
    with suppress(BrokenPipeError):
        if process.stdin is not None:
            process.stdin.close()
    process.wait()


def main() -> None:
    """What a process of the pool does: one task, read from standard input."""
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    try:
        report = convert_source(
            Source(Path(task["path"]), ReadOptions(**task["options"])),
            Path(task["folder"]),
            piece_molecules=task["piece_molecules"],
            on_invalid=task["on_invalid"],
            on_progress=lambda count: _say({"count": count}),
        )
    except ValueError as error:
        _say({"error": str(error)})
    except OSError as error:
        _say({"error": f"{error.strerror}: {error.filename}", "errno": error.errno})
    else:
        _say({"report": asdict(report)})


def _end_with_the_caller() -> None:
    while os.read(0, 1024):  # not sys.stdin, whose lock would block the normal exit
        pass
    os._exit(1)  # what is unfinished stays hidden and is removed by the next run


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
