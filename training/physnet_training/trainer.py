"""A training run: folder, split, references, steps, validation, exact resume."""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase.data import chemical_symbols

from physnet_ase.graph import Graph
from physnet_ase.metadata import ModelMetadata, StateRecord
from physnet_ase.potential import Potential
from physnet_ase.untrained import initial_parameters
from physnet_training import step as step_module
from physnet_training.config import Recipe, recipe_from
from physnet_training.evaluate import Predictions, ReferenceTable
from physnet_training.loader import PackedMemmapLoader
from physnet_training.packed import PackedDataset
from physnet_training.preparation import dataset_references, make_split
from physnet_training.references import References
from physnet_training.splits import Split

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

    The folder holds ``recipe.json``, ``split.json``, ``history.jsonl``, ``state/``
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
            dataset, options.batch_size, bucket_size=1, seed=options.seed
        )
        self.loader = whole.subset(split.train)
        self.validation = whole.subset(split.validation, shuffle=False)
        found, scale = dataset_references(dataset, split.train)
        self._check_states(found)
        self.references = ReferenceTable(found.element_energies, found.state_energies)
        self.metadata = self._describe(found)
        graph = next(self.validation.graphs(recipe.model.cutoff))._replace(labels=None)
        self.validation.restore(self.validation.state() | {"epoch": 0, "index": 0})
        params = initial_parameters(recipe.model, graph, options.seed)
        self.functions = step_module.build(
            recipe, step_module.starting_parameters(params, scale)
        )
        self.state = self.functions.start
        self.best: float | None = None
        self.seconds = 0.0
        self._checkpoints: Any = None

    def _check_states(self, found: References) -> None:
        charges, spins = self.dataset.states_of(self.split.validation)
        config = self.recipe.model
        seen = {(s.charge, s.multiplicity) for s in found.state_energies}
        for pair in sorted(set(zip(charges.tolist(), spins.tolist(), strict=True))):
            if pair not in seen:
                raise ValueError(
                    f"charge {pair[0]:+d}, multiplicity {pair[1]} stands in the "
                    "validation part but not in the training part; use another "
                    "split.seed or more molecules"
                )
        for charge, spin in sorted(seen):
            low, high = config.charge_range
            if not (low <= charge <= high and spin <= config.spin_range[1]):
                raise ValueError(
                    f"the data holds charge {charge:+d}, multiplicity {spin}, outside "
                    f"model.charge_range {config.charge_range} or model.spin_range "
                    f"{config.spin_range}; widen them in the recipe"
                )

    def _describe(self, found: References) -> ModelMetadata:
        return ModelMetadata(
            name=self.recipe.name,
            description=self.recipe.description,
            config=self.recipe.model,
            element_energies={
                chemical_symbols[z]: e for z, e in found.element_energies.items()
            },
            states=[
                StateRecord(
                    charge=state.charge,
                    multiplicity=state.multiplicity,
                    count=found.state_counts[state],
                    reference_energy=energy,
                )
                for state, energy in sorted(found.state_energies.items())
            ],
            levels_of_theory=list(self.dataset.levels),
        )

    def potential(self) -> Potential:
        """The averaged weights of this moment as a potential."""
        params = self.functions.unravel(self.state.average)
        return Potential(self.metadata, params)

    def run(self, on_progress: Callable[[Progress], None] | None = None) -> Path:
        """Train to the end; return the model directory.

        Raises:
            FloatingPointError: The loss is not finite; the batch's molecules are named.
        """
        steps, options = self.recipe.optimizer.steps, self.recipe.optimizer
        recent: deque[tuple[int, int, int, Any]] = deque(maxlen=CHECK_EVERY)
        graphs = self._stream()
        started = time.monotonic() - self.seconds
        step = int(self.state.step)
        while step < steps:
            place = self.loader.state()
            graph = next(graphs)
            self.state, metrics = self.functions.step(self.state, graph)
            step += 1
            recent.append((step, place["epoch"], place["index"], metrics))
            due = step % options.validate_every == 0 or step == steps
            if step % CHECK_EVERY == 0 or due:
                self._check_finite(recent)
                errors = None
                self.seconds = time.monotonic() - started
                if due:
                    errors = self._validate(step, recent)
                    self._save(step)
                if on_progress is not None:
                    loss = float(np.mean([r[3]["loss"] for r in recent]))
                    on_progress(Progress(step, steps, loss, self.seconds, errors))
                recent.clear()
        return self.out / "model"

    def _stream(self) -> Iterator[Graph]:
        while True:
            for graph in self.loader.graphs(self.recipe.model.cutoff):
                yield self.references.subtract(graph)

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
                    mode="json", exclude={"model", "data"}
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
        line = {"step": step, "seconds": self.seconds, "train": loss, "errors": table}
        with (self.out / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return table[0]

    def _manager(self) -> Any:
        if self._checkpoints is None:
            import orbax.checkpoint as ocp  # slow to import, needed by trainings only

            self._checkpoints = ocp.CheckpointManager(
                (self.out / "state").resolve(),
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=2, create=True, enable_async_checkpointing=False
                ),
            )
        return self._checkpoints

    def _save(self, step: int) -> None:
        import orbax.checkpoint as ocp

        meta = {
            "loader": self.loader.state(),
            "best": self.best,
            "seconds": self.seconds,
        }
        self._manager().save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(self.state._asdict()),
                meta=ocp.args.JsonSave(meta),
            ),
            force=True,
        )

    def restore(self) -> int:
        """Continue from the newest stored state; return its step.

        Raises:
            FileNotFoundError: No state was stored yet.
        """
        import orbax.checkpoint as ocp

        latest = self._manager().latest_step()
        if latest is None:
            raise FileNotFoundError(
                f"{self.out / 'state'} holds no stored state; nothing to resume, start "
                "the training again"
            )
        stored = self._manager().restore(
            latest,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(self.state._asdict()),
                meta=ocp.args.JsonRestore(),
            ),
        )
        self.state = step_module.TrainState(**stored.state)
        self.loader.restore(stored.meta["loader"])
        self.best, self.seconds = stored.meta["best"], stored.meta["seconds"]
        self._trim_history(latest)
        return int(latest)

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
    split.save(out / "split.json")
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
    trainer = Trainer(recipe, dataset, out, Split.load(out / "split.json"))
    trainer.restore()
    return trainer
