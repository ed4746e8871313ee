"""A starting recipe for a dataset: what suits its size, states, labels and a time."""

import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from physnet_ase.config import PRESETS
from physnet_ase.quantities import trained
from physnet_training.packed import PackedDataset
from physnet_training.packed.reader import parts
from physnet_training.train.recipe import Recipe, commented, recipe_from
from physnet_training.train.split import make_split
from physnet_training.train.trainer import Trainer

_KEYS = (
    *("name", "data.sources", "data.assume_multiplicity"),
    *("model.num_features", "model.num_blocks", "model.cutoff", "model.max_degree"),
    *("model.conditioning", "model.charge_range", "model.spin_range"),
    *("model.electrostatics", "model.spin_populations"),
    *("split.kind", "split.train_fraction", "split.holdout_groups"),
    *("optimizer.steps", "optimizer.batch_size", "optimizer.schedule"),
    *("optimizer.learning_rate", "optimizer.validate_every"),
)
_MEASURED_SECONDS = 5.0
_MOST_EPOCHS = 4000
"""Passes over the data after which nothing is to be gained by more."""
_REST = 0.85  # of the time is for steps; compiling, validating and saving need some
_SAMPLE = 2000  # molecules looked at for their extent


def suggest(dataset: PackedDataset, seconds_per_step: float, minutes: float) -> Recipe:
    """The recipe for a dataset and a time.

    Args:
        dataset: Its molecules.
        seconds_per_step: As :func:`measure` has it; 0 where it is not known yet.
        minutes: Of training.

    Raises:
        ValueError: No molecule's state is known.
    """
    states = dataset.states
    if not states:
        raise ValueError(
            f"{dataset.path} knows the multiplicity of no molecule; convert it again "
            "with its spin, or give --assume-multiplicity lowest"
        )
    charges, spins = (sorted({s[place] for s in states}) for place in (0, 1))
    compositions = _compositions(dataset)
    several = len(states) > 1
    single = compositions == 1 and not several
    count = len(dataset)
    batch = int(np.clip(2 ** round(np.log2(max(count / 30, 1))), 4, 32))
    steps = 20_000
    if seconds_per_step > 0:
        steps = int(60 * minutes * _REST / seconds_per_step)
        steps = min(steps, _MOST_EPOCHS * count // batch)
        digits = 10 ** max(len(str(steps)) - 2, 0)
        steps = max(steps // digits * digits, 100)
    small = PRESETS["small"]
    labels = {name for name, number in dataset.labels.items() if number}
    content = {
        "name": Path(dataset.path).name,
        "data": {
            "sources": [str(Path(dataset.path).resolve())],
            "assume_multiplicity": dataset.assume_multiplicity,
        },
        "model": {
            "preset": "small",
            # a molecule that is smaller has no use for more
            "cutoff": min(small.cutoff, max(np.ceil(_extent(dataset)), 3.0)),
            "charge_range": [min(charges[0], 0), max(charges[-1], 0)],
            "spin_range": [1, spins[-1]],
            "electrostatics": not single or charges != [0],
            "spin_populations": "spin_populations" in labels,
        },
        "split": {"kind": "geometry" if several else "molecule"},
        "loss": {
            q.name: 50.0 if single and q.name == "forces" else q.loss_weight
            for q in trained()
            if q.name in labels
        },
        "optimizer": {
            "steps": steps,
            "batch_size": batch,
            "schedule": "wsd",
            "warmup_steps": min(500, max(steps // 20, 1)),
            "validate_every": max(steps // 20, 1),
        },
    }
    return recipe_from(content, "the suggested recipe")


def measure(recipe: Recipe, dataset: PackedDataset) -> float:
    """Seconds of a training step of a recipe, compiled, on this machine as it is."""
    with tempfile.TemporaryDirectory() as folder:
        split = make_split(dataset, recipe.split)
        trainer = Trainer(recipe, dataset, Path(folder), split)
        graphs = trainer.loader.graphs(recipe.model.cutoff)
        graph = jax.device_put(trainer.references.without(next(graphs)))
        state, rate = trainer.state, np.float32(1.0)
        state, _ = trainer.functions.step(state, graph, rate)  # compiles
        state.weights.block_until_ready()
        seconds: list[float] = []
        while len(seconds) < 3 or sum(seconds) < _MEASURED_SECONDS:
            started = time.monotonic()
            state, _ = trainer.functions.step(state, graph, rate)
            state.weights.block_until_ready()
            seconds.append(time.monotonic() - started)
    return float(np.mean(seconds))


def starting_recipe(dataset: PackedDataset, minutes: float) -> str:
    """A commented recipe for a dataset, with the steps that a time allows here."""
    seconds = measure(suggest(dataset, 0.0, minutes), dataset)
    recipe = suggest(dataset, seconds, minutes)
    labels = ", ".join(f"{name} {n}" for name, n in dataset.labels.items()) or "none"
    states = "; ".join(f"{q:+d}, {m}: {n}" for (q, m), n in dataset.states.items())
    weights = [f"loss.{q.name}" for q in trained() if q.name in dataset.labels]
    head = (
        f"# {len(dataset)} molecules of at most {int(dataset.n_atoms.max())} atoms\n"
        f"# charge, multiplicity: molecules: {states}\n"
        f"# labels: {labels}\n"
        f"# one step of {recipe.optimizer.batch_size} molecules took {seconds:.2g} s; "
        f"the steps below are for {minutes:g} minutes\n"
        "# all settings with their defaults: physnet-train train --show-defaults\n"
    )
    return head + "\n" + commented(recipe, only=[*_KEYS, *weights])


def _compositions(dataset: PackedDataset) -> int:
    """How many different sums of atoms there are; 2 stands for more than one."""
    first = None
    for rows in parts(range(len(dataset))):
        owner = np.repeat(np.arange(len(rows)), dataset.n_atoms[rows])
        numbers = dataset.take("atomic_numbers", dataset.atom_rows(rows))
        table = np.zeros((len(rows), 119), np.int32)
        np.add.at(table, (owner, numbers), 1)
        first = table[0] if first is None else first
        if (table != first).any():
            return 2
    return 1


def _extent(dataset: PackedDataset) -> float:
    """The longest side of the molecules, in Å."""
    rows = np.unique(np.linspace(0, len(dataset) - 1, _SAMPLE).astype(int))
    rows = np.union1d(rows, [int(np.argmax(dataset.n_atoms))])
    positions = dataset.take("positions", dataset.atom_rows(rows))
    sizes = dataset.n_atoms[rows]
    first = np.cumsum(sizes) - sizes
    high, low = (f.reduceat(positions, first) for f in (np.maximum, np.minimum))
    return float(np.linalg.norm(high - low, axis=1).max())
