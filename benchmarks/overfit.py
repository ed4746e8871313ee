"""Can the network represent several states at all? Eight molecules, three states each.

    python benchmarks/overfit.py

Trains on one 300 K geometry of eight molecules of the shipped data, each labelled as
neutral singlet, cation doublet and neutral triplet, and reports the force RMSE per
state on those very molecules. The bar is 3 meV/Å in every state.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from physnet_training.convert import convert
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.packed import PackedDataset
from physnet_training.train.evaluate import evaluate_potential
from physnet_training.train.gaps import find_ladders, frames_by_energy
from physnet_training.train.recipe import recipe_from
from physnet_training.train.split import Split
from physnet_training.train.trainer import Trainer

DATA = Path(__file__).resolve().parents[1] / "training" / "data" / "states_dft"
MOLECULES = ("H2O", "NH3", "CH4", "H2CO", "C2H4", "N2", "CO", "HF")
STATES = ((0, 1), (1, 2), (0, 3))
BAR = 0.003  # eV/Å


def chosen_rows(dataset: PackedDataset, frame: int) -> np.ndarray:
    """The 24 molecules, all in the same frame of their ladders (0 is the relaxed one).

    Not the relaxed one: at the exact tetrahedron of methane the cation is degenerate,
    its labelled forces break the symmetry, and no function of the geometry has them.
    """
    frames = frames_by_energy(find_ladders(dataset, np.arange(len(dataset))))
    rows = []
    for name in MOLECULES:
        ladder = frames[name][frame]
        states = [(state.charge, state.multiplicity) for state in ladder.energies]
        rows += [ladder.rows[states.index(state)] for state in STATES]
    return np.array(rows)


def main() -> None:
    """Train, evaluate, print, and write the result next to this script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "ladders"
        convert(DATA / "ladders.npz", packed)
        dataset = PackedDataset.open(packed)
        rows = chosen_rows(dataset, 2)
        recipe = recipe_from(
            {
                "name": "overfit",
                "model": {"preset": "small", "vector_features": True},
                # quadratic near zero: the bar is on the RMSE, and |error| alone lets a
                # few forces stay wrong while it polishes the rest
                "loss": {
                    "energy": 1.0,
                    "forces": 50.0,
                    "dipole": 0.0,
                    "charges": 0.0,
                    "kind": "huber",
                    "huber_delta": 0.05,
                },
                "optimizer": {
                    "kind": "muon",
                    "steps": options.steps,
                    "learning_rate": 6e-3,
                    "batch_size": len(rows),
                    "validate_every": 3000,
                },
            },
            "overfit",
        )
        split = Split(rows, chosen_rows(dataset, 1), rows[:0])
        trainer = Trainer(recipe, dataset, Path(folder) / "run", split)
        trainer.run(lambda p: print(p.step, f"{p.loss:.4f}") if p.validation else None)
        # the trained molecules on purpose: the question is capacity, not generality
        loader = PackedMemmapLoader(dataset, len(rows))
        potential = trainer.potential()
        table = evaluate_potential(
            potential, loader.subset(rows, shuffle=False)
        ).errors()
        molecules = {}
        for place, name in enumerate(MOLECULES):
            states = rows[len(STATES) * place : len(STATES) * (place + 1)]
            errors = evaluate_potential(potential, loader.subset(states)).errors()
            molecules[name] = max(e["forces_rmse_ev_per_angstrom"] for e in errors)
    worst = max(row["forces_rmse_ev_per_angstrom"] for row in table)
    for row in table:
        state = "all" if row["charge"] is None else (row["charge"], row["multiplicity"])
        rmse = 1000 * row["forces_rmse_ev_per_angstrom"]
        print(
            f"{state!s:>8}  molecules {row['molecules']}  force RMSE {rmse:.2f} meV/Å"
        )
    for name, rmse in molecules.items():
        print(f"{name:>8}  worst of its states {1000 * rmse:.2f} meV/Å")
    print("bar met" if worst < BAR else "bar missed", f"({1000 * BAR:.0f} meV/Å)")
    target = Path(__file__).with_name("overfit.json")
    content = {"steps": options.steps, "errors": table, "worst_by_molecule": molecules}
    target.write_text(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
