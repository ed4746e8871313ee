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


def _unit(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="Units")


def _content(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="What the sources hold")


def _work(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="How to work")


_Paths = Annotated[
    list[Path],
    typer.Argument(help="SOURCE… TARGET: what to read, then a new folder"),
]
_Energy = Annotated[str | None, _unit("eV, hartree, …")]
_Length = Annotated[str | None, _unit("angstrom, bohr")]
_Force = Annotated[str | None, _unit("such as eV/angstrom")]
_Dipole = Annotated[str | None, _unit("such as debye")]
_Key = Annotated[
    list[str] | None,
    _content("FIELD=NAME: take this field from that key; repeatable."),
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
    int | None,
    _work("Most processes, one per source; by default one per processor."),
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

    from physnet_training.conversion.display import ConversionBar, report_lines
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
