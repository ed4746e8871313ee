"""A starting recipe for a dataset: what suits its size, states, labels and a time."""

import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from physnet_ase.config import PRESETS
from physnet_ase.quantities import trained
from physnet_ase.references import without_references
from physnet_training.packed import PackedDataset
from physnet_training.packed.reader import parts
from physnet_training.train.devices import Devices
from physnet_training.train.recipe import Recipe, commented, recipe_from
from physnet_training.train.replay import replayed
from physnet_training.train.split import make_split
from physnet_training.train.trainer import Trainer

_KEYS = (
    *("name", "data.sources", "data.assume_multiplicity"),
    *("model.num_features", "model.num_blocks", "model.cutoff", "model.max_degree"),
    "model.vector_features",
    *("model.conditioning", "model.charge_range", "model.spin_range"),
    *("model.electrostatics", "model.spin_populations"),
    *("split.kind", "split.train_fraction", "split.holdout_groups"),
    *("optimizer.steps", "optimizer.batch_size", "optimizer.accumulate"),
    *("optimizer.kind", "optimizer.schedule"),
    *("optimizer.learning_rate", "optimizer.warmup_steps"),
    "optimizer.validate_every",
)
_PRESET = "small"
_MEASURED_SECONDS = 5.0
_MEASURED_GRAPHS = 20
"""Batches of which the largest is measured."""
_GIGABYTE = 1e9
_MOST_EPOCHS = 4000
"""Passes over the data after which nothing is to be gained by more."""
_REST = 0.85  # of the time is for steps; compiling, validating and saving need some
_EPOCHS, _FINETUNE_STEPS = 200, (1_000, 20_000)
"""Of a fine-tuning: passes over the data, and bounds of its steps."""
_RATE = 6e-3
"""From scratch with Muon, as in recipes/states_organic.toml."""
_FINETUNE_RATES = {"nothing": 5e-4, "trunk": 3e-3}
"""By what is frozen; measured with benchmarks/finetune.py, heads alone bear more."""
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
    single = _single(dataset)
    batch = _batch_size(len(dataset))
    steps = 20_000
    if seconds_per_step > 0:
        steps = int(60 * minutes * _REST / seconds_per_step)
        steps = max(_rounded(min(steps, _MOST_EPOCHS * len(dataset) // batch)), 100)
    cutoff = PRESETS[_PRESET].cutoff
    content = {
        "name": Path(dataset.path).name,
        "data": {
            "sources": [str(Path(dataset.path).resolve())],
            "assume_multiplicity": dataset.assume_multiplicity,
        },
        "model": {
            "preset": _PRESET,
            "vector_features": True,
            # a molecule that is smaller has no use for more
            "cutoff": min(cutoff, max(np.ceil(_extent(dataset)), 3.0)),
            "charge_range": [min(charges[0], 0), max(charges[-1], 0)],
            "spin_range": [1, spins[-1]],
            "electrostatics": not single or charges != [0],
            "spin_populations": "spin_populations" in dataset.labels,
        },
        "split": _split(dataset),
        "loss": _loss(dataset),
        "optimizer": {
            "batch_size": batch,
            "kind": "muon",
            "learning_rate": _RATE,
            "schedule": "wsd",
            **_lengths(steps),
        },
    }
    return recipe_from(content, "the suggested recipe")


def finetune_content(
    model: str,
    dataset: PackedDataset,
    freeze: str,
    *,
    replay: Sequence[Path] = (),
    replay_share: float = 0.2,
) -> dict[str, Any]:
    """The content of a recipe that fine-tunes a checkpoint on a dataset.

    Args:
        model: Directory or pretrained name.
        dataset: Its molecules.
        freeze: As ``start.freeze``.
        replay: Old data, which the dataset was converted from besides the first source.
        replay_share: Share of batches of these.
    """
    count, share, old = len(dataset), 0.0, {}
    if replay:
        share = replay_share
        count -= int(replayed(dataset, len(replay)).sum())
        old = {
            "data": {"replay": [str(path.resolve()) for path in replay]},
            "sampling": {"replay_share": share},
        }
    batch = _batch_size(count)
    steps = int(np.clip(_EPOCHS * count / batch / (1 - share), *_FINETUNE_STEPS))
    return {
        **old,
        "name": f"{Path(model).name}-finetuned",
        "start": {"model": model, "freeze": freeze},
        "split": _split(dataset),
        "loss": _loss(dataset),
        "optimizer": {
            "batch_size": batch,
            # of a freeze that there is not the recipe says so itself
            "learning_rate": _FINETUNE_RATES.get(freeze, 5e-4),
            **_lengths(_rounded(steps)),
        },
    }


def _rounded(steps: int) -> int:
    digits = 10 ** max(len(str(steps)) - 2, 0)
    return steps // digits * digits


def _lengths(steps: int) -> dict[str, int]:
    part = max(steps // 20, 1)
    return {"steps": steps, "warmup_steps": min(500, part), "validate_every": part}


def _batch_size(molecules: int) -> int:
    return int(np.clip(2 ** round(np.log2(max(molecules / 30, 1))), 4, 32))


def _split(dataset: PackedDataset) -> dict[str, str]:
    return {"kind": "geometry" if len(dataset.states) > 1 else "molecule"}


def _loss(dataset: PackedDataset) -> dict[str, Any]:
    single = _single(dataset)
    return {
        q.name: 50.0 if single and q.name == "forces" else q.loss_weight
        for q in trained()
        if q.name in dataset.labels
    }


class StepCost(NamedTuple):
    """What a training step takes on this machine."""

    seconds: float
    memory: int  # bytes, of its arrays; 0: not known


def measure(recipe: Recipe, dataset: PackedDataset) -> StepCost:
    """Time of a training step of a recipe, compiled, and memory of a large one."""
    with tempfile.TemporaryDirectory() as folder:
        split = make_split(dataset, recipe.split)
        trainer = Trainer(recipe, dataset, Path(folder), split, Devices(1))
        graphs = islice(trainer.loader.graphs(recipe.model.cutoff), _MEASURED_GRAPHS)
        largest = max(graphs, key=lambda graph: len(graph.senders))
        largest = without_references(largest, trainer.references)
        graph = trainer.devices.put([largest] * recipe.optimizer.accumulate)
        state, rate = trainer.state, np.float32(1.0)
        step = trainer.functions.step.lower(state, graph, rate).compile()
        used = step.memory_analysis()
        memory = 0
        if used is not None:  # not all backends know
            memory = used.argument_size_in_bytes + used.temp_size_in_bytes
        seconds: list[float] = []
        while len(seconds) < 3 or sum(seconds) < _MEASURED_SECONDS:
            started = time.monotonic()
            state, _ = step(state, graph, rate)
            state.weights.block_until_ready()
            seconds.append(time.monotonic() - started)
    return StepCost(float(np.mean(seconds)), memory)


def fitting_batch(
    dataset: PackedDataset, minutes: float, memory_gb: float | None
) -> tuple[Recipe, StepCost]:
    """The recipe for a dataset whose steps fit into a memory, and what they take.

    Halves the batch and accumulates twice as many until a step fits: the gradient is
    that of the same number of molecules.

    Raises:
        ValueError: A single molecule needs more, or that cannot be known.
    """
    recipe = suggest(dataset, 0.0, minutes)
    cost = measure(recipe, dataset)
    if memory_gb is not None and not cost.memory:
        raise ValueError(
            "this JAX backend does not say how much memory a step takes: leave out "
            "--memory and choose optimizer.batch_size"
        )
    while memory_gb is not None and cost.memory > memory_gb * _GIGABYTE:
        optimizer = recipe.optimizer
        if optimizer.batch_size == 1:
            raise ValueError(
                f"{dataset.path}: a step on one molecule of {dataset.n_atoms.max()} "
                f"atoms needs {cost.memory / _GIGABYTE:.2g} GB, --memory allows "
                f"{memory_gb:g}; take a smaller model or cutoff, or leave large "
                "molecules out"
            )
        halved = {
            "batch_size": optimizer.batch_size // 2,
            "accumulate": 2 * optimizer.accumulate,
        }
        optimizer = optimizer.model_copy(update=halved)
        recipe = recipe.model_copy(update={"optimizer": optimizer})
        cost = measure(recipe, dataset)
    found = suggest(dataset, cost.seconds, minutes).optimizer.model_copy(
        update=recipe.optimizer.model_dump(include={"batch_size", "accumulate"})
    )
    return recipe.model_copy(update={"optimizer": found}), cost


def starting_recipe(
    dataset: PackedDataset, minutes: float, memory_gb: float | None = None
) -> str:
    """A commented recipe for a dataset, with the steps that a time allows here.

    Args:
        dataset: Its molecules.
        minutes: Of training.
        memory_gb: Most memory of a step; None: any.

    Raises:
        ValueError: A single molecule needs more.
    """
    recipe, cost = fitting_batch(dataset, minutes, memory_gb)
    labels = ", ".join(f"{name} {n}" for name, n in dataset.labels.items()) or "none"
    states = "; ".join(f"{q:+d}, {m}: {n}" for (q, m), n in dataset.states.items())
    weights = [f"loss.{q.name}" for q in trained() if q.name in dataset.labels]
    head = (
        f"# {len(dataset)} molecules of at most {int(dataset.n_atoms.max())} atoms\n"
        f"# charge, multiplicity: molecules: {states}\n"
        f"# labels: {labels}\n"
        f"# one step of {recipe.optimizer.molecules_per_step} molecules took "
        f"{cost.seconds:.2g} s and {cost.memory / _GIGABYTE:.2g} GB; "
        f"the steps below are for {minutes:g} minutes\n"
        "# all settings with their defaults: physnet-train train --show-defaults\n"
    )
    text = commented(recipe, only=[*_KEYS, *weights])
    preset = '[model]\n# what is not said below; "paper" has the published sizes\n'
    return head + "\n" + text.replace("[model]\n", f'{preset}preset = "{_PRESET}"\n')


def _single(dataset: PackedDataset) -> bool:
    """Whether all are one molecule, by its sum of atoms, in one state."""
    first = None
    if len(dataset.states) > 1:
        return False
    for rows in parts(range(len(dataset))):
        owner = np.repeat(np.arange(len(rows)), dataset.n_atoms[rows])
        numbers = dataset.take("atomic_numbers", dataset.atom_rows(rows))
        table = np.zeros((len(rows), 119), np.int32)
        np.add.at(table, (owner, numbers), 1)
        first = table[0] if first is None else first
        if (table != first).any():
            return False
    return True


def _extent(dataset: PackedDataset) -> float:
    """The longest side of the molecules, in Å."""
    rows = np.unique(np.linspace(0, len(dataset) - 1, _SAMPLE).astype(int))
    rows = np.union1d(rows, [int(np.argmax(dataset.n_atoms))])
    positions = dataset.take("positions", dataset.atom_rows(rows))
    sizes = dataset.n_atoms[rows]
    first = np.cumsum(sizes) - sizes
    high, low = (f.reduceat(positions, first) for f in (np.maximum, np.minimum))
    return float(np.linalg.norm(high - low, axis=1).max())
