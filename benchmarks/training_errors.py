"""Whether labels or the network hold a model's forces back: its own training errors.

    python benchmarks/training_errors.py [--model RUN/model] [--most 300]

Errors of the organic model on geometries that it was trained on, beside those on
geometries that its recipe holds out, mostly of the same molecules, for each level of
theory. Where the first are not far below the second, more labels of the same kind would
not help: the network is too small for what it is asked, or was stopped too soon. Three
minutes.
"""

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.train.data import levels_of
from physnet_training.train.evaluate import evaluate_potential
from physnet_training.train.recipe import load_recipe
from physnet_training.train.run import open_data
from physnet_training.train.split import make_split

from physnet_ase import load_potential

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "training" / "recipes" / "states_organic.toml"
ENERGY, FORCES = "energy_mae_ev", "forces_mae_ev_per_angstrom"


def main() -> None:
    """Evaluate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="states-organic", help="directory or name")
    parser.add_argument("--most", type=int, default=300, help="molecules of each row")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # that molecules are unfamiliar
    potential = load_potential(options.model)
    recipe = load_recipe(RECIPE)
    rng = np.random.default_rng(0)
    found: list[dict[str, Any]] = []
    print("| level | part | number | energy (meV) | forces | of neutral singlets |")
    print("|---|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        dataset = open_data(recipe, Path(folder))
        split = make_split(dataset, recipe.split)
        loader = PackedMemmapLoader(dataset, 128, bucket_size=1)
        for level, name in enumerate(dataset.levels):
            for part in ("train", "validation"):
                rows = getattr(split, part)
                rows = rows[levels_of(dataset, rows) == level]
                if not np.isfinite(
                    dataset.take("forces", dataset.atom_rows(rows))
                ).any():
                    continue
                rows = np.sort(rng.permutation(rows)[: options.most])
                errors = evaluate_potential(
                    potential, loader.subset(rows, shuffle=False)
                ).errors()
                whole = errors[0]
                singlets = next(
                    (e for e in errors if (e["charge"], e["multiplicity"]) == (0, 1)),
                    {FORCES: None},
                )
                row = {
                    "level": name,
                    "part": part,
                    "molecules": len(rows),
                    ENERGY: whole[ENERGY],
                    FORCES: whole[FORCES],
                    f"{FORCES} of neutral singlets": singlets[FORCES],
                }
                found.append(row)
                figures = [
                    "–" if value is None else f"{1000 * value:.0f}"
                    for value in list(row.values())[3:]
                ]
                cells = [name.split(" (")[0], part, str(len(rows)), *figures]
                print(f"| {' | '.join(cells)} |", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
