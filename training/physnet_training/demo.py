"""The main job from end to end, as ``make demo`` runs it.

Convert the data that ships, train, then use the model: relax a molecule in two states,
compare vertical and adiabatic gaps with their DFT labels and with the pretrained model,
and run molecular dynamics.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from rich.console import Console
from rich.table import Table

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.checkpoint import load_potential
from physnet_ase.observables import (
    electron_affinity,
    ionization_energy,
    singlet_triplet_gap,
)
from physnet_ase.potential import Potential
from physnet_ase.relaxation import Relaxation, relax
from physnet_training.config import load_recipe
from physnet_training.display import TrainingBar, error_table
from physnet_training.ladders import (
    GapComparison,
    Ladder,
    compare_gaps,
    find_ladders,
    gap_errors,
)
from physnet_training.run import finish, open_data, with_overrides
from physnet_training.splits import Split
from physnet_training.trainer import prepare

PRETRAINED = "states-dft-small"
RECIPE = Path(__file__).parents[1] / "recipes" / "demo.toml"
MOLECULES = ("H2O", "NH3", "CH4", "H2CO", "C2H4", "CH2_s3B1d", "NH2", "CH3")
"""Molecules of the printed table; the report holds every labelled one."""
RELAXED = "H2CO"
SHORT = {
    "ionization_energy": "IE",
    "electron_affinity": "EA",
    "singlet_triplet_gap": "S–T gap",
}
LOWEST_AFFINITY = 0.2
"""eV; below it the anion is not bound and its label an artefact of the basis."""


def train_model(out: Path, steps: int | None, console: Console) -> dict[str, Any]:
    """Convert, train and evaluate in ``out/run``; return the run's report."""
    if not RECIPE.is_file():
        raise FileNotFoundError(
            f"{RECIPE} is missing; the demo runs from a clone of the repository, which "
            "holds the recipe and the data"
        )
    recipe = with_overrides(load_recipe(RECIPE), steps=steps)
    dataset = open_data(recipe, out / "run")
    console.print(f"converted {len(dataset)} molecules in {len(dataset.states)} states")
    trainer = prepare(recipe, dataset, out / "run")
    with TrainingBar(console, recipe.optimizer.steps) as bar:
        report = finish(trainer, bar)
    console.print(error_table("Held-out geometries", report["validation"]))
    console.print(error_table("Held-out molecules", report["test"]))
    return report


def relax_states(ladder: Ladder, potential: Potential, out: Path) -> dict[str, Any]:
    """Relax a molecule as neutral and as cation; write both structures."""
    calculator = PhysNetCalculator(potential)
    states = {"neutral": (0, 1), "cation": (1, 2)}
    report: dict[str, Any] = {"molecule": ladder.name}
    for name, (charge, multiplicity) in states.items():
        atoms = ladder.atoms()
        atoms.info.update(charge=charge, multiplicity=multiplicity)
        atoms.calc = calculator
        before = float(atoms.get_potential_energy())
        try:
            relaxed = relax(atoms, calculator, Relaxation(fmax=0.01, steps=500))
        except RuntimeError as error:
            report[name] = {"converged": False, "message": str(error)}
            continue
        relaxed.write(out / f"{ladder.name}_{name}.xyz")
        bond = relaxed.get_distance(0, 1)
        report[name] = {
            "converged": True,
            "energy_ev": float(relaxed.get_potential_energy()),
            "relaxation_ev": float(relaxed.get_potential_energy()) - before,
            "first_bond_angstrom": float(bond),
            "first_bond_dft_neutral_angstrom": float(atoms.get_distance(0, 1)),
        }
    return report


def adiabatic_gaps(ladder: Ladder, potential: Potential) -> dict[str, float | str]:
    """Adiabatic gaps in eV from the model's own relaxations, or why there is none."""
    calculator = PhysNetCalculator(potential)
    functions = {
        "ionization_energy": ionization_energy,
        "electron_affinity": electron_affinity,
        "singlet_triplet_gap": singlet_triplet_gap,
    }
    gaps: dict[str, float | str] = {}
    for kind, (upper, lower) in ladder.gap_states().items():
        atoms = ladder.atoms()
        states: dict[str, Any] = {}
        if kind != "singlet_triplet_gap":
            first, last = (
                (lower, upper) if kind == "ionization_energy" else (upper, lower)
            )
            states = {"from_state": first, "to_state": last}
        try:
            result: Any = functions[kind](
                atoms,
                calculator,
                kind="adiabatic",
                relaxation=Relaxation(fmax=0.02, steps=300),
                **states,
            )
            gaps[kind] = float(result.value)
        except RuntimeError as error:
            gaps[kind] = f"not converged: {error}"
    return gaps


def gap_table(rows: list[dict[str, Any]]) -> Table:
    """Vertical gaps of model, labels and pretrained model, and adiabatic ones."""
    table = Table(
        title="Gaps in eV (* geometry or molecule not trained on; EA below 0.2 eV: "
        "the anion is not bound)",
        title_justify="left",
    )
    for heading, justify in (
        ("molecule", "left"),
        ("gap", "left"),
        ("DFT", "right"),
        ("this model", "right"),
        ("error", "right"),
        ("pretrained", "right"),
        ("error", "right"),
        ("adiabatic, this model", "right"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        adiabatic = row["adiabatic_model_ev"]
        table.add_row(
            row["molecule"] + ("*" if row["held_out"] else ""),
            SHORT[row["gap"]],
            f"{row['dft_ev']:.2f}",
            f"{row['model_ev']:.2f}",
            f"{row['error_ev']:+.2f}",
            f"{row['pretrained_ev']:.2f}",
            f"{row['pretrained_error_ev']:+.2f}",
            f"{adiabatic:.2f}" if isinstance(adiabatic, float) else "not converged",
        )
    return table


def compare(
    ladders: list[Ladder], held_out: set[int], potential: Potential, other: Potential
) -> dict[str, Any]:
    """Vertical gaps of all ladders by both models; errors where not trained on."""
    parts = {
        "held_out": [row for row in ladders if set(row.rows) <= held_out],
        "trained_on": [row for row in ladders if not set(row.rows) & held_out],
    }
    models = {"model": potential, "pretrained": other}
    return {
        name: {
            which: gap_errors(compare_gaps(model, chosen), lowest_affinity=LOWEST_AFFINITY)
            for which, model in models.items()
        }
        for name, chosen in parts.items()
    }


def table_rows(
    ladders: list[Ladder], held_out: set[int], potential: Potential, other: Potential
) -> list[dict[str, Any]]:
    """One row per molecule and gap at the relaxed neutral geometry."""
    first: dict[str, Ladder] = {}
    for ladder in ladders:
        first.setdefault(ladder.name, ladder)
    rows = []
    for name in MOLECULES:
        ladder = first[name]
        pairs: list[tuple[GapComparison, GapComparison]] = list(
            zip(
                compare_gaps(potential, [ladder]),
                compare_gaps(other, [ladder]),
                strict=True,
            )
        )
        adiabatic = adiabatic_gaps(ladder, potential)
        for mine, theirs in pairs:
            rows.append(
                {
                    "molecule": name,
                    "gap": mine.kind,
                    "held_out": set(ladder.rows) <= held_out,
                    "states": [str(mine.upper), str(mine.lower)],
                    "dft_ev": mine.reference,
                    "model_ev": mine.model,
                    "error_ev": mine.error,
                    "pretrained_ev": theirs.model,
                    "pretrained_error_ev": theirs.error,
                    "adiabatic_model_ev": adiabatic[mine.kind],
                }
            )
    return rows


def run_dynamics(atoms: Atoms, potential: Potential, out: Path) -> dict[str, Any]:
    """NVE of the neutral and the cation through jax-md; a picture of the energies."""
    import matplotlib.pyplot as plt

    from physnet_ase import simulate

    figure, axes = plt.subplots(2, 1, figsize=(7, 5), sharex=True, layout="constrained")
    report: dict[str, Any] = {"molecule": atoms.get_chemical_formula()}
    for axis, (name, charge, multiplicity) in zip(
        axes, (("neutral", 0, 1), ("cation", 1, 2)), strict=True
    ):
        trajectory = simulate.run(
            atoms,
            potential,
            ensemble="nve",
            charge=charge,
            multiplicity=multiplicity,
            temperature_K=300.0,
            timestep_fs=0.25,
            steps=4000,
            save_every=10,
            trajectory=out / f"nve_{name}.extxyz",
        )
        start = trajectory.potential_energies[0]
        for label, values in (
            ("potential", trajectory.potential_energies - start),
            ("kinetic", trajectory.kinetic_energies),
            ("total", trajectory.total_energies - start),
        ):
            axis.plot(trajectory.times_fs, values, label=label, linewidth=1)
        axis.set(ylabel="energy (eV)", title=f"{name}: {trajectory.drift:+.3f} meV/atom/ps")
        axis.grid(alpha=0.3)
        report[name] = {
            "drift_mev_per_atom_per_ps": trajectory.drift,
            "picoseconds": float(trajectory.times_fs[-1]) / 1000,
            "mean_temperature_K": float(np.mean(trajectory.temperatures_K)),
            "seconds": trajectory.seconds,
        }
    axes[0].legend(ncols=3, fontsize=8)
    axes[1].set(xlabel="time (fs)")
    figure.savefig(out / "nve_energies.png", dpi=150)
    plt.close(figure)
    return report


def summary_lines(comparison: dict[str, Any]) -> list[str]:
    """The gap errors in words."""
    lines = []
    for part, models in comparison.items():
        for which, errors in models.items():
            found = ", ".join(
                f"{SHORT[kind]} {row['mae_ev']:.3f} (n={row['count']})"
                for kind, row in errors.items()
            )
            where = "geometries not trained on" if part == "held_out" else "trained on"
            lines.append(f"{which:<10} {where:<26} MAE in eV: {found or 'none'}")
    return lines


def run(out: Path, steps: int | None, console: Console) -> dict[str, Any]:
    """Run every stage; return the report that goes to ``report.json``."""
    started = time.monotonic()
    other = load_potential(PRETRAINED)
    training = train_model(out, steps, console)
    potential = load_potential(out / "run" / "model")
    split = Split.load(out / "run" / "split.json")
    recipe = load_recipe(RECIPE)
    dataset = open_data(recipe, out / "run")
    ladders = find_ladders(dataset, np.arange(len(dataset)))
    held_out = set(split.validation.tolist()) | set(split.test.tolist())
    for name in ("learning_curve.png", "parity_validation.png"):
        shutil.copy(out / "run" / name, out / name)

    console.rule("Relaxation with ASE")
    molecule = next(ladder for ladder in ladders if ladder.name == RELAXED)
    relaxed = relax_states(molecule, potential, out)
    for name in ("neutral", "cation"):
        row = relaxed[name]
        console.print(
            f"{RELAXED} {name}: E = {row['energy_ev']:.3f} eV, relaxed by "
            f"{row['relaxation_ev']:+.3f} eV from the DFT minimum of the neutral; first "
            f"bond {row['first_bond_angstrom']:.3f} Å (DFT neutral "
            f"{row['first_bond_dft_neutral_angstrom']:.3f} Å)"
            if row["converged"]
            else f"{RELAXED} {name}: {row['message']}"
        )
    console.rule("Ionization energy, electron affinity, singlet–triplet gap")
    rows = table_rows(ladders, held_out, potential, other)
    console.print(gap_table(rows))
    comparison = compare(ladders, held_out, potential, other)
    for line in summary_lines(comparison):
        console.print(line, highlight=False)
    console.rule("Dynamics with jax-md")
    dynamics = run_dynamics(molecule.atoms(), potential, out)
    for name in ("neutral", "cation"):
        row = dynamics[name]
        console.print(
            f"NVE, {RELAXED} {name}: {row['picoseconds']:.1f} ps, drift "
            f"{row['drift_mev_per_atom_per_ps']:+.4f} meV/atom/ps, mean temperature "
            f"{row['mean_temperature_K']:.0f} K"
        )
    report = {
        "training": training,
        "relaxation": relaxed,
        "gaps": rows,
        "gap_errors": comparison,
        "dynamics": dynamics,
        "seconds": round(time.monotonic() - started, 1),
    }
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``python -m physnet_training.demo``."""
    parser = argparse.ArgumentParser(prog="physnet_training.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to fill")
    parser.add_argument("--steps", type=int, help="training steps (default: recipe's)")
    options = parser.parse_args(arguments)
    console = Console()
    if options.out.exists():
        if not (options.out / "run" / "recipe.json").is_file():
            console.print(f"{options.out} exists and is no earlier demo; give --out")
            sys.exit(2)
        shutil.rmtree(options.out)
    options.out.mkdir(parents=True)
    report = run(options.out, options.steps, console)
    console.print(
        f"{report['seconds']:.0f} s. Pictures, structures, trajectories and "
        f"report.json are in {options.out}/; the model is {options.out}/run/model"
    )


if __name__ == "__main__":
    main()
