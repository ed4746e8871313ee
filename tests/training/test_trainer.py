"""The trainer: loss falls, resume is exact, what cannot work is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset
from physnet_training.train.recipe import Recipe, recipe_from
from physnet_training.train.run import train
from physnet_training.train.split import SPLIT_FILE, Split
from physnet_training.train.trainer import Trainer, prepare, reopen

from physnet_ase.potential import load_potential

DATA = Path(__file__).parents[2] / "training" / "data" / "states_dft"
TINY = {
    "num_features": 16,
    "num_radial": 8,
    "num_blocks": 1,
    "num_residual_atomic": 1,
    "num_residual_interaction": 1,
    "cutoff": 5.0,
}


def make_recipe(**optimizer: Any) -> Recipe:
    options = {
        "steps": 60,
        "batch_size": 8,
        "warmup_steps": 5,
        "validate_every": 30,
        "learning_rate": 3e-3,
    }
    content = {
        "name": "tiny",
        "model": TINY,
        "loss": {"energy": 1.0, "forces": 5.0, "dipole": 0.0, "charges": 0.0},
        "optimizer": options | optimizer,
    }
    return recipe_from(content, "test")


@pytest.fixture(scope="module")
def ladders(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    target = tmp_path_factory.mktemp("data") / "ladders"
    convert(DATA / "ladders.npz", target)
    return PackedDataset.open(target)


@pytest.fixture(scope="module")
def water(ladders: PackedDataset) -> np.ndarray:
    """Rows of water: three geometries in six states."""
    groups = ladders.take("group", np.arange(len(ladders)))
    return np.flatnonzero(groups == ladders.groups.index("H2O"))


def start(
    dataset: PackedDataset, rows: np.ndarray, out: Path, recipe: Recipe
) -> Trainer:
    out.mkdir(parents=True, exist_ok=True)
    states = np.stack(dataset.states_of(rows), axis=1)
    # of every state at least one molecule trains, so that it is known
    first = np.unique(states, axis=0, return_index=True)[1]
    validation = np.delete(rows, first)[:4]
    split = Split(np.setdiff1d(rows, validation), validation, np.zeros(0, int))
    split.save(out / SPLIT_FILE)
    content = {"recipe": recipe.model_dump(mode="json"), "dataset": str(dataset.path)}
    (out / "recipe.json").write_text(json.dumps(content))
    return Trainer(recipe, dataset, out, split)


def test_loss_falls_on_a_few_molecules_in_several_states(
    ladders: PackedDataset, water: np.ndarray, tmp_path: Path
) -> None:
    losses: list[float] = []
    recipe = make_recipe(steps=300, learning_rate=1e-2)
    trainer = start(ladders, water, tmp_path, recipe)
    trainer.run(lambda progress: losses.append(progress.loss))
    assert losses[-1] < 0.4 * losses[0]


def test_resumed_run_equals_the_straight_one_to_the_last_bit(
    ladders: PackedDataset, water: np.ndarray, tmp_path: Path
) -> None:
    straight = start(ladders, water, tmp_path / "straight", make_recipe())
    straight.run()

    class Interruption(Exception):
        pass

    def interrupt(progress: Any) -> None:
        if progress.step == 50:  # 20 steps after the stored state
            raise Interruption

    broken = start(ladders, water, tmp_path / "broken", make_recipe())
    with pytest.raises(Interruption):
        broken.run(interrupt)
    again = reopen(tmp_path / "broken")
    assert int(again.state.step) == 30
    again.run()
    for name in ("weights", "average"):
        np.testing.assert_array_equal(
            np.asarray(getattr(straight.state, name)),
            np.asarray(getattr(again.state, name)),
        )
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "broken" / "history.jsonl").read_text().splitlines()
    ]
    assert steps == [30, 60]
    one, other = (
        load_potential(tmp_path / name / "model") for name in ("straight", "broken")
    )
    assert one.metadata.validation_errors == other.metadata.validation_errors


def test_nan_stops_the_run_and_names_the_molecules(
    ladders: PackedDataset, water: np.ndarray, tmp_path: Path
) -> None:
    trainer = start(ladders, water, tmp_path, make_recipe())
    poisoned = trainer.state.weights.at[:].set(np.nan)
    trainer.state = trainer.state._replace(weights=poisoned)
    rows = trainer.loader.molecules(0, 0).tolist()
    with pytest.raises(FloatingPointError, match="step 1 .*not finite") as caught:
        trainer.run()
    assert str(rows) in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_state_that_only_validates_is_refused(
    ladders: PackedDataset, water: np.ndarray, tmp_path: Path
) -> None:
    charges, spins = ladders.states_of(water)
    neutral = water[(charges == 0) & (spins == 1)]
    others = np.setdiff1d(water, neutral)
    split = Split(neutral, others, np.zeros(0, int))
    with pytest.raises(ValueError, match="validation part but not in the training"):
        Trainer(make_recipe(), ladders, tmp_path, split)


def test_state_outside_the_model_is_refused(
    ladders: PackedDataset, water: np.ndarray, tmp_path: Path
) -> None:
    content = make_recipe().model_dump()
    content["model"]["spin_range"] = (1, 2)
    with pytest.raises(ValueError, match=r"outside model.charge_range .*widen them"):
        start(ladders, water, tmp_path, recipe_from(content, "test"))


def test_folder_with_a_run_is_not_overwritten(
    ladders: PackedDataset, water: np.ndarray, tmp_path: Path
) -> None:
    start(ladders, water, tmp_path, make_recipe())
    with pytest.raises(FileExistsError, match="physnet-train resume"):
        prepare(make_recipe(), ladders, tmp_path)


def test_nothing_to_resume_is_said(
    ladders: PackedDataset, water: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="is not a training run"):
        reopen(tmp_path / "nothing")
    start(ladders, water, tmp_path / "new", make_recipe())
    with pytest.raises(FileNotFoundError, match="no stored state"):
        reopen(tmp_path / "new")


def test_data_without_spin_cannot_train_unless_told(
    make_molecules: Callable[..., Any],
    make_dataset: Callable[..., Path],
    tmp_path: Path,
) -> None:
    molecules = make_molecules([3] * 40)
    spins = molecules["values"].pop("spin_multiplicity")
    assert len(spins) == 40
    recipe = make_recipe(steps=2)
    data = {"sources": (str(make_dataset(molecules=molecules)),)}
    spinless = recipe.model_copy(
        update={"data": recipe.data.model_copy(update=data)},
    )
    with pytest.raises(ValueError, match="--assume-multiplicity lowest"):
        train(spinless, tmp_path / "refused")
    assumed = recipe.model_copy(
        update={
            "data": recipe.data.model_copy(
                update=data | {"assume_multiplicity": "lowest"}
            )
        },
    )
    report = train(assumed, tmp_path / "accepted")
    assert report["steps"] == 2
    for name in ("learning_curve.png", "parity_validation.png", "evaluation.json"):
        assert (tmp_path / "accepted" / name).stat().st_size > 0
