"""A training run: folder, split, references, steps, validation, exact resume."""

import json
import logging
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from physnet_ase.graph import Graph
from physnet_ase.network.initial import initial_parameters, starting_parameters
from physnet_ase.potential import Potential, load_potential
from physnet_ase.references import References, without_references
from physnet_training.loading.geometries import Ladders
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.packed import PackedDataset
from physnet_training.train import step as step_module
from physnet_training.train.batches import StepBatches
from physnet_training.train.data import (
    check_states,
    dataset_fingerprint,
    dataset_references,
    describe,
    levels_of,
    with_heads,
)
from physnet_training.train.devices import Devices
from physnet_training.train.evaluate import Predictions
from physnet_training.train.gaps import GapSums
from physnet_training.train.growth import GROWING, grown
from physnet_training.train.guard import MOST_RETREATS, Diverged, Guard
from physnet_training.train.optimizer import learning_rate
from physnet_training.train.recipe import Recipe, recipe_from
from physnet_training.train.split import SPLIT_FILE, Split, make_split
from physnet_training.train.start import START_FOLDER, check_start, parameters_of_levels
from physnet_training.train.store import RunStore, Stored, full_disk_is_said

CHECK_EVERY = 50
"""Steps between looks at the loss; a NaN is traced back to its own step."""


STORE_SECONDS = 600.0
"""A state is stored when the last one is older than this, validation or not."""
RECIPE_FILE, LOCK_FILE = "recipe.json", "run.lock"
_MOST_ASKED = 20_000  # training molecules that the references of a start are fitted to
logger = logging.getLogger(__name__)


class TrainingStopped(RuntimeError):
    """A signal ended the training; everything needed to continue is stored."""


class Record(NamedTuple):
    """One step: where its batch stood, and what came out."""

    step: int
    epoch: int
    batch: int
    metrics: dict[str, Any]


class TrainingProgress(NamedTuple):
    """What a progress display needs, every :data:`CHECK_EVERY` steps."""

    step: int
    steps: int
    loss: float
    seconds: float
    validation: dict[str, Any] | None  # errors over all states, when just measured


class Trainer:
    """Runs a recipe on a dataset into a folder, or continues one there.

    The folder holds ``recipe.json``, ``split.npz``, ``history.jsonl``, ``state/``
    (everything needed to continue exactly), ``start/`` (what a fine-tuning started
    from), ``before_decay/`` (the same where a longer
    run branches off) and ``model/`` (the averaged weights with the lowest validation
    loss).
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: PackedDataset,
        out: Path,
        split: Split,
        devices: Devices | None = None,
    ) -> None:
        self.devices = devices = devices or Devices()
        devices.check(recipe.optimizer.batch_size)
        self.num_heads = recipe.model.num_heads  # drawn after the training
        alone = recipe.model.model_copy(update={"num_heads": 1})
        recipe = recipe.model_copy(update={"model": alone})
        self.recipe, self.dataset, self.out, self.split = recipe, dataset, out, split
        self.batches = StepBatches(recipe, dataset, split.train, devices)
        self.loader = self.batches.loader
        self._ladders: Ladders | None = None
        # Which weights are best is judged at the first level of theory.
        first = self.held_out()["validation"]
        first = first[levels_of(dataset, first) == 0]
        if not len(first):
            raise ValueError(
                f"{dataset.path}: no molecule of its first level of theory, "
                f"{dataset.levels[0]!r}, is in the validation part; use another split"
            )
        if recipe.loss.vertical > 0:
            self._ladders = Ladders.of(dataset, first)
            first = self._ladders.molecules
        # every process validates by itself, so that none waits for the others
        options = recipe.optimizer
        times = -(-options.steps // options.validate_every)
        self.validation = PackedMemmapLoader(
            dataset,
            options.batch_size,
            shuffle=False,
            expected_batches=times * -(-len(first) // options.batch_size),
        ).subset(first)
        self.fingerprint = dataset_fingerprint(dataset)
        labels = step_module.trained_labels(recipe, dataset.fields)
        if not labels:
            there = ", ".join(sorted(dataset.labels)) or "no labels"
            raise ValueError(
                f"{dataset.path} holds {there}, none of which has a weight in [loss]; "
                "nothing would be learned"
            )
        build = partial(step_module.build, recipe, labels=labels, devices=devices)
        logger.info("fitting reference energies")
        if recipe.start.model is None:
            self.references, scale = self._fit_references()
            self.functions = build(self._first_parameters(scale))
        else:
            start = load_potential(out / START_FOLDER)
            check_start(start, recipe, dataset, split.train)
            params = parameters_of_levels(start, dataset.levels)
            if any(
                getattr(recipe.model, key) != getattr(start.config, key)
                for key in GROWING
            ):
                params = grown(
                    params, recipe.model, self._some_molecules(), recipe.optimizer.seed
                )
            self.functions = build(params)
            self.references, _ = self._fit_references(self._network_energies())
        check_states(dataset, split.validation, self.references, recipe.model)
        logger.info("describing the atoms and states of the training part")
        self.metadata = describe(recipe, dataset, split, self.references)
        self.state = self.functions.start
        self.best: float | None = None
        self.waits = 0  # validations since then
        self.guard = Guard()
        self.on_history: Callable[[dict[str, Any]], None] = lambda line: None
        self.seconds = 0.0
        self.waited = 0.0  # of these, for data
        known = self.references[0].state_energies
        self.batches.separate_pairs([(s.charge, s.multiplicity) for s in known])
        self._store = RunStore(out / "state")
        self._branch = RunStore(out / "before_decay")
        self._stored_at = time.monotonic()

    def _fit_references(
        self, less: "np.ndarray | None" = None
    ) -> tuple[list[References], float]:
        local = self.recipe.model.conditioning == "local"
        return dataset_references(
            self.dataset, self.split.train, additive=local, less=less
        )

    def _first_parameters(self, scale: float) -> Any:
        """Those of a training from scratch."""
        seed = self.recipe.optimizer.seed
        params = initial_parameters(self.recipe.model, self._some_molecules(), seed)
        return starting_parameters(params, scale)

    def _some_molecules(self) -> Graph:
        """The first batch of the validation part, without labels."""
        cutoff = self.recipe.model.cutoff
        graph = next(self.validation.graphs(cutoff))._replace(labels=None)
        self.validation.restore(self.validation.state() | {"epoch": 0, "index": 0})
        return graph

    def _network_energies(self) -> np.ndarray:
        """What the first weights say of training molecules, without references.

        [molecules of the dataset] eV, NaN where they were not asked, or do not learn
        energies.
        """
        rows = self.split.train[:: -(-len(self.split.train) // _MOST_ASKED)]
        batch_size, place = self.recipe.optimizer.batch_size, 0
        loader = PackedMemmapLoader(self.dataset, batch_size, shuffle=False)
        loader = loader.subset(np.sort(rows))
        logger.info("asking the start for the energies of %d molecules", len(rows))
        weights = self.devices.here(self.functions.start.weights)
        energies = np.full(len(self.dataset), np.nan)
        for graph in loader.graphs(self.recipe.model.cutoff):
            predicted = self.functions.predict(weights, graph)
            if "energy" not in predicted:
                return np.zeros(len(self.dataset))
            own = np.asarray(predicted["energy"], np.float64)[graph.molecule_mask]
            energies[loader.indices[place : place + len(own)]] = own
            place += len(own)
        return energies

    def potential(self) -> Potential:
        """The averaged weights of this moment as a potential."""
        average = self.devices.here(self.state.average)
        return Potential(self.metadata, self.functions.unravel(average))

    @property
    def stopped_early(self) -> bool:
        """Whether the validations have stopped improving for good."""
        patience = self.recipe.optimizer.patience
        return patience is not None and self.waits >= patience

    def run(
        self, on_progress: Callable[[TrainingProgress], None] | None = None
    ) -> Path:
        """Train to the end; return the model directory.

        A run whose loss is not finite, or explodes, goes back to its last stored state
        and on at half the learning rate, three times at most.

        Raises:
            FloatingPointError: It diverged once more; the batch's molecules are named.
            TrainingStopped: A signal came.
        """
        verified = self.dataset if self.devices.writes else None
        with _Checksums(verified) as checksums, _stop_requests() as stop:
            while not self._ended():
                try:
                    self._steps(checksums, stop, on_progress)
                except Diverged as trouble:
                    self._go_back(trouble)
        self.devices.wait("the model is written")
        return self.out / "model"

    def _ended(self) -> bool:
        done = int(self.state.step)
        return done >= self.recipe.optimizer.steps or self.stopped_early

    def _steps(
        self,
        checksums: "_Checksums",
        stop: threading.Event,
        on_progress: Callable[[TrainingProgress], None] | None,
    ) -> None:
        """Train to the end, or until something stops it."""
        recent: deque[Record] = deque(maxlen=CHECK_EVERY)
        earlier = time.monotonic() - self.seconds, self.waited

        def prepare(graphs: list[Graph]) -> Graph:
            return self.devices.put(
                [without_references(graph, self.references) for graph in graphs]
            )

        def busy() -> bool:
            return bool(recent) and not recent[-1].metrics["loss"].is_ready()

        with self.batches.feed(prepare, int(self.state.step)) as feed:
            while not self._ended():
                rate = np.float32(self.guard.rate)
                for step in self._until_check(int(self.state.step)):
                    batch = feed.take(busy)
                    self.state, metrics = self.functions.step(
                        self.state, batch.graph, rate
                    )
                    recent.append(Record(step, batch.epoch, batch.number, metrics))
                    if stop.is_set() and self.devices.process_count == 1:
                        break  # several must end at the same step
                self._check_loss(recent)
                checksums.check()
                self.seconds = time.monotonic() - earlier[0]
                self.waited = earlier[1] + feed.waited
                self._report(step, recent, feed.position, on_progress)
                recent.clear()
                if self.devices.any(stop.is_set()) and not self._ended():
                    self._save(step, feed.position)
                    self.devices.wait("the state is stored")
                    raise TrainingStopped(
                        f"stopped at step {step} of {self.recipe.optimizer.steps}, "
                        f"which is stored; continue with: physnet-train resume "
                        f"{self.out}"
                    )

    def _go_back(self, trouble: Diverged) -> None:
        """Continue at the last stored state with half the learning rate.

        Raises:
            FloatingPointError: It was done three times already.
        """
        if len(self.guard.retreats) >= MOST_RETREATS:
            raise FloatingPointError(
                f"{trouble}. Going back and halving the learning rate {MOST_RETREATS} "
                "times did not help. Look at the labels with `physnet-train inspect`, "
                "or lower optimizer.learning_rate; the last good state is in "
                f"{self.out / 'state'}"
            ) from trouble
        guard, seconds, waited = self.guard.state(), self.seconds, self.waited
        failed = int(self.state.step)
        step = self.restore()
        self.guard.restore(guard)  # what it has seen must not be forgotten
        self.seconds, self.waited = seconds, waited
        self.guard.retreat(failed, step, str(trouble))
        logger.warning(
            "%s; going back to step %d with %.3g of the learning rate",
            *(trouble, step, self.guard.rate),
        )

    def held_out(self) -> dict[str, np.ndarray]:
        """Molecules that do not train, by what they are for."""
        old = self.batches.old[self.split.validation]
        return {
            "validation": self.split.validation[~old],
            "test": self.split.test,
            "replay": self.split.validation[old],
        }

    def _until_check(self, done: int) -> range:
        """Steps up to the next look at the loss, or validation, or the end."""
        options = self.recipe.optimizer
        ends = [
            (done // every + 1) * every
            for every in (CHECK_EVERY, options.validate_every)
        ]
        if done < options.decay_start:
            ends.append(options.decay_start)
        return range(done + 1, min(*ends, options.steps) + 1)

    def _report(
        self,
        step: int,
        recent: "deque[Record]",
        position: dict[str, Any],
        on_progress: Callable[[TrainingProgress], None] | None,
    ) -> None:
        """Validate and store where that is due; tell who wants to know."""
        steps = self.recipe.optimizer.steps
        errors = None
        if step % self.recipe.optimizer.validate_every == 0 or step == steps:
            errors = self._validate(step, recent)
            self._save(step, position)
        elif time.monotonic() - self._stored_at > STORE_SECONDS:
            self._save(step, position)
        if step == self.recipe.optimizer.decay_start < steps:
            self._save(step, position, self._branch)
        if on_progress is not None:
            loss = float(np.mean([r.metrics["loss"] for r in recent]))
            on_progress(TrainingProgress(step, steps, loss, self.seconds, errors))

    def data_report(self) -> dict[str, float]:
        """Fraction of the time spent waiting for data, and what is padding."""
        padding = self.loader.padding()
        return {
            "wait_fraction": self.waited / max(self.seconds, 1e-9),
            "padding_of_atoms": padding.atoms,
            "padding_of_pairs": padding.pairs,
            "shapes": padding.shapes,
        }

    def _check_loss(self, recent: "deque[Record]") -> None:
        losses = []
        for step, epoch, index, metrics in recent:
            values = {name: float(value) for name, value in metrics.items()}
            bad = [name for name, value in values.items() if not np.isfinite(value)]
            if bad:
                rows = self.loader.all_molecules(epoch, index).tolist()
                raise Diverged(
                    f"step {step} (epoch {epoch}, batch {index}): {', '.join(bad)} is "
                    f"not finite. Molecules of the batch: {rows}"
                )
            losses.append(values["loss"])
        if reason := self.guard.exploded(losses):
            raise Diverged(f"step {recent[-1].step}: {reason}")

    def _validate(self, step: int, recent: "deque[Record]") -> dict[str, Any]:
        """Errors of the averaged weights per state; keeps the model when it is best."""
        graphs = (
            without_references(graph, self.references)
            for graph in self.validation.graphs(self.recipe.model.cutoff)
        )
        predict = self.functions.predict
        average = self.devices.here(self.state.average)
        predicted = ((graph, predict(average, graph)) for graph in graphs)
        gaps = GapSums(self.dataset, self._ladders) if self._ladders else None
        table = Predictions(predicted, self.validation.indices, gaps).errors()
        weights = self.recipe.loss
        score = sum(
            weight * (table[0].get(key) or 0.0)
            for weight, key in (
                (weights.weight("energy"), "energy_mae_ev"),
                (weights.weight("forces"), "forces_mae_ev_per_angstrom"),
                (weights.vertical, "vertical_mae_ev"),
            )
        )
        score = self.devices.agreed(score)
        self.waits += 1
        if self.best is None or score < self.best:
            self.best, self.waits = score, 0
            training = {
                "steps": step,
                "seconds": round(self.seconds, 1),
                "training_molecules": len(self.split.train),
                "validation_molecules": len(self.split.validation),
                # names only: a model travels, the folders it was made in do not
                "data": [Path(source).name for source in self.recipe.data.sources],
                "data_sha256": self.fingerprint,
                "recipe": self.recipe.model_dump(
                    mode="json",
                    exclude={
                        **{"model": True, "data": True},
                        **{"sampling": {"weights"}, "start": {"model"}},
                    },
                ),
            }
            if (start := self.recipe.start.model) is not None:
                training["started_from"] = Path(start).name
            metadata = self.metadata.model_copy(
                update={"training": training, "validation_errors": table}
            )
            if self.devices.writes:
                params = self.functions.unravel(average)
                with full_disk_is_said(self.out):
                    Potential(metadata, params).save(self.out / "model")
        loss = {
            name: float(np.mean([r.metrics[name] for r in recent]))
            for name in recent[-1].metrics
        }
        line = {
            "step": step,
            "seconds": self.seconds,
            "learning_rate": self.learning_rate(step),
            "train": loss,
            "data": self.data_report(),
            "errors": table,
        }
        if self.guard.retreats:
            line["retreats"] = self.guard.retreats
        if self.devices.writes:
            with (
                full_disk_is_said(self.out),
                (self.out / "history.jsonl").open("a", encoding="utf-8") as file,
            ):
                file.write(json.dumps(line) + "\n")
        self.on_history(line)
        self._slow_down()
        return table[0]

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, with what the guard takes off."""
        rate = learning_rate(self.recipe.optimizer)(step - 1)
        return float(rate) * self.guard.rate

    def _slow_down(self) -> None:
        """Halve the rate of ``plateau`` when validations have stopped improving."""
        options = self.recipe.optimizer
        if options.schedule != "plateau" or self.waits == 0:
            return
        if self.waits % options.plateau_patience == 0:
            least = options.final_learning_rate / options.learning_rate
            self.guard.rate = max(0.5 * self.guard.rate, min(least, self.guard.rate))

    def _save(
        self, step: int, position: dict[str, Any], store: RunStore | None = None
    ) -> None:
        meta = {
            "loader": position,
            "best": self.best,
            "waits": self.waits,
            "seconds": self.seconds,
            "waited": self.waited,
            "guard": self.guard.state(),
            "schedule_steps": self.recipe.optimizer.steps,
        }
        if self.devices.writes:
            state = self.devices.storable(self.state._asdict())
            (store or self._store).save(step, state, meta)
        if store is None:
            self._stored_at = time.monotonic()

    def store_start(self) -> None:
        """Store the state before the first step, so that any run can be continued."""
        self._save(0, self.loader.state())

    def restore(self) -> int:
        """Continue from the newest state that fits the recipe; return its step.

        A longer run does not go on from within the decay of a shorter one, but from
        where that began.

        Raises:
            FileNotFoundError: No state was stored yet.
            ValueError: All are of a schedule of another length.
        """
        like = self.devices.storable(self.state._asdict())
        newest, fitting = [], []
        for store in (self._store, self._branch):
            for place, each in enumerate(store.states(like)):
                if place == 0:
                    newest.append(each)
                if self._fits(each):
                    fitting.append(each)
                    break
        if newest and not fitting:
            lengths = sorted({each.meta["schedule_steps"] for each in newest})
            raise ValueError(
                f"the states in {self.out / 'state'} are of a schedule of "
                f"{', '.join(map(str, lengths))} steps, and {RECIPE_FILE} says "
                f"{self.recipe.optimizer.steps}; put the number back"
            )
        if not fitting:
            raise FileNotFoundError(
                f"{self.out / 'state'} holds no stored state to continue from; start "
                "the training again"
            )
        stored = max(fitting, key=lambda each: each.step)
        meta = stored.meta
        self.state = self.devices.everywhere(step_module.TrainState(**stored.state))
        # the order is that of the whole batch, whoever computes which share of it
        own = {
            "batch_size": self.loader.batch_size,
            "process_count": self.loader.process_count,
        }
        self.loader.restore(meta["loader"] | own)
        self.seconds, self.waited = meta["seconds"], meta["waited"]
        # what is in model/ is known to the newest of all
        self.best = max(newest, key=lambda each: each.step).meta["best"]
        self.waits = meta.get("waits", 0)
        if "guard" in meta:
            self.guard.restore(meta["guard"])
        self._trim_history(stored.step)
        return stored.step

    def _fits(self, stored: Stored) -> bool:
        """Whether a run of the recipe's length comes through a state."""
        options = self.recipe.optimizer
        steps = stored.meta.get("schedule_steps", options.steps)
        other = options.model_copy(update={"steps": steps})
        common = min(options.decay_start, other.decay_start)
        return bool(steps == options.steps or stored.step <= common)

    def _trim_history(self, step: int) -> None:
        """Drop lines after the restored step, which will be written again."""
        file = self.out / "history.jsonl"
        if self.devices.writes and file.exists():
            lines = file.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second SIGINT interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals arrive in the main thread only
        return

    def request(number: int, frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {name: signal.signal(name, request) for name in _SIGNALS}
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Checksums:
    """Verifies a dataset in the background while the first steps run; None: nothing."""

    def __init__(self, dataset: PackedDataset | None) -> None:
        self._dataset = dataset
        self._error: ValueError | None = None
        self._thread = threading.Thread(target=self._verify, daemon=True)

    def _verify(self) -> None:
        dataset = self._dataset
        if dataset is None or not all(m.get("sha256") for m in dataset.manifests):
            return  # nothing to compare with
        try:
            dataset.verify()
        except ValueError as error:
            self._error = error

    def check(self) -> None:
        """Raise what was found so far.

        Raises:
            ValueError: A file was changed; it is named.
        """
        if self._error is not None:
            raise self._error

    def __enter__(self) -> "_Checksums":
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is None:  # a short run ends before the files are read
            self._thread.join()
            self.check()


@contextmanager
def exclusive(out: Path, devices: Devices | None = None) -> Iterator[None]:
    """Hold the folder of a run, so that no second training writes there.

    Args:
        out: The folder.
        devices: Of several processes that train together one holds it.

    Raises:
        RuntimeError: Another process works there.
    """
    out.mkdir(parents=True, exist_ok=True)
    if devices is not None and not devices.writes:
        yield
        return
    lock = FileLock(out / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RuntimeError(
            f"another training works in {out}; wait for it or choose another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


def prepare(
    recipe: Recipe,
    dataset: PackedDataset,
    out: Path,
    split: Split | None = None,
    devices: Devices | None = None,
) -> Trainer:
    """Start a run in the new folder ``out``; store its recipe, split and first state.

    Args:
        recipe: What decides the training.
        dataset: Its molecules.
        out: The folder.
        split: Who trains and who validates; None: as the recipe says.
        devices: What computes; None: all there are.

    Raises:
        FileExistsError: ``out`` holds a run already.
    """
    devices = devices or Devices()
    devices.check(recipe.optimizer.batch_size)
    check_new(out)
    devices.wait("the folder is new")
    out.mkdir(parents=True, exist_ok=True)
    if devices.writes:
        # What an attempt left that ended before its recipe was written.
        shutil.rmtree(out / "state", ignore_errors=True)
    split = split or make_split(dataset, recipe.split)
    recipe = with_heads(recipe, dataset)
    if recipe.start.model is not None and devices.writes:
        load_potential(recipe.start.model).save(out / START_FOLDER)
    devices.wait("the start is written")
    trainer = Trainer(recipe, dataset, out, split, devices)
    trainer.store_start()
    if devices.writes:
        split.save(out / SPLIT_FILE)
        # last: from here on the run can be resumed
        _write_run(out, recipe, Path(dataset.path), trainer.fingerprint)
    return trainer


def _write_run(out: Path, recipe: Recipe, dataset: Path, fingerprint: str) -> None:
    """Write ``recipe.json``; a dataset inside the folder moves with it."""
    dataset, folder = dataset.resolve(), out.resolve()
    inside = dataset.is_relative_to(folder)
    content = {
        "recipe": recipe.model_dump(mode="json"),
        "dataset": str(dataset.relative_to(folder) if inside else dataset),
        "dataset_sha256": fingerprint,
    }
    partial = out / f"{RECIPE_FILE}.part"
    with full_disk_is_said(out):
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial.replace(out / RECIPE_FILE)


def check_new(out: Path) -> None:
    """Refuse a folder that holds a run.

    Raises:
        FileExistsError: It does.
    """
    if (out / RECIPE_FILE).exists():
        raise FileExistsError(
            f"{out} holds a run already; continue it with `physnet-train resume {out}` "
            "or choose another folder"
        )


def reopen(
    out: Path,
    *,
    steps: int | None = None,
    data: Path | None = None,
    devices: Devices | None = None,
) -> Trainer:
    """Reopen the run in ``out`` at its newest stored state.

    Args:
        out: The folder.
        steps: Train so many steps in all instead: more than the run was to have.
        data: Where the dataset lies now.
        devices: What computes, whatever did before; None: all there are.

    Raises:
        FileNotFoundError: ``out`` holds no run, or the run no stored state, or the
            dataset is not where it was.
        ValueError: The dataset is not the one that the run began with, or the schedule
            cannot be extended.
    """
    file = out / RECIPE_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing; {out} is not a training run, or one that ended before "
            "its first step: start it with physnet-train train"
        )
    content = json.loads(file.read_text(encoding="utf-8"))
    recipe = recipe_from(content["recipe"], file)
    if steps is not None:
        recipe = _extended(recipe, steps, out)
    place = out / content["dataset"] if data is None else data
    if not place.exists():
        raise FileNotFoundError(
            f"{place}, the dataset of {out}, does not exist; when it was moved, say "
            f"where to: physnet-train resume {out} --data PATH"
        )
    dataset = PackedDataset.open(
        place, assume_multiplicity=recipe.data.assume_multiplicity
    )
    fingerprint = dataset_fingerprint(dataset)
    if fingerprint != content["dataset_sha256"]:
        raise ValueError(
            f"{dataset.path} is not the dataset that {out} was begun with: its "
            "checksums differ. Put the old one back, or start a new run"
        )
    trainer = Trainer(recipe, dataset, out, Split.load(out / SPLIT_FILE), devices)
    trainer.restore()
    trainer.devices.wait("all have read the run")
    if steps is not None:
        trainer.waits = 0  # whoever asks for more steps wants them taken
    if trainer.devices.writes and (steps is not None or data is not None):
        _write_run(out, recipe, place, fingerprint)
    return trainer


def _extended(recipe: Recipe, steps: int, out: Path) -> Recipe:
    """The recipe with more steps.

    Raises:
        ValueError: Not more, or the schedule is made for one length.
    """
    options = recipe.optimizer
    if steps <= options.steps:
        raise ValueError(
            f"--steps {steps}: {out} trains {options.steps} steps already; give more, "
            "counted from its start"
        )
    if options.decay_start == 0:
        raise ValueError(
            f"--steps {steps}: the schedule {options.schedule!r} of {out} is made for "
            f"{options.steps} steps and cannot be extended. Train anew with --steps "
            f"{steps}; a run with optimizer.schedule = 'wsd' can be extended later"
        )
    update = {"optimizer": options.model_copy(update={"steps": steps})}
    return recipe.model_copy(update=update)
