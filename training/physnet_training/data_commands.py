"""The data commands of ``physnet-train``: convert and inspect."""

import json
from pathlib import Path
from typing import Annotated

import typer

from physnet_ase.plain_errors import plain_errors
from physnet_training.convert_command import convert

data_app = typer.Typer()
_plain = plain_errors("physnet-train")

data_app.command()(_plain(convert))


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
