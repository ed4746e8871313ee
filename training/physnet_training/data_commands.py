"""The data commands of ``physnet-train``: convert and inspect."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from physnet_ase.plain_errors import plain_errors

data_app = typer.Typer()
_plain = plain_errors("physnet-train")

AssumeMultiplicity = Annotated[
    str | None,
    typer.Option(help="'lowest': for molecules without spin, the lowest possible."),
]


def check_lowest(value: str | None) -> Any:
    """Pass on "lowest" or None; refuse anything else."""
    if value not in (None, "lowest"):
        raise ValueError(f"--assume-multiplicity must be 'lowest', got {value!r}")
    return value


@data_app.command()
@_plain
def convert(
    paths: Annotated[
        list[Path],
        typer.Argument(help="SOURCE… TARGET: files to read, then a new folder"),
    ],
    energy_unit: Annotated[str | None, typer.Option(help="eV, hartree, …")] = None,
    length_unit: Annotated[str | None, typer.Option(help="angstrom, bohr")] = None,
    force_unit: Annotated[str | None, typer.Option(help="such as eV/angstrom")] = None,
    dipole_unit: Annotated[str | None, typer.Option(help="such as debye")] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="FIELD=NAME: take this field from that key; repeatable."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE: keep only such molecules; repeatable."),
    ] = None,
    level: Annotated[str | None, typer.Option(help="Level of theory.")] = None,
    allow_missing: Annotated[
        bool, typer.Option(help="Accept NaN labels: they stay missing.")
    ] = False,
    assume_multiplicity: AssumeMultiplicity = None,
) -> None:
    """Convert NPZ, extended XYZ or HDF5 files to one packed dataset, validated."""
    from rich.console import Console

    from physnet_training.convert import convert as run_convert

    if len(paths) < 2:
        raise ValueError("convert needs at least one SOURCE and a TARGET folder")
    *sources, target = paths
    console = Console(stderr=True)
    with console.status("converting") as status:

        def show(source: Path, count: int) -> None:
            status.update(f"converting {source.name}: {count} molecules")

        report = run_convert(
            list(sources),
            target,
            on_progress=show,
            energy_unit=energy_unit,
            length_unit=length_unit,
            force_unit=force_unit,
            dipole_unit=dipole_unit,
            keys=_pairs("--key", key),
            where=_pairs("--where", where),
            level=level,
            allow_missing=allow_missing,
            assume_multiplicity=check_lowest(assume_multiplicity),
        )
    for source in report.sources:
        typer.echo(f"{source.path}: {source.num_molecules} molecules")
        for quantity, unit in source.units.items():
            typer.echo(f"  {quantity}: {unit}")
        for note in source.notes:
            typer.echo(f"  note: {note}")
    typer.echo(
        f"{report.target}: {report.num_molecules} molecules, {report.num_atoms} atoms"
    )


def _pairs(option: str, values: list[str] | None) -> dict[str, str]:
    pairs = {}
    for value in values or []:
        name, equals, content = value.partition("=")
        if not equals or not name or not content:
            raise ValueError(f"{option} takes NAME=VALUE, got {value!r}")
        pairs[name] = content
    return pairs


@data_app.command()
@_plain
def inspect(
    dataset: Annotated[Path, typer.Argument(help="Packed dataset.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Recompute every checksum.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Summarise a packed dataset: counts, elements, states, labels, sources."""
    from rich.console import Console

    from physnet_training.inspect import describe, table
    from physnet_training.packed import PackedDataset

    packed = PackedDataset.open(dataset)
    if verify:
        count = packed.verify()
        typer.echo(f"{count} files match their checksums", err=True)
    description = describe(packed)
    if as_json:
        typer.echo(json.dumps(description, indent=2))
    else:
        Console().print(table(description))
