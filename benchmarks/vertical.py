"""What a loss on vertical differences is worth.

    python benchmarks/vertical.py --out FOLDER

Trains the small model's recipe for a few thousand steps without and with the term, on
the same split from the same seeds, and compares vertical gaps, energies and forces on
held-out geometries and held-out molecules.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset
from physnet_training.train.gaps import compare_gaps, find_ladders, gap_errors
from physnet_training.train.recipe import load_recipe
from physnet_training.train.run import train
from physnet_training.train.split import SPLIT_FILE, Split

from physnet_ase.potential import load_potential

RECIPE = Path(__file__).resolve().parents[1] / "training/recipes/states_dft_small.toml"
PARTS = {"validation": "held-out geometries", "test": "held-out molecules"}


def main() -> None:
    """Train all variants, print a table, write the result next to this script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="for the runs")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--weights", type=float, nargs="+", default=[0, 5, 10, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    rows = []
    packed = options.out / "packed"
    convert([Path(source) for source in load_recipe(RECIPE).data.sources], packed)
    dataset = PackedDataset.open(packed)
    for seed in options.seeds:
        for weight in options.weights:
            settings = [
                f"optimizer.steps={options.steps}",
                f"optimizer.validate_every={options.steps}",
                f"optimizer.seed={seed}",
                f"loss.vertical={weight}",
                f"data.sources=['{packed}']",
            ]
            run = options.out / f"{weight}-{seed}"
            report = train(load_recipe(RECIPE, settings), run)
            potential = load_potential(run / "model")
            split = Split.load(run / SPLIT_FILE)
            for part, name in PARTS.items():
                ladders = find_ladders(dataset, np.sort(getattr(split, part)))
                all_states = report[part][0]
                row = {
                    "vertical": weight,
                    "seed": seed,
                    "part": name,
                    "energy_mae_mev": 1000 * all_states["energy_mae_ev"],
                    "forces_mae_mev_per_angstrom": 1000
                    * all_states["forces_mae_ev_per_angstrom"],
                    "seconds": report["seconds"],
                    "gaps": gap_errors(compare_gaps(potential, ladders)),
                }
                rows.append(row)
                gaps = "  ".join(
                    f"{kind} {1000 * found['mae_ev']:.0f} ({found['count']})"
                    for kind, found in row["gaps"].items()
                )
                print(
                    f"vertical {weight:<4} seed {seed}  {name}: "
                    f"E {row['energy_mae_mev']:.1f} meV  "
                    f"F {row['forces_mae_mev_per_angstrom']:.1f} meV/Å  {gaps}  "
                    f"{row['seconds']:.0f} s",
                    flush=True,
                )
    content = {"steps": options.steps, "rows": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
