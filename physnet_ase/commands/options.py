"""What the commands of ``physnet-ase`` share: options, progress, output."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from physnet_ase.commands.plain_errors import plain_errors

if TYPE_CHECKING:
    from ase import Atoms
    from rich.status import Status

    from physnet_ase.calculator import PhysNetCalculator
    from physnet_ase.minimization import Relaxed
    from physnet_ase.observables.relaxation import Relaxation

plain = plain_errors("physnet-ase")

DEFAULT_MODEL = "states-organic"
"""The pretrained model that ships with the package."""

Structure = Annotated[
    str,
    typer.Argument(
        help="A file that ASE reads (last frame; FILE@3 picks another), a molecule "
        "that ASE knows by name, such as H2O, or SMILES: smiles:CCO (with RDKit)."
    ),
]
Model = Annotated[str, typer.Option(help="Model directory or pretrained name.")]
Charge = Annotated[int | None, typer.Option(help="Total charge in e.")]
Multiplicity = Annotated[int | None, typer.Option(help="Spin multiplicity 2S+1.")]
AllowUnseen = Annotated[
    bool, typer.Option(help="Warn, instead of refusing, in a state never trained on.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Output = Annotated[
    Path | None,
    typer.Option(help="Write structures with results to this file, any ASE format."),
]


def busy(text: str) -> "Status":
    """Show a line on stderr while work goes on, where that is a terminal."""
    from rich.console import Console

    return Console(stderr=True).status(text)


def relaxed(
    atoms: "Atoms", calculator: "PhysNetCalculator", relaxation: "Relaxation"
) -> "tuple[Atoms, int]":
    """Relax in the atoms' state, with a line of progress; also the steps it took."""
    from physnet_ase.observables.relaxation import relax

    num_steps = 0
    with busy("relaxing") as status:

        def show(step: int, energy: float, force: float) -> None:
            nonlocal num_steps
            num_steps = step
            status.update(f"step {step}: {energy:.4f} eV, {force:.4f} eV/Å")

        state = calculator.resolve_state(atoms)
        moved, _ = relax(atoms, state, calculator, relaxation, on_step=show)
    return moved, num_steps


def relaxed_together(
    structures: "list[Atoms]",
    model: str,
    relaxation: "Relaxation",
    allow_unseen_states: bool,
) -> "list[Relaxed]":
    """Relax each in its state, with a line of progress."""
    from physnet_ase.minimization import relax

    with busy("relaxing") as status:

        def show(done: int, count: int) -> None:
            status.update(f"{done} of {count} structures relaxed")

        found: list[Relaxed] = relax(
            structures,
            model,
            fmax=relaxation.fmax,
            steps=relaxation.steps,
            allow_unseen_states=allow_unseen_states,
            on_progress=show,
        )
    return found


def new_calculator(model: str, allow_unseen_states: bool) -> "PhysNetCalculator":
    """Load a model into a calculator."""
    from physnet_ase.calculator import PhysNetCalculator

    return PhysNetCalculator(model, allow_unseen_states=allow_unseen_states)


def finish(
    report: dict[str, Any],
    print_report: Callable[[dict[str, Any]], None],
    frames: "list[Atoms]",
    options: tuple[bool, Path | None],
) -> None:
    """Write the structures first: a pipe that closes early must not lose them."""
    as_json, output = options
    if output is not None:
        from physnet_ase.commands.structure_files import write_structures

        for frame in frames:
            frame.get_forces()
        write_structures(output, frames)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        print_report(report)
