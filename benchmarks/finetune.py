"""Few labels of new molecules: fine-tuning a checkpoint against training from scratch.

    python benchmarks/finetune.py organic
    python benchmarks/finetune.py acac --folder ACAC_FOLDER

Trains once from random weights, twice from a checkpoint, with everything free and with
a frozen trunk. All have the same architecture, labels, batch size and number of steps;
each has the default learning rate of its kind. ``acac``: the first labels of
acetylacetone at 300 K (BOTNet-datasets, not shipped), tested on other frames of 300 K.
``organic``: molecules of three and more heavy atoms (C, N, O, F) in four states out of
``training/data/states_organic``, tested on every fourth molecule, which is not trained.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from physnet_training.convert import convert
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.packed import PackedDataset
from physnet_training.train.evaluate import evaluate_potential
from physnet_training.train.recipe import recipe_from
from physnet_training.train.split import Split
from physnet_training.train.start import with_architecture
from physnet_training.train.suggest import finetune_content
from physnet_training.train.trainer import prepare

from physnet_ase.potential import load_potential

RESULT = Path(__file__).with_name("finetune.json")
ORGANIC = Path(__file__).resolve().parents[1] / "training/data/states_organic"
KINDS = ("scratch", "finetune", "frozen trunk")
NONE = np.zeros(0, int)


def acac(
    folder: Path, target: Path, labels: int
) -> tuple[PackedDataset, Split, PackedMemmapLoader]:
    """Dataset, split and test molecules of acetylacetone."""
    for part in ("train_300K", "test_MD_300K"):
        source = folder / f"{part}.xyz"
        convert(source, target / part, assume_multiplicity="lowest")
    train, rest = np.split(np.arange(labels), [labels - labels // 10])
    test = PackedMemmapLoader(target / "test_MD_300K", 64, shuffle=False)
    return PackedDataset.open(target / "train_300K"), Split(train, rest, NONE), test


def organic(
    target: Path, labels: int
) -> tuple[PackedDataset, Split, PackedMemmapLoader]:
    """Dataset, split and test molecules in four states."""
    convert(ORGANIC / "states_organic.npz", target / "organic", ignore=("kind",))
    dataset = PackedDataset.open(target / "organic")
    rows = np.arange(len(dataset))
    numbers = dataset.take("atomic_numbers", dataset.atom_rows(rows))
    first = np.cumsum(dataset.n_atoms) - dataset.n_atoms
    heavy = np.add.reduceat((numbers > 1).astype(int), first)
    known = np.logical_and.reduceat(np.isin(numbers, [1, 6, 7, 8, 9]), first)
    charge, spin = dataset.states_of(rows)
    usual = np.isin(10 * charge + spin, [1, 12, -8, 3])  # as in the other data
    rows = rows[(heavy >= 3) & usual & known]
    groups = dataset.take("group", rows)
    held = np.isin(groups, np.unique(groups)[::4])
    train = np.random.default_rng(0).permutation(rows[~held])[:labels]
    train, rest = np.split(train, [labels - labels // 10])
    loader = PackedMemmapLoader(dataset, 64).subset(rows[held], shuffle=False)
    return dataset, Split(train, rest, NONE), loader


def content(
    kind: str, model: str, dataset: PackedDataset, steps: int
) -> dict[str, Any]:
    """The recipe of one training."""
    freeze = "trunk" if kind == "frozen trunk" else "nothing"
    recipe = finetune_content(model, dataset, freeze)
    recipe["loss"] = {"energy": 10.0, "forces": 50.0}
    recipe["optimizer"] |= {
        "steps": steps,
        "batch_size": 8,
        "validate_every": steps // 10,
        "warmup_steps": steps // 20,
    }
    recipe = with_architecture(recipe, Path())
    if kind == "scratch":
        del recipe["start"]
        recipe["optimizer"]["learning_rate"] = 1e-3
    return recipe


def main() -> None:
    """Train, evaluate, print, and write the result next to this script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=("acac", "organic"))
    parser.add_argument("--folder", type=Path, help="of acetylacetone's files")
    parser.add_argument("--model", default="states-dft-small")
    parser.add_argument("--labels", type=int, default=50)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    known = json.loads(RESULT.read_text()) if RESULT.is_file() else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.data == "acac":
            dataset, split, test = acac(options.folder, folder, options.labels)
        else:
            dataset, split, test = organic(folder, options.labels)
        for kind in options.kinds:
            written = content(kind, options.model, dataset, options.steps)
            recipe, started = recipe_from(written, kind), time.monotonic()
            model = prepare(recipe, dataset, folder / kind, split).run()
            errors = evaluate_potential(load_potential(model), test).errors()[0]
            row = {
                "data": options.data,
                "kind": kind,
                "labels": options.labels,
                "steps": options.steps,
                "energy_mae_mev": round(1000 * errors["energy_mae_ev"], 1),
                "forces_mae_mev_per_angstrom": round(
                    1000 * errors["forces_mae_ev_per_angstrom"], 1
                ),
                "seconds": round(time.monotonic() - started, 1),
            }
            what = ("data", "kind", "labels", "steps")
            known = [k for k in known if any(k[key] != row[key] for key in what)]
            known.append(row)
            print(row, flush=True)
            RESULT.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
