"""What more labels would buy: errors on unseen molecules against molecules labelled.

Trains the network of ``states-organic`` on its labels by DFT in several states alone,
with a quarter, half and all of the organic species, the same number of steps each, then
with all of them twice as long; asks for the vertical energies and the forces of the
molecules that the recipe holds out. Half an hour on two cores.

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
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.packed import PackedDataset
from physnet_training.train.data import levels_of
from physnet_training.train.evaluate import evaluate_potential
from physnet_training.train.gaps import compare_gaps, find_ladders
from physnet_training.train.recipe import Recipe, load_recipe
from physnet_training.train.run import open_data
from physnet_training.train.split import Split, make_split
from physnet_training.train.trainer import prepare

from physnet_ase import load_potential

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "training" / "recipes" / "states_organic.toml"
DATA = ROOT / "training" / "data" / "states_organic"
ORGANIC = ("states_organic", "gaps", "gaps_forces")
RUNS = ((0.25, 1), (0.5, 1), (1.0, 1), (1.0, 2))
"""Share of the organic species, and times the steps."""
LOWEST_AFFINITY = 0.2  # eV; below it the anion is an artefact of the basis


def first_level(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with the labels in several states by DFT alone, and so many steps."""
    sources = tuple(s for s in recipe.data.sources if "wb97m" not in s)
    optimizer = recipe.optimizer.model_copy(
        update={"steps": steps, "validate_every": max(steps // 4, 1)}
    )
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(
                update={"sources": sources, "replay": (), "coarse_levels": ()}
            ),
            "model": recipe.model.model_copy(update={"num_heads": 1}),
            "optimizer": optimizer,
        }
    )


def drawn(name: str) -> float:
    """A number from 0 to 1 that belongs to a molecule."""
    digest = hashlib.sha256(f"learning curve {name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def errors_of(model: Path, dataset: PackedDataset, rows: np.ndarray) -> dict[str, Any]:
    """Mean absolute errors of vertical energies, eV, and of forces, meV/Å."""
    potential = load_potential(model)
    errors: dict[str, list[float]] = {}
    for gap in compare_gaps(potential, find_ladders(dataset, rows)):
        if gap.kind != "electron_affinity" or gap.reference > LOWEST_AFFINITY:
            errors.setdefault(gap.kind, []).append(abs(gap.error))
    loader = PackedMemmapLoader(dataset, 64).subset(rows, shuffle=False)
    rest: list[tuple[int, float]] = []
    found = {kind: float(np.mean(values)) for kind, values in errors.items()}
    for row in evaluate_potential(potential, loader).errors()[1:]:
        forces, number = row.get("forces_mae_ev_per_angstrom"), row["molecules"]
        if forces is None:
            continue
        if (row["charge"], row["multiplicity"]) == (0, 1):
            found["forces, neutral singlets"] = 1000 * forces
        else:
            rest.append((number, 1000 * forces))
    found["forces, others"] = float(
        np.average([f for _, f in rest], weights=[n for n, _ in rest])
    )
    return found


def main() -> None:
    """Train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plot", type=Path, help="draw them into this picture")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # that molecules are unfamiliar
    whole = load_recipe(RECIPE)
    points: list[dict[str, Any]] = []
    organic: set[str] = set()
    for name in ORGANIC:
        with np.load(DATA / f"{name}.npz") as labels:
            organic |= set(labels["name"].tolist())
    with tempfile.TemporaryDirectory() as folder:
        first = first_level(whole, options.steps)
        dataset = open_data(first, Path(folder))
        split = make_split(dataset, first.split)
        group = dataset.take("group", split.train)
        names = [dataset.groups[g] if g >= 0 else "" for g in group.tolist()]
        tested = split.test[levels_of(dataset, split.test) == 0]
        for fraction, times in RUNS:
            kept = np.array([n not in organic or drawn(n) <= fraction for n in names])
            part = Split(split.train[kept], split.validation, split.test)
            out = Path(folder) / f"run-{fraction}-{times}"
            recipe = first_level(whole, times * options.steps)
            model = prepare(recipe, dataset, out, part).run()
            point = {
                "fraction": fraction,
                "steps": times * options.steps,
                "species": len({n for n in organic & {*names} if drawn(n) <= fraction}),
                "labels": int(kept.sum()),
                **errors_of(model, dataset, tested),
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
    """Errors against species, both logarithmic; the longer training as a cross."""
    import matplotlib.pyplot as plt

    figure, both = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    panels = (
        (
            ("ionization_energy", "electron_affinity", "singlet_triplet_gap"),
            "MAE on molecules never seen / eV",
        ),
        (("forces, neutral singlets", "forces, others"), "MAE of forces / meV/Å"),
    )
    steps = points[0]["steps"]
    for axes, (kinds, label) in zip(both, panels, strict=True):
        for kind in kinds:
            line = [p for p in points if p["steps"] == steps]
            [drawn_line] = axes.loglog(
                [p["species"] for p in line],
                [p[kind] for p in line],
                "o-",
                label=kind.replace("_", " "),
            )
            for p in points:
                if p["steps"] > steps:
                    color = drawn_line.get_color()
                    axes.plot(p["species"], p[kind], "x", color=color)
        axes.set_xlabel("organic species labelled")
        axes.set_ylabel(label)
        axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
