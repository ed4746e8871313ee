"""What the command line prints, as tables for people and as mappings for programs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.formula import Formula
from rich.console import Console
from rich.table import Table

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.committee import Committee
from physnet_ase.minimization import Relaxed
from physnet_ase.molecules import Molecules
from physnet_ase.observables import (
    CrossingPoint,
    EnergyDifference,
    StateEnergies,
    electron_affinity,
    ionization_energy,
    singlet_triplet_gap,
)
from physnet_ase.observables.results import Kind
from physnet_ase.potential import Potential
from physnet_ase.state import ElectronicState, signed

_DIFFERENCES: dict[str, Callable[..., EnergyDifference]] = {
    "ionization_energy": ionization_energy,
    "electron_affinity": electron_affinity,
    "singlet_triplet_gap": singlet_triplet_gap,
}


def print_model(potential: Potential) -> None:
    """Print what a model knows of itself."""
    known = potential.metadata
    console = Console()
    console.print(f"[bold]{known.name or 'untitled'}[/bold] {known.description}")
    facts = Table(show_header=False, box=None)
    facts.add_row("written by", f"physnet-ase {known.package_version}")
    facts.add_row("elements", ", ".join(known.element_energies))
    facts.add_row("levels of theory", ", ".join(known.levels_of_theory) or "not stated")
    if len(potential.levels) > 1:
        others = set(potential.levels) - set(known.levels_of_theory)
        facts.add_row("answers also", f"{'; '.join(sorted(others))} (MODEL@LEVEL)")
    facts.add_row("electrostatics", known.electrostatics)
    sizes = [np.size(leaf) for leaf in _leaves(potential.params)]
    facts.add_row("parameters", f"{sum(sizes):,}")
    for name, value in known.config.model_dump().items():
        facts.add_row(name, str(value))
    console.print(facts)
    table = Table(title="States seen in training")
    for column in ("charge", "2S+1", "molecules", "reference energy / eV"):
        table.add_column(column, justify="right")
    for record in known.states:
        table.add_row(
            signed(record.charge),
            str(record.multiplicity),
            str(record.count),
            f"{record.reference_energy:.4f}",
        )
    console.print(table)
    if known.validation_errors:
        console.print(_validation_table(known.validation_errors))


def _validation_table(rows: list[dict[str, Any]]) -> Table:
    """Mean absolute errors per state; the rest stands in the JSON output."""
    table = Table(title="Validation errors (all of them with --json)")
    names = [
        name
        for name in rows[0]
        if "_rmse" not in name and "_per_atom" not in name and name != "multiplicity"
    ]
    for name in names:
        header = "2S+1 at charge" if name == "charge" else name.replace("_", " ")
        table.add_column(header, justify="right")
    for row in rows:
        cells = {name: _shown(row.get(name)) for name in names}
        if "charge" in cells:
            charge = row.get("charge")
            multiplicity = row.get("multiplicity")
            cells["charge"] = (
                "all" if charge is None else f"{multiplicity} at {signed(charge)}"
            )
        table.add_row(*cells.values())
    return table


def _leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [leaf for branch in tree.values() for leaf in _leaves(branch)]
    return [tree]


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def structure_report(atoms: Atoms, state: ElectronicState) -> dict[str, Any]:
    """Results of a structure whose calculator has run, ready for JSON."""
    results = atoms.calc.results
    report: dict[str, Any] = {
        "formula": atoms.get_chemical_formula(),
        "charge": state.charge,
        "multiplicity": state.multiplicity,
        "energy_eV": float(results["energy"]),
        **({"energy_std_eV": float(std)} if (std := results.get("energy_std")) else {}),
        "max_force_eV_per_A": float(np.max(np.linalg.norm(results["forces"], axis=1))),
        "symbols": atoms.get_chemical_symbols(),
        "positions_A": atoms.positions.tolist(),
        "forces_eV_per_A": results["forces"].tolist(),
        "charges_e": results["charges"].tolist(),
    }
    report |= familiarity_entry(atoms, state, atoms.calc.potential)
    if atoms.calc.fragments:
        report["fragments"] = [
            {
                "atoms": members.tolist(),
                "charge": own.charge,
                "multiplicity": own.multiplicity,
            }
            for members, own in atoms.calc.fragments
        ]
    if "magmoms" in results:
        report["spin_populations"] = results["magmoms"].tolist()
    if "dipole" in results:
        report["dipole_eA"] = results["dipole"].tolist()
    if "stress" in results:
        report["stress_eV_per_A3"] = results["stress"].tolist()
    return report


def familiarity_entry(
    atoms: Atoms, state: ElectronicState, potential: Potential | Committee
) -> dict[str, float]:
    """The familiarity score for a report; nothing where the model does not say it."""
    verdicts = potential.known(Molecules.from_atoms([atoms], [state]))
    return {"familiarity": round(min(verdicts[0].score, 999.0), 3)} if verdicts else {}


def print_structure(report: dict[str, Any]) -> None:
    """Print a report of ``structure_report``."""
    console = Console()
    console.print(
        f"[bold]{report['formula']}[/bold], charge {signed(report['charge'])}, "
        f"multiplicity {report['multiplicity']}"
    )
    facts = Table(show_header=False, box=None)
    if "steps" in report:
        facts.add_row("steps", str(report["steps"]))
    facts.add_row("energy", f"{report['energy_eV']:.6f} eV")
    if "energy_std_eV" in report:
        facts.add_row("its spread", f"{report['energy_std_eV']:.4f} eV")
    for one in report.get("fragments", ()):
        formula = Formula.from_list([report["symbols"][i] for i in one["atoms"]])
        facts.add_row(
            "fragment",
            f"{formula:hill}, charge {signed(one['charge'])}, "
            f"multiplicity {one['multiplicity']}",
        )
    facts.add_row("largest force", f"{report['max_force_eV_per_A']:.4f} eV/Å")
    if "familiarity" in report:
        known = "" if report["familiarity"] <= 1.0 else "  unfamiliar, see above"
        facts.add_row("familiarity", f"{report['familiarity']:.2f} (1: limit){known}")
    if "dipole_eA" in report:
        dipole = float(np.linalg.norm(report["dipole_eA"]))
        facts.add_row("dipole", f"{dipole:.4f} e·Å")
    console.print(facts)
    table = Table()
    names = ("atom", "x / Å", "y / Å", "z / Å", "Fx / eV/Å", "Fy", "Fz", "charge / e")
    for name in names:
        table.add_column(name, justify="right")
    rows = zip(
        report["symbols"],
        report["positions_A"],
        report["forces_eV_per_A"],
        report["charges_e"],
        strict=True,
    )
    for symbol, position, force, charge in rows:
        numbers = [*position, *force, charge]
        table.add_row(symbol, *(f"{number:.4f}" for number in numbers))
    console.print(table)


def relaxed_report(found: Sequence[Relaxed]) -> dict[str, Any]:
    """What came of relaxing many structures."""
    return {
        "structures": [
            {
                "formula": one.atoms.get_chemical_formula(),
                "charge": one.state.charge,
                "multiplicity": one.state.multiplicity,
                "energy_eV": one.energy,
                "max_force_eV_per_A": one.largest_force,
                "steps": one.steps,
            }
            for one in found
        ]
    }


def print_relaxed(report: dict[str, Any]) -> None:
    """Print a report of ``relaxed_report``."""
    table = Table()
    for column in ("", "formula", "charge", "2S+1", "energy / eV", "eV/Å", "steps"):
        table.add_column(column, justify="right")
    for index, row in enumerate(report["structures"]):
        table.add_row(
            str(index),
            row["formula"],
            signed(row["charge"]),
            str(row["multiplicity"]),
            f"{row['energy_eV']:.6f}",
            f"{row['max_force_eV_per_A']:.4f}",
            str(row["steps"]),
        )
    Console().print(table)


def state_differences(
    atoms: Atoms, calculator: PhysNetCalculator, kind: Kind, *, zero_point: bool = False
) -> dict[str, dict[str, Any]]:
    """Ionization energy, electron affinity and spin gap; those that exist.

    A quantity that the molecule or the model does not have (no ions seen, odd number
    of electrons) carries the reason instead of a value.

    Raises:
        RuntimeError: An adiabatic relaxation did not converge.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, function in _DIFFERENCES.items():
        try:
            found = function(atoms, calculator, kind, zero_point=zero_point)
        except ValueError as error:
            rows[name] = {"value_eV": None, "reason": str(error)}
            continue
        rows[name] = {
            "value_eV": found.value,
            **({} if found.std is None else {"std_eV": found.std}),
            "from": [found.from_state.charge, found.from_state.multiplicity],
            "to": [found.to_state.charge, found.to_state.multiplicity],
        }
    return rows


def states_report(
    scan: StateEnergies, state: ElectronicState, differences: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """A scan of states and the differences, ready for JSON."""
    rows = zip(scan.states, scan.energies, scan.relative_energies, strict=True)
    levels = [
        {
            "charge": one.charge,
            "multiplicity": one.multiplicity,
            "energy_eV": energy,
            "relative_energy_eV": relative,
        }
        for one, energy, relative in rows
    ]
    for level, std in zip(levels, scan.relative_stds or (), strict=False):
        level["relative_energy_std_eV"] = std
    return {
        "formula": scan.geometries[0].get_chemical_formula(),
        "charge": state.charge,
        "multiplicity": state.multiplicity,
        "kind": scan.kind,
        "zero_point_energies_eV": scan.zero_point_energies,
        "states": levels,
        **differences,
    }


def print_states(report: dict[str, Any]) -> None:
    """Print a report of ``states_report``."""
    console = Console()
    zero_points = report["zero_point_energies_eV"]
    title = f"{report['formula']}, {report['kind']}"
    table = Table(title=title + ", with zero-point energies" * bool(zero_points))
    extra = ["zero point / eV"] if zero_points else []  # else the rows do not add up
    for column in ("charge", "2S+1", "energy / eV", *extra, "relative / eV"):
        table.add_column(column, justify="right")
    for index, level in enumerate(report["states"]):
        table.add_row(
            signed(level["charge"]),
            str(level["multiplicity"]),
            f"{level['energy_eV']:.4f}",
            *([f"{zero_points[index]:.4f}"] if zero_points else []),
            f"{level['relative_energy_eV']:.4f}"
            + _plus_minus(level.get("relative_energy_std_eV")),
        )
    console.print(table)
    for name in _DIFFERENCES:
        row = report[name]
        label = name.replace("_", " ")
        if row["value_eV"] is None:
            console.print(f"{label}: not available ({row['reason']})", markup=False)
            continue
        start, end = ElectronicState(*row["from"]), ElectronicState(*row["to"])
        value = f"{row['value_eV']:.4f}{_plus_minus(row.get('std_eV'))}"
        console.print(f"{label}: {value} eV ({start} → {end})")


def _plus_minus(std: float | None) -> str:
    """What follows a value that a committee gives."""
    return "" if std is None else f" ± {std:.4f}"


def crossing_report(found: CrossingPoint) -> dict[str, Any]:
    """A crossing point, ready for JSON."""
    geometry = found.geometries[0]
    return {
        "formula": geometry.get_chemical_formula(),
        "states": [[state.charge, state.multiplicity] for state in found.states],
        "energy_eV": found.value,
        "gap_eV": found.gap,
        "residual_gradient_eV_per_A": found.residual_gradient,
        "steps": found.num_steps,
        "symbols": geometry.get_chemical_symbols(),
        "positions_A": geometry.positions.tolist(),
    }


def print_crossing(report: dict[str, Any]) -> None:
    """Print a report of ``crossing_report``."""
    console = Console()
    first, second = (ElectronicState(*state) for state in report["states"])
    console.print(f"[bold]{report['formula']}[/bold]: {first} × {second}")
    console.print(
        f"energy {report['energy_eV']:.6f} eV, gap {report['gap_eV']:.1e} eV, gradient "
        f"along the seam {report['residual_gradient_eV_per_A']:.4f} eV/Å, "
        f"{report['steps']} steps"
    )
    table = Table()
    for name in ("atom", "x / Å", "y / Å", "z / Å"):
        table.add_column(name, justify="right")
    for symbol, position in zip(report["symbols"], report["positions_A"], strict=True):
        table.add_row(symbol, *(f"{number:.4f}" for number in position))
    console.print(table)
