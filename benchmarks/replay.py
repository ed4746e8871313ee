"""What a fine-tuning forgets, without and with old data beside the new ones.

    python benchmarks/replay.py

Teaches ``states-dft-small`` some labels of molecules with three and more heavy atoms
out of ``training/data/states_organic``, alone and with a share of batches of its own
data, ``training/data/states_dft``. Errors on new molecules that do not train, and on
the old geometries that the checkpoint was not trained on, in the four states of both.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from physnet_training.convert import convert
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.packed import PackedDataset
from physnet_training.train.evaluate import evaluate_potential
from physnet_training.train.recipe import load_recipe, recipe_from
from physnet_training.train.replay import replayed
from physnet_training.train.split import Split, group_indices, make_split
from physnet_training.train.start import with_architecture
from physnet_training.train.suggest import finetune_content
from physnet_training.train.trainer import prepare

from physnet_ase.potential import Potential, load_potential

TRAINING = Path(__file__).resolve().parents[1] / "training"
NEW = TRAINING / "data/states_organic/states_organic.npz"
RECIPE = TRAINING / "recipes/states_dft_small.toml"
MODEL = "states-dft-small"
USUAL = [(0, 1), (1, 2), (-1, 2), (0, 3)]


def main() -> None:
    """Train both ways, print, and write the result next to this script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.2])
    options = parser.parse_args()
    shipped = load_recipe(RECIPE)
    old_sources = [Path(source) for source in shipped.data.sources]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        convert([NEW, *old_sources], folder / "both", ignore=("kind",))
        dataset = PackedDataset.open(folder / "both")
        rows = np.arange(len(dataset))
        old = replayed(dataset, 1)
        states = list(zip(*dataset.states_of(rows), strict=True))
        usual = np.array([state in USUAL for state in states])
        numbers = dataset.take("atomic_numbers", dataset.atom_rows(rows))
        first = np.cumsum(dataset.n_atoms) - dataset.n_atoms
        heavy = np.add.reduceat((numbers > 1).astype(int), first)
        known = np.logical_and.reduceat(np.isin(numbers, [1, 6, 7, 8, 9]), first)
        fresh = rows[~old & usual & known & (heavy >= 3)]
        groups = dataset.take("group", fresh)
        unseen = np.isin(groups, np.unique(groups)[::4])
        train = np.random.default_rng(0).permutation(fresh[~unseen])[: options.labels]
        train, check = np.split(train, [options.labels - options.labels // 10])
        # by geometry, so that it is what the checkpoint's own split held out
        parts = make_split(
            dataset, shipped.split.model_copy(update={"holdout_groups": ()})
        )
        own = ~np.isin(rows, group_indices(dataset, shipped.split.holdout_groups))
        learned = np.intersect1d(parts.train, rows[old & own])
        kept = np.intersect1d(parts.validation, rows[old & own])
        elements = np.unique(dataset.take("atomic_numbers", dataset.atom_rows(train)))
        common = np.logical_and.reduceat(np.isin(numbers, elements), first)
        loader = PackedMemmapLoader(dataset, 64)
        tests = {"new": fresh[unseen], "old": kept[usual[kept] & common[kept]]}

        def errors(potential: Potential) -> dict[str, Any]:
            found = {}
            for part, some in tests.items():
                row = evaluate_potential(
                    potential, loader.subset(some, shuffle=False)
                ).errors()[0]
                found[part] = {
                    "molecules": len(some),
                    "energy_mae_mev": round(1000 * row["energy_mae_ev"], 1),
                    "forces_mae_mev_per_angstrom": round(
                        1000 * row["forces_mae_ev_per_angstrom"], 1
                    ),
                }
            return found

        table = [{"replay_share": None, **errors(load_potential(MODEL))}]
        print(table[-1], flush=True)
        for share in options.shares:
            content = finetune_content(
                MODEL,
                dataset,
                "nothing",
                replay=old_sources if share else (),
                replay_share=share,
            )
            content["optimizer"] |= {
                "steps": options.steps,
                "batch_size": 8,
                "validate_every": options.steps // 10,
                "warmup_steps": options.steps // 20,
            }
            content["data"] = content.get("data", {}) | {"sources": [str(NEW)]}
            recipe = recipe_from(with_architecture(content, Path()), "replay")
            split = Split(train, check, np.zeros(0, int))
            if share:
                split = Split(
                    np.concatenate([train, learned]),
                    np.concatenate([check, kept]),
                    np.zeros(0, int),
                )
            model = prepare(recipe, dataset, folder / str(share), split).run()
            table.append({"replay_share": share, **errors(load_potential(model))})
            print(table[-1], flush=True)
    content = {"labels": options.labels, "steps": options.steps, "rows": table}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
