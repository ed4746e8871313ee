"""The command ``physnet-ase``. Heavy imports wait until a command needs them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from physnet_ase.plain_errors import plain_errors

if TYPE_CHECKING:
    from ase import Atoms

    from physnet_ase.calculator import PhysNetCalculator

DEFAULT_MODEL = "states-dft-small"
"""The pretrained model that ships with the package."""

app = typer.Typer(
    name="physnet-ase",
    help="Use a charge- and spin-aware potential: energies, relaxations, states.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Structure = Annotated[
    str,
    typer.Argument(
        help="A file that ASE reads (last frame; FILE@3 picks another), or a molecule "
        "that ASE knows by name, such as H2O."
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

_plain = plain_errors("physnet-ase")


def main() -> None:
    """Entry point of the console command."""
    app()


@app.command()
@_plain
def info(
    model: Annotated[
        str, typer.Argument(help="Model directory or pretrained name.")
    ] = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Print what a model knows: elements, states, level of theory, errors."""
    from physnet_ase.checkpoint import load_potential
    from physnet_ase.tables import print_model

    potential = load_potential(model)
    if as_json:
        typer.echo(json.dumps(potential.metadata.model_dump(mode="json"), indent=2))
    else:
        print_model(potential)


@app.command()
@_plain
def energy(
    structure: Structure,
    model: Model = DEFAULT_MODEL,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    as_json: AsJson = False,
    output: Output = None,
    allow_unseen_states: AllowUnseen = False,
) -> None:
    """Energy, forces, charges and dipole of one structure."""
    from physnet_ase.structure_files import check_output, read_structure
    from physnet_ase.tables import print_structure, structure_report

    check_output(output)
    atoms = read_structure(structure, charge, multiplicity)
    calculator = _calculator(model, allow_unseen_states)
    atoms.calc = calculator
    atoms.get_forces()
    report = structure_report(atoms, calculator.resolve_state(atoms))
    _finish(report, print_structure, [atoms], (as_json, output))


@app.command()
@_plain
def optimize(
    structure: Structure,
    model: Model = DEFAULT_MODEL,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    as_json: AsJson = False,
    output: Output = None,
    allow_unseen_states: AllowUnseen = False,
    fmax: Annotated[float, typer.Option(help="Largest force left, eV/Å.")] = 0.01,
    steps: Annotated[int, typer.Option(help="Most steps.")] = 500,
) -> None:
    """Relax one structure in its state."""
    from rich.console import Console

    from physnet_ase.relaxation import Relaxation, relax
    from physnet_ase.structure_files import check_output, read_structure
    from physnet_ase.tables import print_structure, structure_report

    check_output(output)
    relaxation = Relaxation(fmax, steps)
    atoms = read_structure(structure, charge, multiplicity)
    calculator = _calculator(model, allow_unseen_states)
    state = calculator.resolve_state(atoms)
    num_steps = 0
    with Console(stderr=True).status("relaxing") as status:

        def show(step: int, energy: float, force: float) -> None:
            nonlocal num_steps
            num_steps = step
            status.update(f"step {step}: {energy:.4f} eV, {force:.4f} eV/Å")

        relaxed, _ = relax(atoms, state, calculator, relaxation, on_step=show)
    relaxed.calc = calculator
    relaxed.get_forces()
    report = structure_report(relaxed, state) | {"steps": num_steps}
    _finish(report, print_structure, [relaxed], (as_json, output))


@app.command()
@_plain
def states(
    structure: Structure,
    model: Model = DEFAULT_MODEL,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    as_json: AsJson = False,
    output: Output = None,
    allow_unseen_states: AllowUnseen = False,
    adiabatic: Annotated[
        bool, typer.Option("--adiabatic", help="Relax each state first.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the level diagram into this picture.")
    ] = None,
) -> None:
    """All states the model has seen, ionization energy, affinity and spin gap."""
    from physnet_ase.level_diagram import draw_level_diagram
    from physnet_ase.observables import scan_states
    from physnet_ase.structure_files import check_folder, check_output, read_structure
    from physnet_ase.tables import print_states, state_differences, states_report

    check_output(output)
    check_folder(plot)
    atoms = read_structure(structure, charge, multiplicity)
    calculator = _calculator(model, allow_unseen_states)
    state = calculator.resolve_state(atoms)
    kind: Literal["vertical", "adiabatic"] = "adiabatic" if adiabatic else "vertical"
    scan = scan_states(atoms, calculator, kind=kind)
    report = states_report(scan, state, state_differences(atoms, calculator, kind))
    if plot is not None:
        draw_level_diagram(scan, plot)
    for frame in scan.geometries:
        frame.calc = calculator.copy()
    _finish(report, print_states, list(scan.geometries), (as_json, output))


@app.command()
@_plain
def crossing(
    structure: Structure,
    state_a: Annotated[str, typer.Option(help="CHARGE,MULTIPLICITY.")] = "0,1",
    state_b: Annotated[str, typer.Option(help="CHARGE,MULTIPLICITY.")] = "0,3",
    model: Model = DEFAULT_MODEL,
    as_json: AsJson = False,
    output: Output = None,
    allow_unseen_states: AllowUnseen = False,
    fmax: Annotated[float, typer.Option(help="Gradient left, eV/Å.")] = 0.01,
    steps: Annotated[int, typer.Option(help="Most steps.")] = 500,
) -> None:
    """Lowest point where two states have the same energy."""
    from physnet_ase.observables import Relaxation, minimum_energy_crossing_point
    from physnet_ase.structure_files import check_output, read_structure
    from physnet_ase.tables import crossing_report, print_crossing

    check_output(output)
    pair = _parse_state(state_a), _parse_state(state_b)
    atoms = read_structure(structure, None, None)
    calculator = _calculator(model, allow_unseen_states)
    found = minimum_energy_crossing_point(
        atoms, calculator, *pair, relaxation=Relaxation(fmax, steps)
    )
    for frame in found.geometries:
        frame.calc = calculator.copy()
    frames = list(found.geometries)
    _finish(crossing_report(found), print_crossing, frames, (as_json, output))


def _parse_state(text: str) -> tuple[int, int]:
    try:
        charge, multiplicity = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(
            f"a state is CHARGE,MULTIPLICITY such as 1,2; got {text!r}"
        ) from error
    return charge, multiplicity


def _calculator(model: str, allow_unseen_states: bool) -> "PhysNetCalculator":
    from physnet_ase.calculator import PhysNetCalculator

    return PhysNetCalculator(model, allow_unseen_states=allow_unseen_states)


def _finish(
    report: dict[str, Any],
    print_report: Callable[[dict[str, Any]], None],
    frames: "list[Atoms]",
    options: tuple[bool, Path | None],
) -> None:
    """Write the structures first: a pipe that closes early must not lose them."""
    as_json, output = options
    if output is not None:
        from physnet_ase.structure_files import write_structures

        for frame in frames:
            frame.get_forces()
        write_structures(output, frames)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        print_report(report)
