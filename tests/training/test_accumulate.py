"""Several batches per step are one large batch, computed piece by piece."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset
from physnet_training.train.recipe import Recipe, recipe_from
from physnet_training.train.trainer import Trainer, prepare, reopen

LADDERS = Path(__file__).parents[2] / "training/data/states_dft/ladders.npz"
STEPS = 24


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    target = tmp_path_factory.mktemp("data") / "ladders"
    convert(LADDERS, target)
    return PackedDataset.open(target)


def make_recipe(**optimizer: Any) -> Recipe:
    content = {
        "model": {"num_features": 8, "num_radial": 4, "num_blocks": 1, "cutoff": 4.0},
        "optimizer": {"steps": STEPS, "validate_every": 12, "warmup_steps": 4}
        | optimizer,
    }
    return recipe_from(content, "test")


def run(trainer: Trainer, stop_at: int | None = None) -> list[dict[str, float]]:
    """Metrics of each step."""
    step, found = trainer.functions.step, []

    def recorded(state: Any, graph: Any, rate: Any) -> Any:
        state, metrics = step(state, graph, rate)
        found.append({name: float(value) for name, value in metrics.items()})
        return state, metrics

    def interrupt(progress: Any) -> None:
        if progress.step == stop_at:
            raise InterruptedError

    trainer.functions = trainer.functions._replace(step=recorded)
    try:
        trainer.run(interrupt)
    except InterruptedError:
        assert stop_at is not None
    assert step._cache_size() <= len(trainer.loader.shapes)
    return found


def test_two_batches_of_16_take_the_steps_of_one_of_32(
    dataset: PackedDataset, tmp_path: Path
) -> None:
    large = prepare(make_recipe(batch_size=32), dataset, tmp_path / "large")
    small = prepare(
        make_recipe(batch_size=16, accumulate=2), dataset, tmp_path / "small"
    )
    for index in range(large.loader.num_batches):
        np.testing.assert_array_equal(
            large.loader.all_molecules(0, index), small.loader.all_molecules(0, index)
        )
    one, two = run(large), run(small)
    assert len(one) == len(two) == STEPS
    for a, b in zip(one, two, strict=True):
        for name in a:  # parts, too: sums over atoms divided by those of both halves
            assert b[name] == pytest.approx(a[name], rel=2e-4, abs=1e-6), name
    # float32 sums in another order, and AMSGrad divides by small second moments
    np.testing.assert_allclose(
        *(each.state.average for each in (small, large)), rtol=0.0, atol=2e-3
    )

    broken = prepare(small.recipe, dataset, tmp_path / "broken")
    run(broken, stop_at=12)
    again = reopen(tmp_path / "broken")
    assert int(again.state.step) == 12
    run(again)
    np.testing.assert_array_equal(again.state.weights, small.state.weights)
