"""``physnet-train convert``: options, progress and report around ``convert``."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

AssumeMultiplicity = Annotated[
    str | None,
    typer.Option(help="'lowest': for molecules without spin, the lowest possible."),
]
_UNITS, _SOURCES, _WORK = "Units", "What the sources hold", "How to work"


def check_lowest(value: str | None) -> Any:
    """Pass on "lowest" or None; refuse anything else."""
    if value not in (None, "lowest"):
        raise ValueError(f"--assume-multiplicity must be 'lowest', got {value!r}")
    return value


def _unit(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=_UNITS)


def convert(
    paths: Annotated[
        list[Path],
        typer.Argument(help="SOURCE… TARGET: what to read, then a new folder"),
    ],
    energy_unit: Annotated[str | None, _unit("eV, hartree, …")] = None,
    length_unit: Annotated[str | None, _unit("angstrom, bohr")] = None,
    force_unit: Annotated[str | None, _unit("such as eV/angstrom")] = None,
    dipole_unit: Annotated[str | None, _unit("such as debye")] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            help="FIELD=NAME: take this field from that key; repeatable.",
            rich_help_panel=_SOURCES,
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE: keep only such molecules; repeatable.",
            rich_help_panel=_SOURCES,
        ),
    ] = None,
    level: Annotated[
        str | None, typer.Option(help="Level of theory.", rich_help_panel=_SOURCES)
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing",
            help="Accept NaN labels: they stay missing.",
            rich_help_panel=_SOURCES,
        ),
    ] = False,
    assume_multiplicity: AssumeMultiplicity = None,
    on_invalid: Annotated[
        str | None,
        typer.Option(
            help="error (default), skip or keep; skipped and kept molecules are "
            "listed in invalid_rows.csv.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    shard_molecules: Annotated[
        int | None,
        typer.Option(
            help="Most molecules per shard. By default one folder, and shards beyond "
            "1,000,000 molecules.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    append: Annotated[
        bool,
        typer.Option(
            "--append",
            help="Add shards to TARGET, a root of shards.",
            rich_help_panel=_WORK,
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Most processes, one per source; by default one per processor.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    options: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of these options, also per source; the command line wins.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the report as JSON.", rich_help_panel=_WORK),
    ] = False,
) -> None:
    """Convert data files to one packed dataset, validated on the way.

    An interrupted conversion goes on where it was when the same command runs again.
    """
    from rich.console import Console

    from physnet_training.convert import count_molecules, run_job
    from physnet_training.convert_display import ConversionBar, report_lines
    from physnet_training.convert_options import make_job

    if len(paths) < 2:
        raise ValueError("convert needs at least one SOURCE and a TARGET folder")
    *sources, target = paths
    given = {
        "energy_unit": energy_unit,
        "length_unit": length_unit,
        "force_unit": force_unit,
        "dipole_unit": dipole_unit,
        "keys": _pairs("--key", key),
        "where": _pairs("--where", where),
        "level": level,
        "allow_missing": allow_missing or None,
        "assume_multiplicity": check_lowest(assume_multiplicity),
        "on_invalid": on_invalid,
        "shard_molecules": shard_molecules,
        "workers": workers,
    }
    job = make_job(sources, target, given, file=options, append=append)
    with ConversionBar(Console(stderr=True), count_molecules(sources)) as bar:
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
