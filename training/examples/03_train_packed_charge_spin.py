"""From data files to a calculator: convert, train, evaluate, use.

    python training/examples/03_train_packed_charge_spin.py --out tiny-run

A model far too small and trained far too briefly, so that the whole path takes less
than a minute, most of it compilation. For a real one write a recipe and call
`physnet-train train RECIPE.toml --out RUN`, which runs the same code.
"""

import argparse
from pathlib import Path

import numpy as np
from ase.build import molecule
from physnet_training import PackedMemmapLoader
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset
from physnet_training.train.evaluate import evaluate_potential
from physnet_training.train.recipe import recipe_from
from physnet_training.train.trainer import TrainingProgress, prepare

from physnet_ase import PhysNetCalculator, ionization_energy, load_potential

DATA = Path(__file__).resolve().parents[1] / "data" / "states_dft"
RECIPE = {
    "name": "tiny",
    "description": "example of the training folder; too small to be of use",
    "model": {
        "preset": "small",
        "num_features": 32,
        "num_radial": 16,
        "num_blocks": 2,
        "max_degree": 0,
        "cutoff": 5.0,
    },
    # all states of one geometry stay in the same part
    "split": {"kind": "geometry", "train_fraction": 0.9},
    "optimizer": {
        "steps": 2000,
        "batch_size": 32,
        "learning_rate": 2e-3,
        "warmup_steps": 20,
        "validate_every": 500,
    },
}
SMALLER = {
    "model": RECIPE["model"] | {"num_blocks": 1, "num_features": 16},
    "optimizer": RECIPE["optimizer"] | {"steps": 50},
}
REPORT_EVERY = 250


def show(progress: TrainingProgress) -> None:
    """One line now and then, with the validation errors when just measured."""
    if progress.step % REPORT_EVERY and progress.validation is None:
        return
    line = f"step {progress.step:4d}/{progress.steps}  loss {progress.loss:9.3f}"
    if progress.validation is not None:
        energy = 1000 * progress.validation["energy_mae_ev"]
        forces = 1000 * progress.validation["forces_mae_ev_per_angstrom"]
        line += f"  validation MAE {energy:.0f} meV, {forces:.0f} meV/Å"
    print(f"{line}  {progress.seconds:.0f} s", flush=True)


def evaluate(model: Path, dataset: PackedDataset, molecules: np.ndarray) -> None:
    """Errors per charge and multiplicity of a stored model, on some molecules."""
    loader = PackedMemmapLoader(dataset, batch_size=32, shuffle=False)
    predictions = evaluate_potential(load_potential(model), loader.subset(molecules))
    print("\ncharge  2S+1  molecules  energy MAE (meV)  force MAE (meV/Å)")
    for row in predictions.errors():
        state = (
            "           all"
            if row["charge"] is None
            else f"{row['charge']:+6d}{row['multiplicity']:8d}"
        )
        print(
            f"{state}{row['molecules']:9d}{1000 * row['energy_mae_ev']:18.0f}"
            f"{1000 * row['forces_mae_ev_per_angstrom']:19.0f}"
        )


def main() -> None:
    """Convert, train, evaluate, use."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("tiny-run"))
    parser.add_argument("--smoke", action="store_true", help="50 steps, less data")
    options = parser.parse_args()

    sources = sorted(DATA.glob("ladders.npz" if options.smoke else "*.npz"))
    report = convert(sources, options.out / "data")
    names = ", ".join(source.name for source in sources)
    print(f"{report.num_molecules} molecules from {names}")
    dataset = PackedDataset.open(options.out / "data")

    content = RECIPE | (SMALLER if options.smoke else {})
    recipe = recipe_from(content, origin=Path(__file__).name)
    trainer = prepare(recipe, dataset, options.out / "run")
    model = trainer.run(on_progress=show)
    evaluate(model, dataset, trainer.split.validation)

    water = molecule("H2O")
    water.calc = PhysNetCalculator(model)
    print(f"\nH2O, neutral: {water.get_potential_energy():.3f} eV")
    ionized = ionization_energy(water, water.calc)
    print(f"vertical ionization energy: {ionized.value:.2f} eV ({ionized.to_state})")
    print(f"model directory: {model}")


if __name__ == "__main__":
    main()
