"""What a conversion shows in the terminal: a progress bar, then a report."""

import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from physnet_training.audit.report import audit_lines
from physnet_training.conversion.report import ConversionReport, SourceReport

_QUIET_SECONDS = 10.0
"""Between two lines where there is no terminal."""


class ConversionBar:
    """Molecules, rate and time left; a context manager.

    Without a terminal it prints a line every ten seconds instead, so that a log file
    stays readable.

    Args:
        console: Where to.
        total: Molecules in all sources together, None where nobody knows.
    """

    def __init__(self, console: Console, total: int | None) -> None:
        self._console = console
        self._total = total
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Molecules(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("converting", total=total)
        self._start: tuple[float, int] | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> "ConversionBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def reading(self, source: Path, count: int) -> None:
        """Molecules read so far; the latest come from this source."""
        self._show(f"converting {source.name}", count, self._total)

    def auditing(self, count: int, total: int) -> None:
        """Molecules of the finished dataset that were audited."""
        if self._bar.tasks[0].description != "auditing":
            self._bar.reset(self._task, total=total, description="auditing")
            self._start = None
        self._show("auditing", count, total)

    def _show(self, what: str, count: int, total: int | None) -> None:
        now = time.monotonic()
        if self._start is None:
            self._start = (now, count)
        seconds = now - self._start[0]
        rate = (count - self._start[1]) / seconds if seconds > 0 else 0.0
        self._bar.update(self._task, description=what, completed=count, rate=rate)
        if self._console.is_terminal or now - self._last_line < _QUIET_SECONDS:
            return
        self._last_line = now
        line = f"{what}: {count:,}"
        if total:
            line += f" of {total:,}"
        line += f" molecules, {rate:,.0f}/s"
        if total and rate > 0:
            line += f", {max(total - count, 0) / rate:,.0f} s left"
        self._console.print(line, highlight=False)


class _Molecules(ProgressColumn):
    """``12,000/40,000 molecules  3,100/s``."""

    def render(self, task: Task) -> Text:
        """The text of the column."""
        total = "" if task.total is None else f"/{task.total:,.0f}"
        rate = task.fields.get("rate", 0.0)
        return Text(f"{task.completed:,.0f}{total} molecules  {rate:,.0f}/s")


def report_lines(report: ConversionReport) -> Iterator[str]:
    """A conversion's report as text: what was taken, assumed, left out and written."""
    for source in report.sources:
        yield f"{source.path}: {source.num_molecules:,} molecules"
        yield from (f"  {line}" for line in _source_lines(source))
    yield f"audit (physnet-train inspect {report.target} shows more):"
    for topic, text in audit_lines(report.validation):
        first, *rest = text.splitlines()
        yield f"  {topic}: {first}"
        yield from (f"    {line}" for line in rest)
    shards = f" in {report.num_shards} shards" if report.num_shards > 1 else ""
    yield (
        f"{report.target}: {report.num_molecules:,} molecules, "
        f"{report.num_atoms:,} atoms{shards}"
    )


def _source_lines(source: SourceReport) -> Iterator[str]:
    for quantity, unit in source.units.items():
        yield f"{quantity}: {unit}"
    for note in source.notes:
        yield f"note: {note}"
    for what, keys in (("not used", source.unused), ("ignored", source.ignored)):
        if keys:
            yield f"{what}: {', '.join(keys)}"
    for number, what in (
        (source.num_skipped, "left out"),
        (source.num_kept, "kept, broken labels missing"),
    ):
        if number:
            yield f"invalid: {number:,} molecules {what}, see invalid_rows.csv"
