"""The commands of ``physnet-ase`` that give observables: vibrations, states, crossing.

Heavy imports wait until a command needs them.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from physnet_ase.commands.options import (
    DEFAULT_MODEL,
    AllowUnseen,
    AsJson,
    Charge,
    Model,
    Multiplicity,
    Output,
    Structure,
    busy,
    finish,
    new_calculator,
    plain,
    relaxed,
)

observable_app = typer.Typer()


@observable_app.command()
@plain
def vibrations(
    structure: Structure,
    model: Model = DEFAULT_MODEL,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    as_json: AsJson = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Write the modes, one frame each, to this .xyz file."),
    ] = None,
    allow_unseen_states: AllowUnseen = False,
    relax: Annotated[
        bool, typer.Option("--relax", help="Relax the structure first.")
    ] = False,
    fmax: Annotated[
        float, typer.Option(help="Largest force that --relax leaves, eV/Å.")
    ] = 0.005,
    temperature: Annotated[float, typer.Option(help="In K.")] = 298.15,
    pressure: Annotated[float, typer.Option(help="In Pa.")] = 1e5,
    symmetry_number: Annotated[
        int, typer.Option(help="Of the rotations: H2O 2, NH3 3, CH4 12.")
    ] = 1,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the infrared spectrum into this picture.")
    ] = None,
) -> None:
    """Frequencies, infrared spectrum, zero-point energy and thermochemistry."""
    from physnet_ase.commands import vibration_tables as tables
    from physnet_ase.commands.structure_files import (
        check_folder,
        check_output,
        read_structure,
        write_structures,
    )
    from physnet_ase.observables import Relaxation
    from physnet_ase.observables import vibrations as find_vibrations
    from physnet_ase.observables.ir_spectrum import draw_spectrum

    check_output(output)
    tables.check_modes_file(output)
    check_folder(plot)
    atoms = read_structure(structure, charge, multiplicity)
    calculator = new_calculator(model, allow_unseen_states)
    if relax:
        atoms, _ = relaxed(atoms, calculator, Relaxation(fmax))
    with busy("second derivatives"):
        found = find_vibrations(atoms, calculator)
    conditions = temperature, pressure, symmetry_number
    report = tables.vibrations_report(found, *conditions)
    if plot is not None:
        draw_spectrum(found, plot)
    if output is not None:
        write_structures(output, tables.mode_frames(found))
    finish(report, tables.print_vibrations, [], (as_json, None))


@observable_app.command()
@plain
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
    only: Annotated[
        list[str] | None,
        typer.Option(help="CHARGE,MULTIPLICITY of a state to list; may be repeated."),
    ] = None,
    zero_point: Annotated[
        bool,
        typer.Option("--zero-point", help="With --adiabatic: add zero-point energies."),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the level diagram into this picture.")
    ] = None,
) -> None:
    """States the model has seen, ionization energy, electron affinity, spin gap."""
    from physnet_ase.commands.structure_files import (
        check_folder,
        check_output,
        read_structure,
    )
    from physnet_ase.commands.tables import (
        familiarity_entry,
        print_states,
        state_differences,
        states_report,
    )
    from physnet_ase.observables import scan_states
    from physnet_ase.observables.level_diagram import draw_level_diagram

    check_output(output)
    check_folder(plot)
    atoms = read_structure(structure, charge, multiplicity)
    calculator = new_calculator(model, allow_unseen_states)
    state = calculator.resolve_state(atoms)
    kind: Literal["vertical", "adiabatic"] = "adiabatic" if adiabatic else "vertical"
    chosen = [_parse_state(text) for text in only] if only else None
    with busy(f"{kind} energies"):
        scan = scan_states(atoms, calculator, chosen, kind, zero_point=zero_point)
        differences = state_differences(atoms, calculator, kind, zero_point=zero_point)
    report = states_report(scan, state, differences)
    report |= familiarity_entry(atoms, state, calculator.potential)
    if plot is not None:
        draw_level_diagram(scan, plot)
    for frame in scan.geometries:
        frame.calc = calculator.copy()
    finish(report, print_states, list(scan.geometries), (as_json, output))


@observable_app.command()
@plain
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
    from physnet_ase.commands.structure_files import check_output, read_structure
    from physnet_ase.commands.tables import crossing_report, print_crossing
    from physnet_ase.observables import Relaxation, minimum_energy_crossing_point

    check_output(output)
    pair = _parse_state(state_a), _parse_state(state_b)
    atoms = read_structure(structure, None, None)
    calculator = new_calculator(model, allow_unseen_states)
    with busy("searching the crossing"):
        found = minimum_energy_crossing_point(
            atoms, calculator, *pair, relaxation=Relaxation(fmax, steps)
        )
    for frame in found.geometries:
        frame.calc = calculator.copy()
    frames = list(found.geometries)
    finish(crossing_report(found), print_crossing, frames, (as_json, output))


def _parse_state(text: str) -> tuple[int, int]:
    try:
        charge, multiplicity = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(
            f"a state is CHARGE,MULTIPLICITY such as 1,2; got {text!r}"
        ) from error
    return charge, multiplicity
