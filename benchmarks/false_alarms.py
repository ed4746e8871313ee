"""How often `states-organic` calls a molecule that it knows unfamiliar.

    python benchmarks/false_alarms.py

The held-out geometries of known molecules set the thresholds of the score, so they say
little about it. Here half of them set the thresholds anew, and the other half is
counted; three divisions, both ways. Two minutes.
"""

import tempfile
from pathlib import Path

import numpy as np
from physnet_training.loading.geometries import keys_of
from physnet_training.packed import PackedDataset
from physnet_training.train.data import levels_of
from physnet_training.train.recipe import load_recipe
from physnet_training.train.run import open_data
from physnet_training.train.split import make_split

from physnet_ase import load_potential
from physnet_ase.familiarity import environments_of
from physnet_ase.potential import Potential

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "training" / "recipes" / "states_organic.toml"


def alarms(
    potential: Potential,
    dataset: PackedDataset,
    train: np.ndarray,
    halves: tuple[np.ndarray, np.ndarray],
) -> tuple[int, int]:
    """How many of the second half are unfamiliar to thresholds of the first, of all."""
    environments = environments_of(
        [dataset.molecules(train)], [dataset.molecules(halves[0])]
    )
    metadata = potential.metadata.model_copy(update={"environments": environments})
    found = Potential(metadata, potential.params).known(dataset.molecules(halves[1]))
    return sum(each.unfamiliar for each in found), len(found)


def main() -> None:
    """Count and print."""
    potential, recipe = load_potential("states-organic"), load_recipe(RECIPE)
    counted = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = open_data(recipe, Path(folder))
        split = make_split(dataset, recipe.split)
        train, checked = (
            rows[levels_of(dataset, rows) == 0]
            for rows in (split.train, split.validation)
        )
        group = dataset.take("group", checked)
        checked = checked[np.isin(group, dataset.take("group", split.train))]
        _, geometry = np.unique(keys_of(dataset, checked), return_inverse=True)
        geometry = geometry.reshape(-1)
        for seed in range(3):
            first = np.random.default_rng(seed).random(geometry.max() + 1) < 0.5
            for side in (first, ~first):
                halves = checked[side[geometry]], checked[~side[geometry]]
                counted.append(alarms(potential, dataset, train, halves))
                print("{} of {}".format(*counted[-1]), flush=True)
    wrong, total = (sum(column) for column in zip(*counted, strict=True))
    print(f"false alarms: {wrong / total:.1%}")


if __name__ == "__main__":
    main()
