"""``physnet-train convert``: options, progress and report around ``convert``."""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
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
            TextColumn("{task.fields[molecules]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("converting", total=total, molecules="")
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
        of = "" if total is None else f"/{total:,}"
        shown = f"{count:,}{of} molecules  {rate:,.0f}/s"
        self._bar.update(self._task, description=what, completed=count, molecules=shown)
        if self._console.is_terminal or now - self._last_line < _QUIET_SECONDS:
            return
        self._last_line = now
        of = f" of {total:,}" if total else ""
        line = f"{what}: {count:,}{of} molecules, {rate:,.0f}/s"
        if total and rate > 0:
            line += f", {max(total - count, 0) / rate:,.0f} s left"
        self._console.print(line, highlight=False)


def report_lines(report: "ConversionReport") -> Iterator[str]:
    """A conversion's report as text: what was taken, assumed, left out and written."""
    from physnet_training.audit.report import audit_lines

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


def _source_lines(source: "SourceReport") -> Iterator[str]:
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


AssumeMultiplicity = Annotated[
    str | None,
    typer.Option(help="'lowest': for molecules without spin, the lowest possible."),
]


def _unit(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="Units")


def _content(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="What the sources hold")


def _work(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="How to work")


_Paths = Annotated[
    list[Path], typer.Argument(help="SOURCE… TARGET: what to read, then a new folder")
]
_Energy = Annotated[str | None, _unit("eV, hartree, …")]
_Length = Annotated[str | None, _unit("angstrom, bohr")]
_Force = Annotated[str | None, _unit("such as eV/angstrom")]
_Dipole = Annotated[str | None, _unit("such as debye")]
_Key = Annotated[
    list[str] | None, _content("FIELD=NAME: take this field from that key; repeatable.")
]
_Ignore = Annotated[
    list[str] | None,
    _content("NAME: leave this key out, though it looks like a label; repeatable."),
]
_Where = Annotated[
    list[str] | None, _content("KEY=VALUE: keep only such molecules; repeatable.")
]
_Level = Annotated[str | None, _content("Level of theory.")]
_AllowMissing = Annotated[
    bool, _content("Accept NaN labels: they stay missing.", "--allow-missing")
]
_OnInvalid = Annotated[
    str | None,
    _work(
        "error (default), skip or keep; skipped and kept molecules are listed in "
        "invalid_rows.csv."
    ),
]
_ShardMolecules = Annotated[
    int | None,
    _work(
        "Most molecules per shard. By default one folder, and shards beyond "
        "1,000,000 molecules."
    ),
]
_Append = Annotated[bool, _work("Add shards to TARGET, a root of shards.", "--append")]
_Workers = Annotated[
    int | None, _work("Most processes, one per source; by default one per processor.")
]
_Options = Annotated[
    Path | None,
    _work("TOML file of these options, also per source; the command line wins."),
]
_Json = Annotated[bool, _work("Print the report as JSON.", "--json")]


def check_lowest(value: str | None) -> Any:
    """Pass on "lowest" or None; refuse anything else."""
    if value not in (None, "lowest"):
        raise ValueError(f"--assume-multiplicity must be 'lowest', got {value!r}")
    return value


def convert(
    paths: _Paths,
    energy_unit: _Energy = None,
    length_unit: _Length = None,
    force_unit: _Force = None,
    dipole_unit: _Dipole = None,
    key: _Key = None,
    ignore: _Ignore = None,
    where: _Where = None,
    level: _Level = None,
    allow_missing: _AllowMissing = False,
    assume_multiplicity: AssumeMultiplicity = None,
    on_invalid: _OnInvalid = None,
    shard_molecules: _ShardMolecules = None,
    append: _Append = False,
    workers: _Workers = None,
    options: _Options = None,
    as_json: _Json = False,
) -> None:
    """Convert data files to one packed dataset, validated on the way.

    An interrupted conversion goes on where it was when the same command runs again.
    """
    from rich.console import Console

    from physnet_training.conversion.command import ConversionBar, report_lines
    from physnet_training.conversion.job import make_job
    from physnet_training.convert import count_molecules, run_job

    if len(paths) < 2:
        raise ValueError("convert needs at least one SOURCE and a TARGET folder")
    *sources, target = paths
    given = {
        "energy_unit": energy_unit,
        "length_unit": length_unit,
        "force_unit": force_unit,
        "dipole_unit": dipole_unit,
        "keys": _pairs("--key", key),
        "ignore": tuple(ignore or ()),
        "where": _pairs("--where", where),
        "level": level,
        "allow_missing": allow_missing or None,
        "assume_multiplicity": check_lowest(assume_multiplicity),
        "on_invalid": on_invalid,
        "shard_molecules": shard_molecules,
        "workers": workers,
    }
    job = make_job(sources, target, given, file=options, append=append)
    with ConversionBar(Console(stderr=True), count_molecules(job)) as bar:
        report = run_job(job, on_progress=bar.reading, on_audit=bar.auditing)
    if as_json:
        json.dump(asdict(report), sys.stdout, indent=2)
        typer.echo()
    else:
        typer.echo("\n".join(report_lines(report)))


def _pairs(option: str, values: list[str] | None) -> dict[str, str]:
    pairs = {}
    for value in values or []:
        name, equals, content = value.partition("=")
        if not equals or not name or not content:
            raise ValueError(f"{option} takes NAME=VALUE, got {value!r}")
        pairs[name] = content
    return pairs
