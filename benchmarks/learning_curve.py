"""What more labels would buy: gaps of unseen molecules against molecules labelled.

Trains the network of ``states-organic`` on the labels in four states alone, with a
quarter, half and all of the organic molecules, the same number of steps each, and asks
for the vertical energies of the molecules that the recipe holds out. Twenty minutes on
two cores.

    python benchmarks/learning_curve.py --json FILE.json --plot FILE.png
"""

import argparse
import hashlib
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from physnet_training.packed import PackedDataset
from physnet_training.train.gaps import compare_gaps, find_ladders
from physnet_training.train.recipe import Recipe, load_recipe
from physnet_training.train.run import open_data
from physnet_training.train.split import Split, make_split
from physnet_training.train.trainer import prepare

from physnet_ase import load_potential

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "training" / "recipes" / "states_organic.toml"
ORGANIC = ROOT / "training" / "data" / "states_organic" / "states_organic.npz"
FRACTIONS = (0.25, 0.5, 1.0)
LOWEST_AFFINITY = 0.2  # eV; below it the anion is an artefact of the basis


def first_level(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with the labels in several states alone, and so many steps."""
    sources = tuple(s for s in recipe.data.sources if "wb97m" not in s)
    optimizer = recipe.optimizer.model_copy(
        update={"steps": steps, "validate_every": max(steps // 4, 1)}
    )
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"sources": sources}),
            "optimizer": optimizer,
        }
    )


def drawn(name: str) -> float:
    """A number from 0 to 1 that belongs to a molecule."""
    digest = hashlib.sha256(f"learning curve {name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def gaps(model: Path, dataset: PackedDataset, rows: np.ndarray) -> dict[str, float]:
    """Mean absolute errors of vertical energies, eV."""
    errors: dict[str, list[float]] = {}
    for gap in compare_gaps(load_potential(model), find_ladders(dataset, rows)):
        if gap.kind != "electron_affinity" or gap.reference > LOWEST_AFFINITY:
            errors.setdefault(gap.kind, []).append(abs(gap.error))
    return {kind: float(np.mean(found)) for kind, found in errors.items()}


def main() -> None:
    """Train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plot", type=Path, help="draw them into this picture")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # that molecules are unfamiliar
    recipe = first_level(load_recipe(RECIPE), options.steps)
    points: list[dict[str, Any]] = []
    organic = set(np.load(ORGANIC)["name"].tolist())
    with tempfile.TemporaryDirectory() as folder:
        dataset = open_data(recipe, Path(folder))
        split = make_split(dataset, recipe.split)
        group = dataset.take("group", split.train)
        names = [dataset.groups[g] if g >= 0 else "" for g in group.tolist()]
        for fraction in FRACTIONS:
            kept = np.array([n not in organic or drawn(n) <= fraction for n in names])
            part = Split(split.train[kept], split.validation, split.test)
            out = Path(folder) / f"run-{fraction}"
            trainer = prepare(recipe, dataset, out, part)
            model = trainer.run()
            point = {
                "fraction": fraction,
                "species": len({n for n in organic & {*names} if drawn(n) <= fraction}),
                "labels": int(kept.sum()),
                **gaps(model, dataset, split.test),
            }
            print(json.dumps(point), flush=True)
            points.append(point)
    report = {
        "command": f"python benchmarks/learning_curve.py --steps {options.steps}",
        "points": points,
    }
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if options.plot is not None:
        draw(points, options.plot)


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Errors against species, both logarithmic."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
    for kind in ("ionization_energy", "electron_affinity", "singlet_triplet_gap"):
        axes.loglog(
            [point["species"] for point in points],
            [point[kind] for point in points],
            "o-",
            label=kind.replace("_", " "),
        )
    axes.set_xlabel("species labelled")
    axes.set_ylabel("MAE on molecules never seen / eV")
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
