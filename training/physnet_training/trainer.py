"""A training run: folder, split, references, steps, validation, exact resume."""

import json
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from physnet_ase.graph import Graph
from physnet_ase.potential import Potential
from physnet_ase.untrained import initial_parameters
from physnet_training import step as step_module
from physnet_training.config import Recipe, recipe_from
from physnet_training.evaluate import Predictions, ReferenceTable
from physnet_training.loader import PackedMemmapLoader
from physnet_training.loading.feed import Feed
from physnet_training.packed import PackedDataset
from physnet_training.preparation import (
    check_states,
    dataset_references,
    describe,
    make_split,
)
from physnet_training.run_store import RunStore
from physnet_training.splits import SPLIT_FILE, Split

CHECK_EVERY = 50
"""Steps between looks at the loss; a NaN is traced back to its own step."""


class Progress(NamedTuple):
    """What a progress display needs, every :data:`CHECK_EVERY` steps."""

    step: int
    steps: int
    loss: float
    seconds: float
    validation: dict[str, Any] | None  # errors over all states, when just measured


class Trainer:
    """Runs a recipe on a dataset into a folder, or continues one there.

    The folder holds ``recipe.json``, ``split.npz``, ``history.jsonl``, ``state/``
    (everything needed to continue exactly) and ``model/`` (the averaged weights with
    the lowest validation loss).
    """

    def __init__(
        self, recipe: Recipe, dataset: PackedDataset, out: Path, split: Split
    ) -> None:
        self.recipe, self.dataset, self.out, self.split = recipe, dataset, out, split
        options = recipe.optimizer
        # flat graphs pad a batch, not a molecule: sorting by size would save little and
        # make batches of one kind of molecule each
        whole = PackedMemmapLoader(
            dataset,
            options.batch_size,
            bucket_size=1,
            seed=options.seed,
            **recipe.sampling.model_dump(),
        )
        self.loader = whole.subset(split.train)
        self.validation = whole.subset(split.validation, shuffle=False)
        found, scale = dataset_references(dataset, split.train)
        check_states(dataset, split, found, recipe.model)
        self.references = ReferenceTable(found.element_energies, found.state_energies)
        self.metadata = describe(recipe, dataset, found)
        graph = next(self.validation.graphs(recipe.model.cutoff))._replace(labels=None)
        self.validation.restore(self.validation.state() | {"epoch": 0, "index": 0})
        params = initial_parameters(recipe.model, graph, options.seed)
        self.functions = step_module.build(
            recipe, step_module.starting_parameters(params, scale)
        )
        self.state = self.functions.start
        self.best: float | None = None
        self.seconds = 0.0
        self.waited = 0.0  # of these, for data
        self._store = RunStore(out / "state")

    def potential(self) -> Potential:
        """The averaged weights of this moment as a potential."""
        params = self.functions.unravel(self.state.average)
        return Potential(self.metadata, params)

    def run(self, on_progress: Callable[[Progress], None] | None = None) -> Path:
        """Train to the end; return the model directory.

        Raises:
            FloatingPointError: The loss is not finite; the batch's molecules are named.
        """
        recent: deque[tuple[int, int, int, Any]] = deque(maxlen=CHECK_EVERY)
        earlier = time.monotonic() - self.seconds, self.waited

        def prepare(graph: Graph) -> Graph:
            return jax.device_put(self.references.subtract(graph))

        def busy() -> bool:
            return bool(recent) and not recent[-1][3]["loss"].is_ready()

        with Feed(self.loader, self.recipe.model.cutoff, prepare) as feed:
            while (done := int(self.state.step)) < self.recipe.optimizer.steps:
                for step in self._until_check(done):
                    batch = feed.take(busy)
                    self.state, metrics = self.functions.step(self.state, batch.graph)
                    recent.append((step, batch.epoch, batch.number, metrics))
                self._check_finite(recent)
                self.seconds = time.monotonic() - earlier[0]
                self.waited = earlier[1] + feed.waited
                self._report(step, recent, feed.position, on_progress)
                recent.clear()
        return self.out / "model"

    def _until_check(self, done: int) -> range:
        """Steps up to the next look at the loss, or validation, or the end."""
        options = self.recipe.optimizer
        ends = [
            (done // every + 1) * every
            for every in (CHECK_EVERY, options.validate_every)
        ]
        return range(done + 1, min(*ends, options.steps) + 1)

    def _report(
        self,
        step: int,
        recent: "deque[tuple[int, int, int, Any]]",
        position: dict[str, Any],
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        """Validate and store where that is due; tell who wants to know."""
        steps = self.recipe.optimizer.steps
        errors = None
        if step % self.recipe.optimizer.validate_every == 0 or step == steps:
            errors = self._validate(step, recent)
            self._save(step, position)
        if on_progress is not None:
            loss = float(np.mean([r[3]["loss"] for r in recent]))
            on_progress(Progress(step, steps, loss, self.seconds, errors))

    def data_report(self) -> dict[str, float]:
        """Fraction of the time spent waiting for data, and what is padding."""
        padding = self.loader.padding()
        return {
            "wait_fraction": self.waited / max(self.seconds, 1e-9),
            "padding_of_atoms": padding.atoms,
            "padding_of_pairs": padding.pairs,
            "shapes": padding.shapes,
        }

    def _check_finite(self, recent: "deque[tuple[int, int, int, Any]]") -> None:
        for step, epoch, index, metrics in recent:
            values = {name: float(value) for name, value in metrics.items()}
            bad = [name for name, value in values.items() if not np.isfinite(value)]
            if bad:
                rows = self.loader.molecules(epoch, index).tolist()
                raise FloatingPointError(
                    f"step {step} (epoch {epoch}, batch {index}): {', '.join(bad)} is "
                    f"not finite. Molecules of the batch: {rows}. Look at their labels "
                    "with `physnet-train inspect`, or lower optimizer.learning_rate; "
                    f"the last good state is in {self.out / 'state'}"
                )

    def _validate(
        self, step: int, recent: "deque[tuple[int, int, int, Any]]"
    ) -> dict[str, Any]:
        """Errors of the averaged weights per state; keeps the model when it is best."""
        graphs = map(
            self.references.subtract,
            self.validation.graphs(self.recipe.model.cutoff),
        )
        predict, average = self.functions.predict, self.state.average
        table = Predictions(graphs, lambda graph: predict(average, graph)).errors()
        weights = self.recipe.loss
        score = sum(
            weight * (table[0][key] or 0.0)
            for weight, key in (
                (weights.energy, "energy_mae_ev"),
                (weights.forces, "forces_mae_ev_per_angstrom"),
            )
        )
        if self.best is None or score < self.best:
            self.best = score
            training = {
                "steps": step,
                "seconds": round(self.seconds, 1),
                "training_molecules": len(self.split.train),
                "validation_molecules": len(self.split.validation),
                # names only: a model travels, the folders it was made in do not
                "data": [Path(source).name for source in self.recipe.data.sources],
                "recipe": self.recipe.model_dump(
                    mode="json",
                    exclude={"model": True, "data": True, "sampling": {"weights"}},
                ),
            }
            metadata = self.metadata.model_copy(
                update={"training": training, "validation_errors": table}
            )
            params = self.functions.unravel(self.state.average)
            Potential(metadata, params).save(self.out / "model")
        loss = {
            name: float(np.mean([r[3][name] for r in recent])) for name in recent[-1][3]
        }
        line = {
            "step": step,
            "seconds": self.seconds,
            "train": loss,
            "data": self.data_report(),
            "errors": table,
        }
        with (self.out / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return table[0]

    def _save(self, step: int, position: dict[str, Any]) -> None:
        meta = {
            "loader": position,
            "best": self.best,
            "seconds": self.seconds,
            "waited": self.waited,
        }
        self._store.save(step, self.state._asdict(), meta)

    def restore(self) -> int:
        """Continue from the newest stored state; return its step.

        Raises:
            FileNotFoundError: No state was stored yet.
        """
        step, state, meta = self._store.restore(self.state._asdict())
        self.state = step_module.TrainState(**state)
        self.loader.restore(meta["loader"])
        self.best, self.seconds = meta["best"], meta["seconds"]
        self.waited = meta["waited"]
        self._trim_history(step)
        return step

    def _trim_history(self, step: int) -> None:
        """Drop lines after the restored step, which will be written again."""
        file = self.out / "history.jsonl"
        if file.exists():
            lines = file.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def prepare(recipe: Recipe, dataset: PackedDataset, out: Path) -> Trainer:
    """Start a run in the new folder ``out``; store its recipe and split there.

    Raises:
        FileExistsError: ``out`` holds a run already.
    """
    if (out / "recipe.json").exists():
        raise FileExistsError(
            f"{out} holds a run already; continue it with `physnet-train resume {out}` "
            "or choose another folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    split = make_split(dataset, recipe.split)
    trainer = Trainer(recipe, dataset, out, split)
    split.save(out / SPLIT_FILE)
    content = {
        "recipe": recipe.model_dump(mode="json"),
        "dataset": str(Path(dataset.path).resolve()),
    }
    (out / "recipe.json").write_text(json.dumps(content, indent=2) + "\n")
    return trainer


def reopen(out: Path) -> Trainer:
    """Reopen the run in ``out`` at its newest stored state.

    Raises:
        FileNotFoundError: ``out`` holds no run, or the run no stored state.
    """
    file = out / "recipe.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; {out} is not a training run")
    content = json.loads(file.read_text())
    recipe = recipe_from(content["recipe"], file)
    dataset = PackedDataset.open(
        content["dataset"], assume_multiplicity=recipe.data.assume_multiplicity
    )
    trainer = Trainer(recipe, dataset, out, Split.load(out / SPLIT_FILE))
    trainer.restore()
    return trainer
