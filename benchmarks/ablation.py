"""What the settings of the small model are worth: one change at a time.

    python benchmarks/ablation.py

Trains the demonstration's recipe for a few thousand steps as it is and with one setting
changed, on the same split, and compares errors on the held-out geometries. Short runs:
they tell what learns fast, not what is best after hours.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from physnet_training.train.recipe import Recipe, load_recipe
from physnet_training.train.run import train, with_overrides

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "training" / "recipes" / "demo.toml"
MUON = {"kind": "muon", "learning_rate": 6e-3}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "demo.toml": {},
    "conditioning = attention": {"model": {"conditioning": "attention"}},
    "vector_features": {"model": {"vector_features": True}},
    "Muon": {"optimizer": MUON},
    "vector_features, Muon": {
        "model": {"vector_features": True},
        "optimizer": MUON,
    },
    "max_degree = 0": {"model": {"max_degree": 0}},
    "max_degree = 1": {"model": {"max_degree": 1}},
    "PhysNet's loss weights": {
        "loss": {"energy": 1.0, "forces": 52.9177, "dipole": 27.2114}
    },
}


def changed(recipe: Recipe, change: dict[str, dict[str, Any]]) -> Recipe:
    """The recipe with some settings replaced, validated again."""
    content = recipe.model_dump()
    for section, settings in change.items():
        content[section] |= settings
    return Recipe.model_validate(content)


def main() -> None:
    """Train every variant, print a table, write the result next to this script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    options = parser.parse_args()
    results = {}
    print(f"{'variant':<26} E MAE (meV)  F MAE (meV/Å)  seconds")
    for name, change in VARIANTS.items():
        recipe = changed(
            with_overrides(load_recipe(RECIPE), steps=options.steps), change
        )
        with tempfile.TemporaryDirectory() as folder:
            report = train(recipe, Path(folder) / "run")
        row = report["validation"][0]
        results[name] = {
            "energy_mae_mev": 1000 * row["energy_mae_ev"],
            "forces_mae_mev_per_angstrom": 1000 * row["forces_mae_ev_per_angstrom"],
            "seconds": report["seconds"],
        }
        print(
            f"{name:<26} {results[name]['energy_mae_mev']:11.1f}"
            f"{results[name]['forces_mae_mev_per_angstrom']:15.1f}"
            f"{report['seconds']:9.0f}",
            flush=True,
        )
    content = {"steps": options.steps, "results": results}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
