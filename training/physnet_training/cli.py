"""The command ``physnet-train``. Heavy imports wait until a command needs them."""

import json
import tempfile
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from physnet_ase.commands.plain_errors import plain_errors
from physnet_training.audit.command import inspect
from physnet_training.conversion.command import (
    AssumeMultiplicity,
    check_lowest,
    convert,
)
from physnet_training.label_command import label_app

app = typer.Typer(
    name="physnet-train",
    help="Make a charge- and spin-aware potential: label, convert, inspect, train, …",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(label_app)
_plain = plain_errors("physnet-train")
app.command()(_plain(convert))
app.command()(_plain(inspect))

Data = Annotated[
    list[Path] | None,
    typer.Option(help="Packed dataset or source file instead of the recipe's."),
]


def main() -> None:
    """Entry point of the console command."""
    app()


Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Instead of the recipe's, such as optimizer.learning_rate=5e-4; again "
        "for more.",
    ),
]


Tensorboard = Annotated[
    bool, typer.Option(help="Write TensorBoard events to the run's folder too.")
]


NumDevices = Annotated[
    int | None,
    typer.Option(
        "--devices",
        min=1,
        help="How many compute, of those of each process; default: all.",
    ),
]
Distributed = Annotated[
    bool,
    typer.Option(
        "--distributed",
        help="Train together with the processes that Slurm, MPI or Kubernetes started "
        "beside this one.",
    ),
]
Coordinator = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Where process 0 of several listens, which were started by hand; with "
        "the next two.",
    ),
]
NumProcesses = Annotated[int | None, typer.Option(min=1, help="How many there are.")]
ProcessId = Annotated[
    int | None, typer.Option(min=0, help="Which one this is, from 0.")
]


def _devices(
    most: int | None,
    distributed: bool,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> Any:
    """What computes; before anything else that needs JAX."""
    from physnet_training.train.devices import Devices, join

    join(distributed, coordinator, num_processes, process_id)
    return Devices(most)


def _stages(computing: Any) -> Any:
    """Shows what a training is about, in the process that writes."""
    from rich.console import Console

    from physnet_training.train.display import stages_shown

    return stages_shown(Console()) if computing.writes else nullcontext()


def _show_defaults(wanted: bool) -> None:
    if wanted:
        from physnet_training.train.recipe import Recipe, commented

        typer.echo(commented(Recipe()), nl=False)
        raise typer.Exit


@app.command()
@_plain
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a TOML file.")],
    out: Annotated[Path, typer.Option(help="New folder of the run.")],
    data: Data = None,
    steps: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    settings: Settings = None,
    tensorboard: Tensorboard = False,
    devices: NumDevices = None,
    distributed: Distributed = False,
    coordinator: Coordinator = None,
    num_processes: NumProcesses = None,
    process_id: ProcessId = None,
    assume_multiplicity: AssumeMultiplicity = None,
    show_defaults: Annotated[
        bool,
        typer.Option(
            "--show-defaults",
            help="Print a recipe of all defaults, explained, and end.",
            is_eager=True,
            callback=_show_defaults,
        ),
    ] = False,
) -> None:
    """Train a recipe; the run's folder gets the model, errors and pictures."""
    from physnet_training.train.recipe import load_recipe
    from physnet_training.train.run import open_data, with_overrides
    from physnet_training.train.trainer import check_new, exclusive, prepare

    computing = _devices(devices, distributed, coordinator, num_processes, process_id)
    chosen = with_overrides(
        load_recipe(recipe, settings or ()),
        data=data or (),
        steps=steps,
        assume_multiplicity=check_lowest(assume_multiplicity),
    )
    check_new(out)
    with exclusive(out, computing), _stages(computing):
        dataset = open_data(chosen, out)
        _finish(prepare(chosen, dataset, out, devices=computing), tensorboard)


@app.command()
@_plain
def finetune(
    model: Annotated[str, typer.Argument(help="Model directory or pretrained name.")],
    dataset: Annotated[
        Path, typer.Argument(help="Packed dataset, or a file that convert takes.")
    ],
    out: Annotated[Path, typer.Option(help="New folder of the run.")],
    freeze: Annotated[
        str, typer.Option(help="nothing, or trunk: only the outputs learn.")
    ] = "nothing",
    steps: Annotated[
        int | None, typer.Option(help="Length; default: 200 passes over the data.")
    ] = None,
    replay: Annotated[
        list[Path] | None,
        typer.Option(help="Old data, to keep what the model knew; repeatable."),
    ] = None,
    replay_share: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of batches of old data.")
    ] = 0.2,
    settings: Settings = None,
    tensorboard: Tensorboard = False,
    devices: NumDevices = None,
    distributed: Distributed = False,
    coordinator: Coordinator = None,
    num_processes: NumProcesses = None,
    process_id: ProcessId = None,
    assume_multiplicity: AssumeMultiplicity = None,
) -> None:
    """Teach a trained model new data: its weights, their references, a low rate."""
    from physnet_training.train.recipe import recipe_from, with_settings
    from physnet_training.train.run import open_sources, with_overrides
    from physnet_training.train.start import with_architecture
    from physnet_training.train.suggest import finetune_content
    from physnet_training.train.trainer import check_new, exclusive, prepare

    computing = _devices(devices, distributed, coordinator, num_processes, process_id)
    check_new(out)
    lowest = check_lowest(assume_multiplicity)
    with exclusive(out, computing), _stages(computing):
        old = replay or []
        packed = open_sources([dataset, *old], out / "dataset", lowest)
        content = finetune_content(
            model, packed, freeze, replay=old, replay_share=replay_share
        )
        content = with_architecture(with_settings(content, settings or ()), Path())
        chosen = with_overrides(
            recipe_from(content, "finetune"),
            data=[dataset],
            steps=steps,
            assume_multiplicity=lowest,
        )
        _finish(prepare(chosen, packed, out, devices=computing), tensorboard)


@app.command()
@_plain
def recipe(
    dataset: Annotated[Path, typer.Argument(help="Packed dataset.")],
    out: Annotated[
        Path | None, typer.Option(help="Write it to this file, not the terminal.")
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Time that a training may take.")
    ] = 30.0,
    memory: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="GB that the arrays of a step may take: smaller batches, several to a "
            "step, where they do not fit.",
        ),
    ] = None,
    assume_multiplicity: AssumeMultiplicity = None,
) -> None:
    """Write a commented recipe to start from, made for a dataset and this machine."""
    from physnet_training.packed import PackedDataset
    from physnet_training.train.suggest import starting_recipe

    if out is not None and out.exists():
        raise FileExistsError(f"{out} exists; choose another --out or remove it")
    packed = PackedDataset.open(
        dataset, assume_multiplicity=check_lowest(assume_multiplicity)
    )
    text = starting_recipe(packed, minutes, memory)
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")


@app.command()
@_plain
def resume(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    steps: Annotated[
        int | None,
        typer.Option(
            help="Train so many steps in all: extends a run, unless its schedule is "
            "cosine."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Where the packed dataset was moved to.")
    ] = None,
    tensorboard: Tensorboard = False,
    devices: NumDevices = None,
    distributed: Distributed = False,
    coordinator: Coordinator = None,
    num_processes: NumProcesses = None,
    process_id: ProcessId = None,
) -> None:
    """Continue an interrupted run exactly where its last stored state was."""
    from physnet_training.train.trainer import exclusive, reopen

    if not run.is_dir():
        raise FileNotFoundError(f"{run} is no folder; name the folder of a run")
    computing = _devices(devices, distributed, coordinator, num_processes, process_id)
    with exclusive(run, computing), _stages(computing):
        trainer = reopen(run, steps=steps, data=data, devices=computing)
        if computing.writes:
            typer.echo(f"resuming {run} at step {int(trainer.state.step)}")
        _finish(trainer, tensorboard)


def _finish(trainer: Any, tensorboard: bool) -> None:
    from rich.console import Console

    from physnet_training.train.display import (
        TrainingBar,
        calibration_table,
        data_line,
        error_table,
    )
    from physnet_training.train.events import Events
    from physnet_training.train.run import finish

    devices = trainer.devices
    console = Console(quiet=not devices.writes)
    split, out = trainer.split, trainer.out
    console.print(
        f"{len(split.train)} molecules to train, {len(split.validation)} to validate, "
        f"{len(split.test)} to test; {trainer.state.weights.size} weights; {devices}"
    )
    with ExitStack() as stack:
        if tensorboard and devices.writes:
            first = int(trainer.state.step) + 1
            events = stack.enter_context(Events(out / "tensorboard", first))
            trainer.on_history = events.write
        steps = trainer.recipe.optimizer.steps
        bar = stack.enter_context(TrainingBar(console, steps))
        report = finish(trainer, bar)
    for part in ("validation", "test"):
        if part in report:
            console.print(error_table(f"{part} errors", report[part]))
        if f"{part}_calibration" in report:
            console.print(calibration_table(report[f"{part}_calibration"]))
    console.print(data_line(report["data"]))
    if trainer.stopped_early:
        console.print(
            f"stopped early at step {report['steps']}: no better validation in "
            f"{trainer.waits}"
        )
    for retreat in trainer.guard.retreats:
        console.print(
            f"went back from step {retreat['step']} to {retreat['back_to']} at "
            f"{retreat['rate']:g} of the learning rate: {retreat['reason']}"
        )
    console.print(f"{report['seconds']:.0f} s; model: {out / 'model'}")


@app.command()
@_plain
def evaluate(
    model: Annotated[str, typer.Argument(help="Model directory or pretrained name.")],
    dataset: Annotated[
        Path, typer.Argument(help="Packed dataset, or a file that convert takes.")
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the errors to this file.")
    ] = None,
    parity: Annotated[Path | None, typer.Option(help="Draw a parity plot.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    assume_multiplicity: AssumeMultiplicity = None,
) -> None:
    """Errors of a model on labelled molecules: per state, element, size and level."""
    from rich.console import Console

    from physnet_ase.potential import load_potential
    from physnet_training.loading.loader import PackedMemmapLoader
    from physnet_training.train.calibration import calibration
    from physnet_training.train.display import (
        calibration_table,
        error_table,
        gap_error_table,
        tables_by,
        worst_table,
    )
    from physnet_training.train.evaluate import evaluate_potential
    from physnet_training.train.plots import plot_parity
    from physnet_training.train.run import open_sources

    potential = load_potential(model)
    with tempfile.TemporaryDirectory(prefix="physnet-evaluate-") as folder:
        packed = open_sources(
            [dataset], Path(folder) / "packed", check_lowest(assume_multiplicity)
        )
        loader = PackedMemmapLoader(packed, batch_size, shuffle=False)
        predictions = evaluate_potential(potential, loader)
    errors, worst = predictions.errors(), predictions.worst.rows()
    calibrated = calibration(predictions.values)
    if parity is not None:
        plot_parity(predictions, parity)
    if json_file is not None:
        content = {
            "model": model,
            "dataset": str(dataset),
            "errors": errors,
            "errors_by": predictions.errors_by(),
            "gaps": predictions.gaps(),
            "worst": worst,
            **({"calibration": calibrated} if calibrated else {}),
        }
        json_file.write_text(json.dumps(content, indent=2) + "\n")
    console = Console()
    console.print(error_table(f"{model} on {dataset}", errors))
    for table in tables_by(predictions.errors_by()):
        console.print(table)
    if gaps := predictions.gaps():
        console.print(gap_error_table(gaps))
    console.print(worst_table(worst))
    if calibrated:
        console.print(calibration_table(calibrated))
