"""The command ``physnet-ase md``: molecular dynamics into a folder, and on from it."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from physnet_ase.commands.options import (
    DEFAULT_MODEL,
    AllowUnseen,
    AsJson,
    plain,
)

if TYPE_CHECKING:
    from physnet_ase.simulate import SimulationProgress
    from physnet_ase.state import ElectronicState

dynamics_app = typer.Typer()

_UNITS = {"fs": 1.0, "ps": 1e3, "ns": 1e6}


def parse_time(text: str) -> float:
    """Time in fs from "500fs", "10ps" or "1.5 ns".

    Raises:
        ValueError: No number, no unit, or not above zero.
    """
    stripped = text.strip()
    number, unit = stripped[:-2], stripped[-2:]
    try:
        value = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        value = 0.0
    if not value > 0.0:
        raise ValueError(f"a time is written 500fs, 10ps or 1ns, got {text!r}")
    return value


def parse_state(text: str) -> "ElectronicState":
    """State from "Q,M".

    Raises:
        ValueError: Something else.
    """
    from physnet_ase.state import ElectronicState

    parts = text.split(",")
    try:
        charge, multiplicity = (int(part) for part in parts)
    except ValueError:
        raise ValueError(
            f"a state is written CHARGE,MULTIPLICITY such as 1,2, got {text!r}"
        ) from None
    return ElectronicState(charge, multiplicity)


def parse_event(text: str) -> tuple[float, int, int]:
    """Time in fs, charge and multiplicity from "5ps:1,2".

    Raises:
        ValueError: Something else.
    """
    time, colon, state = text.partition(":")
    if not colon:
        raise ValueError(
            f"an event is written TIME:STATE such as 5ps:1,2, got {text!r}"
        )
    found = parse_state(state)
    return parse_time(time), found.charge, found.multiplicity


@dynamics_app.command()
@plain
def md(
    structures: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files that ASE reads (last frame; FILE@3 picks another), or "
            "molecules that ASE knows by name."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Model directory or pretrained name.")
    ] = DEFAULT_MODEL,
    time: Annotated[
        str | None, typer.Option(help="Simulated time: 500fs, 10ps, 1ns.")
    ] = None,
    ensemble: Annotated[
        Literal[
            "nve", "nvt-langevin", "nvt-nose-hoover", "nvt-csvr", "npt", "npt-flexible"
        ]
        | None,
        typer.Option(help="nve unless --settings says otherwise."),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="In K; 300.")] = None,
    final_temperature: Annotated[
        float | None, typer.Option(help="In K: the bath's at the end.")
    ] = None,
    timestep: Annotated[float | None, typer.Option(help="In fs; 0.5.")] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(help="CHARGE,MULTIPLICITY; several: each structure in each."),
    ] = None,
    event: Annotated[
        list[str] | None,
        typer.Option(help="TIME:STATE: go on in another state, such as 5ps:1,2."),
    ] = None,
    replicas: Annotated[
        int, typer.Option(min=1, help="Runs of each structure in each state.")
    ] = 1,
    pressure: Annotated[float | None, typer.Option(help="In GPa, for npt.")] = None,
    save_every: Annotated[
        int | None, typer.Option(help="Steps between frames; 10.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the first replica; 0.")] = None,
    settings: Annotated[
        Path | None,
        typer.Option(help="TOML file with settings of simulate.run; options win."),
    ] = None,
    stop_familiarity: Annotated[
        float | None, typer.Option(help="Stop a replica above this score, such as 2.")
    ] = None,
    stop_distance: Annotated[
        float | None, typer.Option(help="Stop it when atoms come closer, in Å.")
    ] = None,
    stop_bond_stretch: Annotated[
        float | None,
        typer.Option(help="Stop it when a bond is so many times as long as at start."),
    ] = None,
    max_temperature: Annotated[
        float | None, typer.Option(help="Stop it above this, in K; 20000.")
    ] = None,
    committee: Annotated[
        list[str] | None,
        typer.Option(help="Another model, whose forces are compared; several."),
    ] = None,
    stop_forces_std: Annotated[
        float | None,
        typer.Option(help="Stop it where the committee deviates more, in eV/Å."),
    ] = None,
    trajectory_format: Annotated[
        Literal["extxyz", "traj", "h5md"], typer.Option(help="Of the trajectories.")
    ] = "extxyz",
    allow_unseen_states: AllowUnseen = False,
    as_json: AsJson = False,
) -> None:
    """Molecular dynamics of one or many replicas, in a folder that can be resumed."""
    if (out is None) == (resume is None):
        raise ValueError("give --out FOLDER for a new run, or --resume FOLDER to go on")
    from physnet_ase.commands.structure_files import read_structure
    from physnet_ase.potential import absolute_name
    from physnet_ase.simulate import folder as run_folders

    if resume is not None:
        if structures or state or event or settings is not None:
            raise ValueError(
                "--resume takes everything from its folder; only --time may be given"
            )
        plan = run_folders.read_plan(resume)
        if time is not None:
            steps = round(parse_time(time) / plan.settings.timestep_fs)
            changed = plan.settings.model_copy(update={"steps": steps})
            plan = plan.model_copy(update={"settings": changed})
            run_folders.write_plan(resume, plan)
        _run(resume, plan.settings.steps, plan.settings.timestep_fs, as_json)
        return
    if not structures:
        raise ValueError("name at least one structure")
    given: dict[str, Any] = {
        "ensemble": ensemble,
        "temperature_K": temperature,
        "final_temperature_K": final_temperature,
        "timestep_fs": timestep,
        "pressure_GPa": pressure,
        "save_every": save_every,
        "seed": seed,
        "allow_unseen_states": allow_unseen_states or None,
        "max_temperature_K": max_temperature,
        "stop_familiarity": stop_familiarity,
        "stop_distance": stop_distance,
        "stop_bond_stretch": stop_bond_stretch,
        "stop_forces_std": stop_forces_std,
    }
    chosen = run_folders.settings_from(settings, given)
    if time is not None:
        steps = round(parse_time(time) / chosen.timestep_fs)
        chosen = run_folders.settings_from(settings, given | {"steps": max(steps, 1)})
    plan = run_folders.Plan(
        model=absolute_name(model, Path()),
        trajectory=trajectory_format,
        events=tuple(parse_event(one) for one in event or []),
        committee=tuple(absolute_name(one, Path()) for one in committee or []),
        settings=chosen,
    )
    start = run_folders.replicate(
        [read_structure(one, None, None) for one in structures],
        [parse_state(one) for one in state or []],
        replicas,
    )
    folder = Path() if out is None else out
    run_folders.create_folder(folder, plan, start)
    try:
        _run(folder, chosen.steps, chosen.timestep_fs, as_json)
    except (ValueError, FileNotFoundError):
        run_folders.discard_unbegun(folder)
        raise


def _run(folder: Path, steps: int, timestep_fs: float, as_json: bool) -> None:
    """Run the folder with a bar; a signal ends it at the next block."""
    from physnet_ase.simulate.folder import report, run_folder

    with _signals() as received, _bar(steps, timestep_fs) as show:
        found = run_folder(folder, on_progress=show, should_stop=lambda: bool(received))
    content = report(found, folder)
    if as_json:
        typer.echo(json.dumps(content, indent=2))
    else:
        _print_report(content)
    if received:
        typer.echo(
            f"stopped by a signal, all is kept; go on with: physnet-ase md --resume "
            f"{folder}",
            err=True,
        )
        raise typer.Exit(128 + received[0])


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM; the second of a kind acts as ever."""
    received: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def note(number: int, _: Any) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.getsignal(number)
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _bar(steps: int, timestep_fs: float) -> "Iterator[Any]":
    """A bar with time, speed, temperature, drift and time left, on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from physnet_ase.simulate.folder import Rate, progress_entry

    console = Console(stderr=True)
    rate = Rate()
    bar = Progress(
        BarColumn(bar_width=20),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("md", total=steps, note="compiling…")

    def show(progress: "SimulationProgress") -> None:
        entry = progress_entry(progress, timestep_fs, rate)
        speed, drift = entry["ns_per_day"], entry["drift_meV_per_atom_ps"]
        note = f"{entry['time_ps']:.3f} ps  {entry['temperature_K']:.0f} K"
        if speed is not None:
            note += f"  {speed:.3g} ns/day"
        if (entry["familiarity"] or 0.0) > 1.0:
            note += f"  familiarity {entry['familiarity']:.1f}"
        if drift is not None:
            note += f"  drift {drift:+.2g} meV/atom/ps"
        bar.update(task, completed=progress.step, note=note)

    with bar:
        yield show


def _print_report(content: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=content["folder"])
    columns = ("", "formula", "charge", "2S+1", "ps", "mean K", "drift", "familiarity")
    for column in columns:
        table.add_column(column, justify="right")
    for index, row in enumerate(content["replicas"]):
        drift, mean = row["drift_meV_per_atom_ps"], row["mean_temperature_K"]
        score = row["familiarity"]
        table.add_row(
            str(index),
            row["formula"],
            f"{row['charge']:+d}" if row["charge"] else "0",
            str(row["multiplicity"]),
            f"{row['time_ps']:.3f}",
            "" if mean is None else f"{mean:.0f}",
            "" if drift is None else f"{drift:+.3g}",
            "" if score is None else f"{score:.2f}",
        )
    console = Console()
    console.print(table)
    console.print("drift of the conserved energy in meV/atom/ps")
    if any((row["familiarity"] or 0.0) > 1.0 for row in content["replicas"]):
        console.print("familiarity above 1: structures unlike those of the training")
    for index, row in enumerate(content["replicas"]):
        if row["stopped"]:
            console.print(f"replica {index} stopped: {row['stopped']}")
