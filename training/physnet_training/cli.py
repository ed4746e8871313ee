"""The command ``physnet-train``. Heavy imports wait until a command needs them."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from physnet_ase.plain_errors import plain_errors

app = typer.Typer(
    name="physnet-train",
    help="Make a charge- and spin-aware potential: convert, train, evaluate, inspect.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_plain = plain_errors("physnet-train")

Data = Annotated[
    list[Path] | None,
    typer.Option(help="Packed dataset or source file instead of the recipe's."),
]
AssumeMultiplicity = Annotated[
    str | None,
    typer.Option(help="'lowest': for molecules without spin, the lowest possible."),
]


def main() -> None:
    """Entry point of the console command."""
    app()


def _lowest(value: str | None) -> Any:
    if value not in (None, "lowest"):
        raise ValueError(f"--assume-multiplicity must be 'lowest', got {value!r}")
    return value


@app.command()
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
            assume_multiplicity=_lowest(assume_multiplicity),
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


@app.command()
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


@app.command()
@_plain
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a TOML file.")],
    out: Annotated[Path, typer.Option(help="New folder of the run.")],
    data: Data = None,
    steps: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    assume_multiplicity: AssumeMultiplicity = None,
) -> None:
    """Train a recipe; the run's folder gets the model, errors and pictures."""
    from physnet_training.config import load_recipe
    from physnet_training.run import open_data, with_overrides
    from physnet_training.trainer import prepare

    chosen = with_overrides(
        load_recipe(recipe),
        data=data or (),
        steps=steps,
        assume_multiplicity=_lowest(assume_multiplicity),
    )
    dataset = open_data(chosen, out)
    _finish(prepare(chosen, dataset, out))


@app.command()
@_plain
def resume(run: Annotated[Path, typer.Argument(help="Folder of the run.")]) -> None:
    """Continue an interrupted run exactly where its last stored state was."""
    from physnet_training.trainer import reopen

    trainer = reopen(run)
    typer.echo(f"resuming {run} at step {int(trainer.state.step)}")
    _finish(trainer)


def _finish(trainer: Any) -> None:
    from rich.console import Console

    from physnet_training.display import TrainingBar, error_table
    from physnet_training.run import finish

    console = Console()
    split, out = trainer.split, trainer.out
    console.print(
        f"{len(split.train)} molecules to train, {len(split.validation)} to validate, "
        f"{len(split.test)} to test; {trainer.state.weights.size} weights"
    )
    with TrainingBar(console, trainer.recipe.optimizer.steps) as bar:
        report = finish(trainer, bar)
    for part in ("validation", "test"):
        if part in report:
            console.print(error_table(f"{part} errors", report[part]))
    console.print(f"{report['seconds']:.0f} s; model: {out / 'model'}")


@app.command()
@_plain
def evaluate(
    model: Annotated[str, typer.Argument(help="Model directory or pretrained name.")],
    dataset: Annotated[Path, typer.Argument(help="Packed dataset.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the errors to this file.")
    ] = None,
    parity: Annotated[Path | None, typer.Option(help="Draw a parity plot.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    assume_multiplicity: AssumeMultiplicity = None,
) -> None:
    """Errors of a model on a packed dataset, per charge and multiplicity."""
    from rich.console import Console

    from physnet_ase.checkpoint import load_potential
    from physnet_training.display import error_table
    from physnet_training.evaluate import evaluate_potential
    from physnet_training.loader import PackedMemmapLoader
    from physnet_training.packed import PackedDataset
    from physnet_training.plots import plot_parity

    potential = load_potential(model)
    packed = PackedDataset.open(
        dataset, assume_multiplicity=_lowest(assume_multiplicity)
    )
    loader = PackedMemmapLoader(packed, batch_size, shuffle=False)
    predictions = evaluate_potential(potential, loader)
    errors = predictions.errors()
    if parity is not None:
        plot_parity(predictions, parity)
    if json_file is not None:
        content = {"model": model, "dataset": str(dataset), "errors": errors}
        json_file.write_text(json.dumps(content, indent=2) + "\n")
    Console().print(error_table(f"{model} on {dataset}", errors))
