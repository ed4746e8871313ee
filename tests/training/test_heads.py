"""Training with several heads: shares of the data, fine-tuning, calibration."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.packed import PackedDataset
from physnet_training.train.calibration import calibration
from physnet_training.train.evaluate import evaluate_potential
from physnet_training.train.heads import geometry_hashes, head_shares, losses_of_heads
from physnet_training.train.plots import plot_parity
from physnet_training.train.recipe import load_recipe
from physnet_training.train.trainer import prepare

from physnet_ase.config import ModelConfig
from physnet_ase.graph import Graph
from physnet_ase.potential import load_potential
from physnet_ase.untrained import untrained_potential

TINY = ModelConfig(
    num_features=4,
    num_radial=4,
    num_blocks=1,
    num_residual_atomic=0,
    num_residual_interaction=0,
    num_residual_output=0,
    electrostatics=False,
    cutoff=8.0,
    spin_range=(1, 2),
    charge_range=(-1, 1),
)
STATES = [(-1, 1), (-1, 2), (0, 1), (0, 2)]


@pytest.fixture(scope="module")
def data(make_dataset: Callable[..., Path]) -> Path:
    return make_dataset([3] * 48, labels=("energy", "forces", "dipole"))


@pytest.fixture(scope="module")
def graph(data: Path) -> Graph:
    return next(PackedMemmapLoader(data, 48, shuffle=False).graphs(8.0))


def test_each_geometry_is_left_out_by_a_third_of_the_heads(graph: Graph) -> None:
    shares = np.asarray(head_shares(graph, 6))[:, :48]
    assert (shares.sum(axis=0) == 4).all()
    assert (np.abs(shares.mean(axis=1) - 2 / 3) < 0.2).all()
    assert len({row.tobytes() for row in shares}) == 6


def test_shares_go_with_the_geometry_whatever_its_state_and_place(
    graph: Graph, data: Path
) -> None:
    hashes = np.asarray(geometry_hashes(graph))[:48]
    assert len(set(hashes.tolist())) == 48
    ions = graph._replace(total_charge=graph.total_charge + 1)
    assert np.array_equal(np.asarray(geometry_hashes(ions))[:48], hashes)
    few = next(PackedMemmapLoader(data, 7, shuffle=False).graphs(8.0))
    assert np.array_equal(np.asarray(geometry_hashes(few))[:7], hashes[:7])


def test_the_loss_is_the_mean_over_heads_of_that_on_their_shares(
    graph: Graph, rng: np.random.Generator
) -> None:
    atoms = len(graph.atomic_numbers)
    outputs = {
        "energies": rng.normal(size=atoms),
        "charges": rng.normal(size=atoms),
        "spin_populations": rng.normal(size=atoms),
        "deviations": rng.normal(size=(atoms, 3, 3)),
    }

    def losses(said: Any, seen: Graph) -> Any:
        weight = seen.labels.weight  # type: ignore[union-attr]
        own = said["energies"] @ weight[graph.molecule_index]
        return {"energy": own / weight.sum()}

    found = losses_of_heads(losses, outputs, graph)["energy"]
    expected = []
    for head, share in enumerate(np.asarray(head_shares(graph, 3))):
        weight = graph.labels.weight * share  # type: ignore[union-attr]
        energies = outputs["energies"] + outputs["deviations"][:, head, 0]
        expected.append(energies @ weight[graph.molecule_index] / weight.sum())
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-4)


def test_heads_grow_on_a_checkpoint_without_them(data: Path, tmp_path: Path) -> None:
    model = untrained_potential(TINY, elements=(1, 8), states=STATES)
    model.save(tmp_path / "old")
    recipe = tmp_path / "recipe.toml"
    text = (
        "[start]\nmodel = 'old'\n[model]\nnum_heads = 3\n"
        "[split]\ntrain_fraction = 0.7\n"
        "[optimizer]\nsteps = 4\nbatch_size = 8\nvalidate_every = 4\nwarmup_steps = 1\n"
    )
    recipe.write_text(text)
    trainer = prepare(load_recipe(recipe), PackedDataset.open(data), tmp_path / "run")
    started = trainer.potential()
    assert started.num_members == 3
    atoms = PackedDataset.open(data).molecules([0]).to_atoms(0)
    rows = [one.evaluate(atoms, properties=("forces",)) for one in (started, model)]
    np.testing.assert_allclose(rows[0].forces, rows[1].forces, atol=1e-5)
    trained = load_potential(trainer.run())
    assert trained.evaluate(atoms).energy_std > 0.0

    # A checkpoint with heads brings their number with it.
    recipe.write_text(text.replace("'old'", "'run/model'"))
    assert load_recipe(recipe).model.num_heads == 3
    recipe.write_text(
        text.replace("'old'", "'run/model'").replace("heads = 3", "heads = 2")
    )
    with pytest.raises(ValueError, match=r"num_heads is 3 in .* and 2 in the recipe"):
        load_recipe(recipe)

    predictions = evaluate_potential(trained, PackedMemmapLoader(data, 16))
    energy, forces = calibration(predictions.values)
    assert (energy["quantity"], energy["count"]) == ("energy", 48)
    assert (forces["quantity"], forces["count"]) == ("forces", 144)
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
