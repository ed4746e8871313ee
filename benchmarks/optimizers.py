"""Which optimiser learns most in the same number of steps.

Trains the network of ``states-organic`` without vectors on its labels by DFT in several
states, from random weights, with one optimiser after the other; errors on the molecules
that the recipe holds out, as ``learning_curve.py`` measures them. Two or three minutes
each on two cores.

    python benchmarks/optimizers.py --json benchmarks/optimizers.json
"""

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from learning_curve import RECIPE, errors_of, first_level
from physnet_training.train.data import levels_of
from physnet_training.train.recipe import load_recipe
from physnet_training.train.run import open_data
from physnet_training.train.split import make_split
from physnet_training.train.trainer import prepare

VARIANTS: tuple[dict[str, Any], ...] = (
    {"kind": "muon", "learning_rate": 1.2e-2},
    {"kind": "amsgrad", "learning_rate": 3e-3},
    {"kind": "muon", "learning_rate": 4e-3},
    {"kind": "amsgrad", "learning_rate": 1e-3},
    {"kind": "muon", "learning_rate": 4e-3, "schedule": "schedule-free"},
    {"kind": "amsgrad", "learning_rate": 3e-3, "schedule": "schedule-free"},
)


def main() -> None:
    """Train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # that molecules are unfamiliar
    recipe = first_level(load_recipe(RECIPE), options.steps)
    model = recipe.model.model_copy(update={"vector_features": False})
    recipe = recipe.model_copy(update={"model": model})
    results = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = open_data(recipe, Path(folder))
        split = make_split(dataset, recipe.split)
        tested = split.test[levels_of(dataset, split.test) == 0]
        for number, variant in enumerate(VARIANTS):
            settings = {"batch_size": 32, **variant}
            optimizer = recipe.optimizer.model_copy(update=settings)
            changed = recipe.model_copy(update={"optimizer": optimizer})
            started = time.perf_counter()
            trainer = prepare(changed, dataset, Path(folder) / f"run-{number}", split)
            errors = errors_of(trainer.run(), dataset, tested)
            results.append(
                {
                    **variant,
                    **errors,
                    "retreats": len(trainer.guard.retreats),
                    "seconds": round(time.perf_counter() - started),
                }
            )
            print(json.dumps(results[-1]), flush=True)
            if options.json is not None:
                command = f"python benchmarks/optimizers.py --steps {options.steps}"
                report = {"command": command, "results": results}
                options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
