"""The main job from end to end, as ``make demo`` runs it.

Convert the data that ships, train, then use the model: relax a molecule in two states,
compare vertical and adiabatic gaps with their DFT labels and with the pretrained model,
ask it of a molecule that it has not seen, and run molecular dynamics.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import typer
from ase import Atoms
from ase.build import molecule as molecule_of
from rich.console import Console

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.commands.plain_errors import plain_errors
from physnet_ase.observables.relaxation import Relaxation, relax
from physnet_ase.potential import Potential, load_potential
from physnet_ase.state import ElectronicState
from physnet_training.train.display import TrainingBar, error_table
from physnet_training.train.gaps import (
    Ladder,
    compare,
    find_ladders,
    frames_by_energy,
    gap_rows,
    gap_table,
    summary_table,
)
from physnet_training.train.recipe import load_recipe
from physnet_training.train.run import finish, open_data, with_overrides
from physnet_training.train.split import SPLIT_FILE, Split
from physnet_training.train.trainer import prepare

PRETRAINED = "states-dft-small"
ORGANIC = "states-organic"
UNFAMILIAR = "C2F4"
"""A molecule, named as ASE does, that the shipped organic model has not seen."""
RECIPE = Path(__file__).parents[1] / "recipes" / "demo.toml"
RELAXED = "H2CO"
STATES = {"neutral": ElectronicState(0, 1), "cation": ElectronicState(1, 2)}


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
    start = ladder.atoms()
    report: dict[str, Any] = {"molecule": ladder.name}
    for name, state in STATES.items():
        try:
            relaxed, energy = relax(start, state, calculator, Relaxation())
        except RuntimeError as error:
            report[name] = {"converged": False, "message": str(error)}
            continue
        relaxed.write(out / f"{ladder.name}_{name}.xyz")
        before = potential.evaluate(start, states=[state], properties=("energy",))
        report[name] = {
            "converged": True,
            "energy_ev": energy,
            "relaxation_ev": energy - before[0].energy,
            "first_bond_angstrom": float(relaxed.get_distance(0, 1)),
            "first_bond_dft_neutral_angstrom": float(start.get_distance(0, 1)),
        }
    return report


def run_dynamics(atoms: Atoms, potential: Potential, out: Path) -> dict[str, Any]:
    """NVE of the neutral and the cation; a picture of the energies."""
    import matplotlib.pyplot as plt

    from physnet_ase import simulate

    figure, axes = plt.subplots(2, 1, figsize=(7, 5), sharex=True, layout="constrained")
    report: dict[str, Any] = {"molecule": atoms.get_chemical_formula()}
    for axis, (name, state) in zip(axes, STATES.items(), strict=True):
        trajectory = simulate.run(
            atoms,
            potential,
            ensemble="nve",
            charge=state.charge,
            multiplicity=state.multiplicity,
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
        axis.set(
            ylabel="energy (eV)",
            title=f"{RELAXED} {name}, NVE: drift {trajectory.drift:+.4f} meV/atom/ps",
        )
        axis.grid(alpha=0.3)
        report[name] = {
            "drift_mev_per_atom_per_ps": trajectory.drift,
            "picoseconds": float(trajectory.times_fs[-1]) / 1000,
            "mean_temperature_K": float(np.mean(trajectory.temperatures_K)),
            "seconds": trajectory.seconds,
        }
    lines, labels = axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside upper center", ncols=3, fontsize=8)
    axes[1].set(xlabel="time (fs)")
    figure.savefig(out / "nve_energies.png", dpi=150)
    plt.close(figure)
    return report


def print_relaxation(relaxed: dict[str, Any], console: Console) -> None:
    """Say what the relaxations gave, or why they gave nothing."""
    for name in STATES:
        row, molecule = relaxed[name], relaxed["molecule"]
        if not row["converged"]:
            console.print(f"{molecule} {name}: {row['message']}")
            continue
        console.print(
            f"{molecule} {name}: E = {row['energy_ev']:.3f} eV, relaxed by "
            f"{row['relaxation_ev']:+.3f} eV from the DFT minimum of the neutral; "
            f"first bond {row['first_bond_angstrom']:.3f} Å (DFT neutral "
            f"{row['first_bond_dft_neutral_angstrom']:.3f} Å)"
        )


def ask_unfamiliar(console: Console) -> dict[str, Any]:
    """What the shipped model says of a molecule unlike those of its training."""
    atoms = molecule_of(UNFAMILIAR)
    atoms.set_initial_magnetic_moments(None)
    verdict = load_potential(ORGANIC).familiarity(atoms)
    console.print(f"{UNFAMILIAR} in {ORGANIC}: {verdict.message or 'familiar'}")
    return {"molecule": UNFAMILIAR, "score": verdict.score, "message": verdict.message}


def run(out: Path, steps: int | None, console: Console) -> dict[str, Any]:
    """Run every stage; return the report that goes to ``report.json``."""
    started = time.monotonic()
    other = load_potential(PRETRAINED)
    training = train_model(out, steps, console)
    potential = load_potential(out / "run" / "model")
    split = Split.load(out / "run" / SPLIT_FILE)
    recipe = load_recipe(RECIPE)
    dataset = open_data(recipe, out / "run")
    ladders = find_ladders(dataset, np.arange(len(dataset)))
    held_out = set(split.validation.tolist()) | set(split.test.tolist())
    for name in ("learning_curve.png", "parity_validation.png"):
        shutil.copy(out / "run" / name, out / name)

    console.rule("Relaxation with ASE")
    molecule = frames_by_energy(ladders)[RELAXED][0]
    relaxed = relax_states(molecule, potential, out)
    print_relaxation(relaxed, console)
    console.rule("Ionization energy, electron affinity, singlet–triplet gap")
    rows = gap_rows(ladders, held_out, potential, other)
    console.print(gap_table(rows))
    comparison = compare(ladders, split, potential, other)
    console.print(summary_table(comparison))
    console.rule("A molecule that the shipped model has not seen")
    unfamiliar = ask_unfamiliar(console)
    console.rule("Dynamics")
    dynamics = run_dynamics(molecule.atoms(), potential, out)
    for name in STATES:
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
        "unfamiliar": unfamiliar,
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

    @plain_errors("demo")
    def demonstrate() -> None:
        report = run(options.out, options.steps, console)
        console.print(
            f"{report['seconds']:.0f} s. Pictures, structures, trajectories and "
            f"report.json are in {options.out}/; the model is {options.out}/run/model"
        )

    try:
        demonstrate()
    except typer.Exit as stop:  # what went wrong is said
        sys.exit(stop.exit_code)


if __name__ == "__main__":
    main()
