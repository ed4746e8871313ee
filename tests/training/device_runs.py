"""A tiny training as a process of its own: how many devices there are is its start's.

    python device_runs.py DATASET FOLDER                    on one device, and on all
    python device_runs.py DATASET FOLDER PROCESS_ID PORT    as one of two processes

``losses_PROCESS.json`` holds the loss of each step and how often it was compiled.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import jax
from physnet_training.packed import PackedDataset
from physnet_training.train.devices import Devices, join
from physnet_training.train.recipe import recipe_from
from physnet_training.train.trainer import exclusive, prepare

RECIPE = {
    "model": {
        "num_features": 8,
        "num_radial": 8,
        "num_blocks": 1,
        "num_residual_atomic": 1,
        "num_residual_interaction": 1,
        "cutoff": 5.0,
    },
    "optimizer": {
        "steps": 50,
        "batch_size": 16,
        "validate_every": 50,
        "warmup_steps": 5,
    },
}


class Compilations(logging.Handler):
    """Counts compilations of the training step, as JAX logs them."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "XLA compilation of jit(step)" in record.getMessage()


def run(dataset: Path, folder: Path, devices: Devices) -> None:
    compiled, losses, shapes = Compilations(), [], set()
    logging.getLogger("jax").addHandler(compiled)
    with jax.log_compiles(), exclusive(folder, devices):
        data = PackedDataset.open(dataset)
        trainer = prepare(recipe_from(RECIPE, "test"), data, folder, devices=devices)
        step = trainer.functions.step

        def recorded(state: Any, graph: Any, rate: Any) -> Any:
            state, metrics = step(state, graph, rate)
            losses.append(float(metrics["loss"]))
            shapes.add(str(jax.tree.map(lambda leaf: leaf.shape, graph)))
            return state, metrics

        trainer.functions = trainer.functions._replace(step=recorded)
        trainer.run()
    logging.getLogger("jax").removeHandler(compiled)
    content = {
        "devices": str(devices),
        "losses": losses,
        "shapes": len(shapes),
        "compilations": compiled.count,
        "best": trainer.best,
    }
    file = folder / f"losses_{devices.process_index}.json"
    file.write_text(json.dumps(content))


if __name__ == "__main__":
    data, folder, *several = sys.argv[1:]
    if several:
        join(False, f"localhost:{several[1]}", 2, int(several[0]))
        run(Path(data), Path(folder), Devices())
    else:
        run(Path(data), Path(folder) / "one", Devices(1))
        run(Path(data), Path(folder) / "all", Devices())
