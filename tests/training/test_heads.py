"""Heads are drawn around trained weights, and scaled to the errors of validation."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.packed import PackedDataset
from physnet_training.train.calibration import calibration
from physnet_training.train.evaluate import evaluate_potential
from physnet_training.train.heads import add_heads
from physnet_training.train.plots import plot_parity
from physnet_training.train.recipe import load_recipe
from physnet_training.train.run import finish
from physnet_training.train.split import Split
from physnet_training.train.start import parameters_of_levels
from physnet_training.train.trainer import prepare
from structures import TINY, TINY_STATES

from physnet_ase.network.heads import without_heads
from physnet_ase.potential import load_potential
from physnet_ase.untrained import untrained_potential

RECIPE = (
    "[start]\nmodel = 'old'\n[model]\nnum_heads = 5\n[split]\ntrain_fraction = 0.7\n"
    "[optimizer]\nsteps = 4\nbatch_size = 8\nvalidate_every = 4\nwarmup_steps = 1\n"
)


@pytest.fixture(scope="module")
def data(make_dataset: Callable[..., Path]) -> Path:
    return make_dataset([3] * 48, labels=("energy", "forces", "dipole"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning of a model without heads into one with some, and before it."""
    folder = tmp_path_factory.mktemp("heads")
    untrained_potential(TINY, elements=(1, 8), states=TINY_STATES).save(folder / "old")
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE)
    trainer = prepare(load_recipe(recipe), PackedDataset.open(data), folder / "run")
    trainer.run()
    shutil.copytree(folder / "run/model", folder / "alone")
    finish(trainer)
    return folder


def test_a_training_ends_with_heads_around_its_weights(run: Path, data: Path) -> None:
    alone, found = load_potential(run / "alone"), load_potential(run / "run/model")
    assert (alone.num_members, found.num_members) == (1, 5)
    atoms = PackedDataset.open(data).molecules([0]).to_atoms(0)
    names = ("energy", "forces", "charges")
    ours, theirs = (one.evaluate(atoms, properties=names) for one in (found, alone))
    assert ours.energy == pytest.approx(theirs.energy, abs=1e-5)
    np.testing.assert_allclose(ours.forces, theirs.forces, atol=1e-5)
    assert ours.energy_std > 0.0
    assert ours.charges_std.max() > 0.0
    assert found.metadata.validation_errors == alone.metadata.validation_errors
    report = json.loads((run / "run/evaluation.json").read_text())
    assert report["validation_calibration"][0]["rmse_per_spread"] > 0.0
    # Once more gives the same: they are drawn from the seed.
    shutil.copytree(run / "run/model", run / "again")
    split = Split.load(run / "run/split.npz")
    add_heads(run / "again", PackedDataset.open(data), split, 5, seed=0)
    again = load_potential(run / "again").evaluate(atoms)
    assert again.energy_std == pytest.approx(ours.energy_std, rel=1e-2)


def test_spreads_are_scaled_to_the_errors_of_the_validation(
    run: Path, data: Path
) -> None:
    shutil.copytree(run / "alone", run / "many")
    dataset, split = PackedDataset.open(data), Split.load(run / "run/split.npz")
    add_heads(run / "many", dataset, split, 64, seed=1)
    loader = PackedMemmapLoader(dataset, 16).subset(split.validation, shuffle=False)
    values = evaluate_potential(load_potential(run / "many"), loader).values
    error = values["energy"] - values["energy_label"]
    ratio = np.mean((error / values["energy_std"]) ** 2)
    assert ratio == pytest.approx(1.0, abs=0.5)  # 64 draws


def test_a_recipe_may_ask_a_checkpoint_for_other_heads(run: Path) -> None:
    recipe = run / "next.toml"
    text = RECIPE.replace("'old'", "'run/model'")
    for line, expected in (("num_heads = 5\n", 5), ("num_heads = 3\n", 3), ("", 5)):
        recipe.write_text(text.replace("num_heads = 5\n", line))
        assert load_recipe(recipe).model.num_heads == expected
    model = load_potential(run / "run/model")
    _, mean = without_heads(model.config, model.params)
    first = parameters_of_levels(model, [])
    assert jax.tree.all(jax.tree.map(np.array_equal, first, mean))


def test_evaluation_compares_spread_and_error(
    run: Path, data: Path, tmp_path: Path
) -> None:
    trained = load_potential(run / "run/model")
    predictions = evaluate_potential(trained, PackedMemmapLoader(data, 16))
    energy, forces = calibration(predictions.values)
    assert (energy["quantity"], energy["count"]) == ("energy", 48)
    assert (forces["quantity"], forces["count"]) == ("forces", 144)
    atoms = PackedDataset.open(data).molecules([0]).to_atoms(0)
    one = trained.evaluate(atoms, properties=("energy", "forces_std"))
    alone = PackedMemmapLoader(data, 1, shuffle=False).subset(np.array([0]))
    values = evaluate_potential(trained, alone).values
    assert values["energy_std"][0] == pytest.approx(one.energy_std, rel=1e-3)
    np.testing.assert_allclose(values["forces_std"], one.forces_std, atol=1e-5)
    assert plot_parity(predictions, tmp_path / "parity.png").stat().st_size > 10_000


def test_calibration_of_spreads_that_are_errors() -> None:
    error = np.array([0.1, -0.3, 0.2, np.nan])
    values = {
        "energy": error,
        "energy_label": np.where(np.isnan(error), np.nan, 0.0),
        "energy_std": np.array([0.05, 0.15, 0.1, 9.0]),
    }
    [row] = calibration(values)
    assert row["count"] == 3
    assert row["spearman"] == pytest.approx(1.0)
    assert row["rmse_per_spread"] == pytest.approx(2.0)
    assert calibration({"energy": error, "energy_label": error}) == []
