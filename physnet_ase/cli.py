"""The command ``physnet-ase``. Heavy imports wait until a command needs them."""

import json
from typing import Annotated

import typer

from physnet_ase.commands.analysis import analysis_app
from physnet_ase.commands.dynamics import dynamics_app
from physnet_ase.commands.observables import observable_app
from physnet_ase.commands.options import (
    DEFAULT_MODEL,
    AllowUnseen,
    AsJson,
    Charge,
    Model,
    Multiplicity,
    Output,
    Structure,
    finish,
    new_calculator,
    plain,
    relaxed,
    relaxed_together,
)

app = typer.Typer(
    name="physnet-ase",
    help="Use a charge- and spin-aware potential: energies, dynamics, states.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(observable_app)
app.add_typer(dynamics_app)
app.add_typer(analysis_app)


def main() -> None:
    """Entry point of the console command."""
    app()


@app.command()
@plain
def info(
    model: Annotated[
        str, typer.Argument(help="Model directory or pretrained name.")
    ] = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Print what a model knows: elements, states, level of theory, errors."""
    from physnet_ase.commands.tables import print_model
    from physnet_ase.potential import load_potential

    potential = load_potential(model)
    if as_json:
        known = potential.metadata.model_dump(mode="json", exclude={"environments"})
        typer.echo(json.dumps(known, indent=2))
    else:
        print_model(potential)


@app.command()
@plain
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
    from physnet_ase.commands.structure_files import check_output, read_structure
    from physnet_ase.commands.tables import print_structure, structure_report

    check_output(output)
    atoms = read_structure(structure, charge, multiplicity)
    calculator = new_calculator(model, allow_unseen_states)
    atoms.calc = calculator
    atoms.get_forces()
    report = structure_report(atoms, calculator.resolve_state(atoms))
    finish(report, print_structure, [atoms], (as_json, output))


@app.command()
@plain
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
    """Relax one structure in its state, or every structure of a file together."""
    from physnet_ase.commands.structure_files import check_output, read_structures
    from physnet_ase.commands.tables import (
        print_relaxed,
        print_structure,
        relaxed_report,
        structure_report,
    )
    from physnet_ase.minimization import RelaxationError
    from physnet_ase.observables.relaxation import Relaxation

    check_output(output)
    relaxation = Relaxation(fmax, steps)
    structures = read_structures(structure, charge, multiplicity)
    if len(structures) > 1:
        try:
            several = relaxed_together(
                structures, model, relaxation, allow_unseen_states
            )
        except RelaxationError as error:
            # What did converge is not lost with the rest.
            ended = [one for one in error.results if one.problem is None]
            report = relaxed_report(ended)
            frames = [one.atoms for one in ended]
            finish(report, print_relaxed, frames, (as_json, output if ended else None))
            raise
        frames = [one.atoms for one in several]
        finish(relaxed_report(several), print_relaxed, frames, (as_json, output))
        return
    [atoms] = structures
    calculator = new_calculator(model, allow_unseen_states)
    state = calculator.resolve_state(atoms)
    found, num_steps = relaxed(atoms, calculator, relaxation)
    found.calc = calculator
    found.get_forces()
    report = structure_report(found, state) | {"steps": num_steps}
    finish(report, print_structure, [found], (as_json, output))
