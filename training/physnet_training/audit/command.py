"""The command ``physnet-train inspect``: what a dataset holds, and what looks wrong."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from physnet_training.packed import PackedDataset

_Dataset = Annotated[Path, typer.Argument(help="Packed dataset.")]
_Verify = Annotated[bool, typer.Option("--verify", help="Recompute every checksum.")]
_Audit = Annotated[
    bool, typer.Option("--audit", help="Look at all data again, not at the manifest.")
]
_Rows = Annotated[
    str | None, typer.Option(help="Show these molecules in full, such as 12,500,7-9.")
]
_Plot = Annotated[
    Path | None, typer.Option(help="Draw histograms to this file, such as set.png.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def inspect(
    dataset: _Dataset,
    verify: _Verify = False,
    audit: _Audit = False,
    rows: _Rows = None,
    plot: _Plot = None,
    as_json: _Json = False,
) -> None:
    """Summarise a packed dataset: contents, plausibility of units, suspicious rows."""
    from rich.console import Console

    from physnet_training.audit.report import describe, plot_audit, stored_audit, table
    from physnet_training.packed import PackedDataset

    packed = PackedDataset.open(dataset)
    if verify:
        typer.echo(f"{_verify(packed)} files match their checksums", err=True)
    if rows is not None:
        _show_rows(packed, rows, as_json)
        return
    found = None if audit else stored_audit(packed)
    if found is None:
        found = _audit(packed)
    if plot is not None:
        plot_audit(found, plot)
    description = describe(packed, found)
    if as_json:
        typer.echo(json.dumps(description, indent=2))
    else:
        Console().print(table(description))


def _show_rows(packed: "PackedDataset", rows: str, as_json: bool) -> None:
    from physnet_training.audit.report import describe_row, parse_rows, row_lines

    found = [describe_row(packed, row) for row in parse_rows(rows)]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for row in found:
            typer.echo("\n".join(row_lines(row)))


def _verify(packed: "PackedDataset") -> int:
    """Checksums of all files, with a bar over their bytes."""
    total = sum(file.stat().st_size for file in packed.path.rglob("*"))
    with _bar("verifying", total) as progress:
        return packed.verify(lambda file, size: progress.advance(progress.task, size))


def _audit(packed: "PackedDataset") -> dict[str, Any]:
    from physnet_training.audit.audit import audit_dataset

    with _bar("auditing", packed.num_molecules) as progress:
        return audit_dataset(
            packed,
            on_progress=lambda done, _: progress.update(progress.task, completed=done),
        )


def _bar(what: str, total: int) -> Any:
    """A progress bar on stderr with its one task; silent where there is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    progress: Any = Progress(
        console=console, disable=not console.is_terminal, transient=True
    )
    progress.task = progress.add_task(what, total=total)
    return progress
