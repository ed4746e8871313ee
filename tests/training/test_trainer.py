"""The trainer: loss falls, resume is exact, what cannot work is refused."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset
from physnet_training.train.recipe import Recipe, recipe_from
from physnet_training.train.run import train
from physnet_training.train.split import Split
from physnet_training.train.trainer import (
    Trainer,
    TrainingStopped,
    exclusive,
    prepare,
    reopen,
)

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
    states = np.stack(dataset.states_of(rows), axis=1)
    # of every state at least one molecule trains, so that it is known
    first = np.unique(states, axis=0, return_index=True)[1]
    validation = np.delete(rows, first)[:4]
    split = Split(np.setdiff1d(rows, validation), validation, np.zeros(0, int))
    return prepare(recipe, dataset, out, split)


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


def test_nan_that_does_not_go_away_stops_the_run_and_names_the_molecules(
    ladders: PackedDataset, water: np.ndarray, tmp_path: Path
) -> None:
    trainer = start(ladders, water, tmp_path, make_recipe())
    rows = trainer.loader.molecules(0, 0).tolist()
    step, rates = trainer.functions.step, []

    def poisoned(state: Any, graph: Any, rate: Any) -> Any:
        if int(state.step) == 0:
            rates.append(float(rate))
            state = state._replace(weights=state.weights.at[:].set(np.nan))
        return step(state, graph, rate)

    trainer.functions = trainer.functions._replace(step=poisoned)
    with pytest.raises(
        FloatingPointError, match="step 1 .*not finite.* 3 times did"
    ) as caught:
        trainer.run()
    assert str(rows) in str(caught.value)
    assert rates == [1.0, 0.5, 0.25, 0.125]
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


def test_a_run_that_never_took_a_step_is_continued_from_the_start(
    ladders: PackedDataset, water: np.ndarray, tmp_path: Path
) -> None:
    first = start(ladders, water, tmp_path / "new", make_recipe())
    again = reopen(tmp_path / "new")
    assert int(again.state.step) == 0
    np.testing.assert_array_equal(again.state.weights, first.state.weights)


def test_resuming_on_other_data_is_refused(
    ladders: PackedDataset, water: np.ndarray, tmp_path: Path
) -> None:
    start(ladders, water, tmp_path / "run", make_recipe())
    other = tmp_path / "other"
    convert(DATA / "ladders.npz", other, where={"charge": "0"})
    file = tmp_path / "run" / "recipe.json"
    content = json.loads(file.read_text())
    # A copy of the same data elsewhere is the same data.
    copied = tmp_path / "copied"
    shutil.copytree(ladders.path, copied)
    file.write_text(json.dumps(content | {"dataset": str(copied)}))
    assert int(reopen(tmp_path / "run").state.step) == 0
    file.write_text(json.dumps(content | {"dataset": str(other)}))
    with pytest.raises(ValueError, match="is not the dataset that .* was begun with"):
        reopen(tmp_path / "run")


def test_another_length_in_the_file_of_a_run_is_named(
    ladders: PackedDataset, water: np.ndarray, tmp_path: Path
) -> None:
    recipe = make_recipe()
    start(ladders, water, tmp_path / "run", recipe).run()
    file = tmp_path / "run" / "recipe.json"
    content = json.loads(file.read_text())
    content["recipe"]["optimizer"]["steps"] -= 1
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"schedule of {recipe.optimizer.steps} steps"):
        reopen(tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stores_the_state_and_names_the_command(
    ladders: PackedDataset, water: np.ndarray, tmp_path: Path, number: int
) -> None:
    straight = start(ladders, water, tmp_path / "straight", make_recipe())
    straight.run()
    broken = start(ladders, water, tmp_path / "broken", make_recipe())
    step = broken.functions.step

    def signalled(state: Any, graph: Any, rate: Any) -> Any:
        if int(state.step) == 7:  # long before the first validation
            signal.raise_signal(number)
        return step(state, graph, rate)

    broken.functions = broken.functions._replace(step=signalled)
    with pytest.raises(
        TrainingStopped, match=r"step 8 .*physnet-train resume .*broken"
    ):
        broken.run()
    again = reopen(tmp_path / "broken")
    assert int(again.state.step) == 8
    again.run()
    np.testing.assert_array_equal(again.state.average, straight.state.average)
    assert signal.getsignal(number) is not None


def test_only_one_training_works_in_a_folder(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path / "run"),
        pytest.raises(RuntimeError, match="another training works in .*run"),
        exclusive(tmp_path / "run"),
    ):
        pass  # pragma: no cover
    with exclusive(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_changed_data_stop_the_run(
    ladders: PackedDataset, water: np.ndarray, tmp_path: Path
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(ladders.path, copied)
    trainer = start(PackedDataset.open(copied), water, tmp_path / "run", make_recipe())
    with (copied / "F_pack.f32").open("r+b") as file:
        file.seek(40)
        file.write(b"\x00\x00\x80\x3f")
    with pytest.raises(ValueError, match=r"F_pack\.f32"):
        trainer.run()


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
