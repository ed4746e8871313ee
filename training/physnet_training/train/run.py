"""One call from a recipe to a model directory with its test errors and pictures."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from physnet_ase.potential import load_potential
from physnet_training.conversion.report import source_sha256
from physnet_training.convert import convert
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.packed import PackedDataset
from physnet_training.sources.read_deepmd import is_deepmd
from physnet_training.train.calibration import calibration
from physnet_training.train.evaluate import evaluate_potential
from physnet_training.train.heads import add_heads
from physnet_training.train.plots import plot_history, plot_parity
from physnet_training.train.recipe import Recipe
from physnet_training.train.trainer import (
    Trainer,
    TrainingProgress,
    exclusive,
    prepare,
)

EVALUATION_BATCH = 128
logger = logging.getLogger(__name__)


def open_data(recipe: Recipe, out: Path) -> PackedDataset:
    """Open the recipe's packed dataset, or convert its source files to ``out/dataset``.

    Raises:
        ValueError: No data given, or it is damaged; the message says what to do.
    """
    if not recipe.data.sources:
        raise ValueError(
            "the recipe names no data; set data.sources or give --data FILE_OR_DATASET"
        )
    data = recipe.data
    sources = [Path(source) for source in data.sources]
    replay = [Path(source) for source in data.replay]
    if replay and _is_packed(sources):  # of which the old data may be a part already
        dataset = PackedDataset.open(
            sources[0], assume_multiplicity=data.assume_multiplicity
        )
        if _origins(dataset)[-len(replay) :] == [source_sha256(s) for s in replay]:
            return dataset
    return open_sources(sources + replay, out / "dataset", data.assume_multiplicity)


def open_sources(
    sources: Sequence[Path], target: Path, assume_multiplicity: Any = None
) -> PackedDataset:
    """Open one packed dataset, or what source files are converted to at ``target``.

    Raises:
        ValueError: Damaged, or ``target`` was converted from other files.
    """
    if _is_packed(sources):
        return PackedDataset.open(sources[0], assume_multiplicity=assume_multiplicity)
    if not target.exists():
        if jax.process_count() > 1:
            raise ValueError(
                "several processes train one packed dataset: make it before, with "
                f"physnet-train convert {' '.join(map(str, sources))} DATASET"
            )
        logger.info("converting %d files to %s", len(sources), target)
        convert(list(sources), target, assume_multiplicity=assume_multiplicity)
    dataset = PackedDataset.open(target, assume_multiplicity=assume_multiplicity)
    _check_origin(dataset, sources)
    return dataset


def _is_packed(sources: Sequence[Path]) -> bool:
    """Whether this is one packed dataset, which needs no conversion."""
    return len(sources) == 1 and sources[0].is_dir() and not is_deepmd(sources[0])


def _origins(dataset: PackedDataset) -> list[str | None]:
    """Checksums of the files that a dataset was converted from, in their order."""
    made_from = {  # a source may lie in several shards
        entry.get("source"): entry.get("sha256")
        for manifest in dataset.manifests
        for entry in manifest.get("provenance", [])
    }
    return list(made_from.values())


def _check_origin(dataset: PackedDataset, sources: Sequence[Path]) -> None:
    """Refuse a dataset that an earlier attempt made from other files.

    Raises:
        ValueError: The sources are not those the dataset was converted from.
    """
    if _origins(dataset) != [source_sha256(s) for s in sources]:
        raise ValueError(
            f"{dataset.path} was converted from other files than "
            f"{', '.join(map(str, sources))}; remove it or choose another --out"
        )


def with_overrides(
    recipe: Recipe,
    *,
    data: Sequence[Path] = (),
    steps: int | None = None,
    assume_multiplicity: Any = None,
) -> Recipe:
    """The recipe with what the command line says instead."""
    update: dict[str, Any] = {}
    if data:
        update["sources"] = tuple(str(path.resolve()) for path in data)
    if assume_multiplicity is not None:
        update["assume_multiplicity"] = assume_multiplicity
    if update:
        recipe = recipe.model_copy(
            update={"data": recipe.data.model_copy(update=update)}
        )
    if steps is not None:
        optimizer = recipe.optimizer.model_copy(update={"steps": steps})
        recipe = recipe.model_copy(update={"optimizer": optimizer})
    return recipe


def train(
    recipe: Recipe,
    out: Path,
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> dict[str, Any]:
    """Train a recipe from its data to an evaluated model in the new folder ``out``."""
    with exclusive(out):
        dataset = open_data(recipe, out)
        return finish(prepare(recipe, dataset, out), on_progress)


def finish(
    trainer: Trainer, on_progress: Callable[[TrainingProgress], None] | None = None
) -> dict[str, Any]:
    """Run a trainer to its end, draw heads and pictures, evaluate the test part.

    Returns:
        The report, also written to ``evaluation.json``: errors per state,
        element, size and level and of vertical gaps, and the worst molecules of the
        validation and (where there are such) the test part and old data, of a model
        with several heads what their spread is worth, steps and seconds.
    """
    out = trainer.out
    writes = trainer.devices.writes
    model = trainer.run(on_progress)
    if trainer.num_heads > 1:
        if writes:
            seed = trainer.recipe.optimizer.seed
            logger.info("drawing %d heads", trainer.num_heads)
            add_heads(model, trainer.dataset, trainer.split, trainer.num_heads, seed)
        trainer.devices.wait("the heads are drawn")
    potential = load_potential(model)
    loader = PackedMemmapLoader(trainer.dataset, EVALUATION_BATCH, bucket_size=1)
    report: dict[str, Any] = {
        "steps": int(trainer.state.step),
        "seconds": round(trainer.seconds, 1),
        "training_molecules": len(trainer.split.train),
        "data": trainer.data_report(),
    }
    for name, rows in trainer.held_out().items():
        if len(rows):
            logger.info("evaluating the %d molecules of the %s part", len(rows), name)
            part = loader.subset(rows, shuffle=False)
            predictions = evaluate_potential(potential, part)
            report[name] = predictions.errors()
            report[f"{name}_by"] = predictions.errors_by()
            report[f"{name}_gaps"] = predictions.gaps()
            report[f"{name}_worst"] = predictions.worst.rows()
            if rows_of_spread := calibration(predictions.values):
                report[f"{name}_calibration"] = rows_of_spread
            if writes:
                plot_parity(predictions, out / f"parity_{name}.png")
    if writes:
        plot_history(out / "history.jsonl", out / "learning_curve.png")
        (out / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
    trainer.devices.wait("the report is written")
    return report
