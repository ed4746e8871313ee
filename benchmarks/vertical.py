"""What a loss on vertical differences is worth.

    python benchmarks/vertical.py --out FOLDER

Trains the small model's recipe for a few thousand steps without and with the term, on
the same split from the same seeds, and compares vertical gaps, energies and forces on
held-out geometries and held-out molecules. With the weight 0.001 the batches are those
that the term needs, and the loss is that without it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from physnet_training.convert import convert
from physnet_training.train.recipe import load_recipe
from physnet_training.train.run import train

RECIPE = Path(__file__).resolve().parents[1] / "training/recipes/states_dft_small.toml"
PARTS = {"validation": "held-out geometries", "test": "held-out molecules"}


def row(report: dict[str, Any], part: str) -> dict[str, Any]:
    """Errors of a finished run on one part, in meV and meV/Å."""
    states = report[part][0]
    return {
        "part": PARTS[part],
        "energy_mae_mev": round(1000 * states["energy_mae_ev"], 1),
        "forces_mae_mev_per_angstrom": round(
            1000 * states["forces_mae_ev_per_angstrom"], 1
        ),
        "gaps_mae_mev": {
            kind: [round(1000 * found["mae_ev"]), found["count"]]
            for kind, found in report[f"{part}_gaps"].items()
        },
    }


def main() -> None:
    """Train all variants, print a table, write the result next to this script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="for the runs")
    parser.add_argument("--steps", type=int, default=2000)
    weights = [0, 0.001, 5, 10, 20]
    parser.add_argument("--weights", type=float, nargs="+", default=weights)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    packed = options.out / "packed"
    convert([Path(source) for source in load_recipe(RECIPE).data.sources], packed)
    rows = []
    for seed in options.seeds:
        for weight in options.weights:
            settings = [
                f"optimizer.steps={options.steps}",
                f"optimizer.validate_every={options.steps}",
                f"optimizer.seed={seed}",
                f"loss.vertical={weight}",
                f"data.sources=['{packed}']",
            ]
            recipe = load_recipe(RECIPE, settings)
            report = train(recipe, options.out / f"{weight}-{seed}")
            for part in PARTS:
                rows.append({"vertical": weight, "seed": seed, **row(report, part)})
                print(rows[-1], flush=True)
    content = {"steps": options.steps, "rows": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
