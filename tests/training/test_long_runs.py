"""Runs that are extended, moved, stopped early, brought back to sense or damaged."""

import errno
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from physnet_training.packed import PackedDataset
from physnet_training.train import suggest
from physnet_training.train.guard import Guard
from physnet_training.train.recipe import Recipe, recipe_from
from physnet_training.train.trainer import Trainer, prepare, reopen

TINY = {
    "num_features": 4,
    "num_radial": 4,
    "num_blocks": 1,
    "num_residual_atomic": 0,
    "num_residual_interaction": 0,
    "num_residual_output": 0,
    "electrostatics": False,
    "cutoff": 8.0,
}


def make_recipe(**optimizer: Any) -> Recipe:
    options = {"steps": 10, "batch_size": 4, "warmup_steps": 2, "validate_every": 4}
    options |= {"learning_rate": 1e-2, "schedule": "cosine"} | optimizer
    return recipe_from(
        {
            "model": TINY,
            "split": {"train_fraction": 0.7},
            # it acts where the decay does, and is no obstacle to more steps
            "loss": {"late_energy": 3.0 if options["schedule"] == "wsd" else 1.0},
            "optimizer": options,
        },
        "test",
    )


@pytest.fixture(scope="module")
def source(make_dataset: Callable[..., Path]) -> Path:
    return make_dataset([3] * 24, labels=("energy",))


def start(source: Path, out: Path, recipe: Recipe) -> Trainer:
    """A run whose dataset lies in its folder."""
    shutil.copytree(source, out / "dataset")
    return prepare(recipe, PackedDataset.open(out / "dataset"), out)


@pytest.mark.parametrize(
    ("schedule", "kind"), [("wsd", "muon"), ("schedule-free", "amsgrad")]
)
def test_extended_run_equals_the_straight_one_to_the_last_bit(
    source: Path, tmp_path: Path, schedule: str, kind: str
) -> None:
    recipe = make_recipe(schedule=schedule, kind=kind, steps=20, validate_every=5)
    straight = start(source, tmp_path / "straight", recipe)
    straight.run()
    shapes = straight.loader.padding().shapes
    assert straight.functions.step._cache_size() == shapes
    recipe = make_recipe(schedule=schedule, kind=kind, validate_every=5)
    short = start(source, tmp_path / "short", recipe)
    short.run()
    # A run folder with its dataset can be moved as a whole.
    shutil.move(tmp_path / "short", tmp_path / "moved")
    longer = reopen(tmp_path / "moved", steps=20)
    # before the decay, or at the end where there is none
    assert int(longer.state.step) == (8 if schedule == "wsd" else 10)
    again = reopen(tmp_path / "moved")  # from here on it is a run of 20 steps
    assert again.recipe.optimizer.steps == 20
    again.run()
    assert int(again.state.step) == 20
    shapes = again.loader.padding().shapes
    assert again.functions.step._cache_size() == shapes
    for name in ("weights", "average"):
        np.testing.assert_array_equal(
            np.asarray(getattr(straight.state, name)),
            np.asarray(getattr(again.state, name)),
        )
    with pytest.raises(ValueError, match="trains 20 steps already; give more"):
        reopen(tmp_path / "moved", steps=20)


def test_a_cosine_is_not_extended_and_moved_data_are_named(
    source: Path, tmp_path: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(source, data)
    prepare(make_recipe(), PackedDataset.open(data), out)
    with pytest.raises(ValueError, match="'cosine' of .* cannot be extended.*wsd"):
        reopen(out, steps=100)
    shutil.move(data, tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="--data PATH"):
        reopen(out)
    assert int(reopen(out, data=tmp_path / "elsewhere").state.step) == 0
    assert int(reopen(out).state.step) == 0  # it is remembered


def test_plateau_slows_down_and_patience_ends(source: Path, tmp_path: Path) -> None:
    recipe = make_recipe(
        schedule="plateau",
        plateau_patience=1,
        patience=2,
        learning_rate=1e-30,  # nothing improves
        final_learning_rate=0.0,
        validate_every=1,
    )
    trainer = start(source, tmp_path / "run", recipe)
    trainer.run()
    assert trainer.stopped_early
    assert int(trainer.state.step) == 3
    assert trainer.guard.rate == 0.25
    again = reopen(tmp_path / "run")
    assert again.stopped_early
    assert again.guard.rate == 0.25


def test_a_run_that_diverges_once_goes_on_at_half_the_rate(
    source: Path, tmp_path: Path
) -> None:
    trainer = start(source, tmp_path / "run", make_recipe())
    step, poison = trainer.functions.step, [6]

    def poisoned(state: Any, graph: Any, rate: Any) -> Any:
        state, metrics = step(state, graph, rate)
        if poison == [int(state.step)]:
            poison.clear()
            metrics["loss"] = np.nan * metrics["loss"]
        return state, metrics

    trainer.functions = trainer.functions._replace(step=poisoned)
    trainer.run()
    assert int(trainer.state.step) == 10
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 8, 10]
    [retreat] = json.loads(lines[-1])["retreats"]
    assert (retreat["step"], retreat["back_to"], retreat["rate"]) == (8, 4, 0.5)
    assert reopen(tmp_path / "run").guard.rate == 0.5


def test_a_damaged_state_falls_back_to_the_one_before(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    straight = start(source, out, make_recipe())
    straight.run()
    newest = out / "state" / "10" / "state"
    files = [file for file in newest.rglob("*") if file.is_file()]
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        again = reopen(out)
    assert "state of step 10" in caplog.text
    assert int(again.state.step) == 8
    again.run()
    np.testing.assert_array_equal(again.state.weights, straight.state.weights)
    assert int(reopen(out).state.step) == 10  # the damaged one was replaced


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device"),
    ],
)
def test_a_full_disk_is_one_sentence(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    trainer = start(source, tmp_path / "run", make_recipe())

    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(trainer._store._open(), "save", full)
    with pytest.raises(OSError, match="disk of .*state is full.*physnet-train resume"):
        trainer._save(1, trainer.loader.state())
    assert int(reopen(tmp_path / "run").state.step) == 0


def test_a_step_is_timed(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggest, "_MEASURED_SECONDS", 0.0)
    recipe, dataset = make_recipe(), PackedDataset.open(source)
    cost = suggest.measure(recipe, dataset)
    assert 0.0 < cost.seconds < 10.0
    content = recipe.model_dump()

    def memory(batch_size: int, accumulate: int) -> int:
        sizes = {"batch_size": batch_size, "accumulate": accumulate}
        changed = content | {"optimizer": content["optimizer"] | sizes}
        return suggest.measure(Recipe.model_validate(changed), dataset).memory

    assert 1_000 < memory(2, 1) < memory(16, 1)
    assert memory(2, 2) > memory(2, 1)  # batches wait for their turn


def test_an_explosion_is_told_from_noise() -> None:
    guard = Guard()
    assert not guard.exploded([100.0] * 50)
    assert not guard.exploded([1.0] * 50)
    assert not guard.exploded([30.0] * 50)  # far below where it began
    assert not guard.exploded([1000.0] * 5)  # too few to tell
    assert "from 1 to 60" in guard.exploded([60.0] * 50)
    guard.retreat(100, 50, "why")
    other = Guard()
    other.restore(guard.state())
    assert other.state() == guard.state()
    assert other.rate == 0.5
