"""Few labels of a new molecule: fine-tuning a checkpoint against training from scratch.

    python benchmarks/finetune.py ACAC_FOLDER

Trains on the first labels of acetylacetone at 300 K (BOTNet-datasets, not shipped):
once from random weights, twice from a checkpoint, with everything free and with a
frozen trunk. All have the same architecture, labels, batch size and number of steps;
each has the default learning rate of its kind. Errors are those on test frames of the
same temperature.
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
KINDS = ("scratch", "finetune", "frozen trunk")


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
    parser.add_argument("acac", type=Path, help="folder with train and test files")
    parser.add_argument("--model", default="states-dft-small")
    parser.add_argument("--labels", type=int, nargs="+", default=[100])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("train_300K", "test_MD_300K"):
            convert(
                options.acac / f"{part}.xyz",
                folder / part,
                assume_multiplicity="lowest",
            )
        dataset = PackedDataset.open(folder / "train_300K")
        test = PackedMemmapLoader(folder / "test_MD_300K", 64, shuffle=False)
        for labels in options.labels:
            train, rest = np.split(np.arange(labels), [labels - labels // 10])
            split = Split(train, rest, np.zeros(0, int))
            for kind in options.kinds:
                recipe = recipe_from(
                    content(kind, options.model, dataset, options.steps), kind
                )
                out, started = folder / f"{kind}-{labels}", time.monotonic()
                model = prepare(recipe, dataset, out, split).run()
                seconds = time.monotonic() - started
                row = evaluate_potential(load_potential(model), test).errors()[0]
                rows.append(
                    {
                        "kind": kind,
                        "labels": labels,
                        "energy_mae_mev": 1000 * row["energy_mae_ev"],
                        "forces_mae_mev_per_angstrom": 1000
                        * row["forces_mae_ev_per_angstrom"],
                        "seconds": round(seconds, 1),
                    }
                )
                print(rows[-1], flush=True)
    report = {"model": options.model, "steps": options.steps, "rows": rows}
    RESULT.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
