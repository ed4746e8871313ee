"""One entry in the table of quantities is all that a new label takes."""

from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from physnet_training.convert import convert
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.packed import PackedDataset
from physnet_training.train.evaluate import evaluate_potential
from physnet_training.train.recipe import recipe_from
from physnet_training.train.run import train

from physnet_ase.potential import load_potential
from physnet_ase.quantities import QUANTITIES, Quantity, added

MODEL = {
    "num_features": 8,
    "num_radial": 4,
    "num_blocks": 1,
    "num_residual_atomic": 0,
    "num_residual_interaction": 0,
    "num_residual_output": 0,
    "cutoff": 4.0,
}


def traces(outputs, graph):
    """Σ q_i |R_i|² of every molecule."""
    import jax

    squares = (graph.positions**2).sum(axis=1)
    return jax.ops.segment_sum(
        outputs["charges"] * squares, graph.molecule_index, len(graph.total_charge)
    )


TRACE = Quantity(
    "second_moment",
    "label",
    "second_moment.f32",
    unit="e*angstrom^2",
    aliases=("second_moment",),
    loss_weight=2.0,
    predict=traces,
)


def test_a_new_label_is_one_entry(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    atoms = molecule("H2O")
    positions = atoms.positions + rng.normal(scale=0.05, size=(40, 3, 3))
    labels = np.einsum("a,mai->m", [-0.6, 0.3, 0.3], positions**2)
    labels[3] = np.nan
    np.savez(
        tmp_path / "water.npz",
        atomic_numbers=np.tile(atoms.numbers, (40, 1)),
        positions=positions,
        energy=-2079.0 + rng.normal(scale=0.01, size=40),
        second_moment=labels,
        total_charge=np.zeros(40, int),
        spin_multiplicity=np.ones(40, int),
    )
    content = {
        "model": MODEL,
        "loss": {"energy": 0.0, "second_moment": 5.0},
        "optimizer": {
            "steps": 300,
            "batch_size": 8,
            "validate_every": 300,
            "learning_rate": 0.01,
        },
    }
    with pytest.raises(
        ValueError, match="second_moment: unknown; there are weights of"
    ):
        recipe_from(content, "test")
    with added(TRACE):
        convert(
            tmp_path / "water.npz",
            tmp_path / "set",
            allow_missing=True,
            energy_unit="eV",
        )
        dataset = PackedDataset.open(tmp_path / "set")
        assert dataset.labels == {"energy": 40, "second_moment": 39}
        stored = dataset.take("second_moment", np.arange(40))
        np.testing.assert_allclose(stored, labels, rtol=1e-6)
        graph = next(PackedMemmapLoader(dataset, 40, shuffle=False).graphs())
        np.testing.assert_allclose(
            graph.labels.values["second_moment"][graph.molecule_mask], stored
        )
        data = {"data": {"sources": (str(dataset.path),)}}
        recipe = recipe_from(content | data, "test")
        report = train(recipe, tmp_path / "run")
        errors = report["validation"][0]
        assert errors["second_moment_mae_e_angstrom2"] < 0.3 * np.nanstd(labels)
        potential = load_potential(tmp_path / "run" / "model")
        loader = PackedMemmapLoader(dataset, 8, shuffle=False)
        row = evaluate_potential(potential, loader).errors()[0]
        assert row["second_moment_rmse_e_angstrom2"] > 0.0
    assert "second_moment" not in QUANTITIES


@pytest.mark.parametrize(
    ("name", "file"), [("energy", "other.f32"), ("other", "E.f64")]
)
def test_a_name_or_file_that_is_taken_is_refused(name: str, file: str) -> None:
    with (
        pytest.raises(ValueError, match=r"the table has energy in E\.f64 already"),
        added(Quantity(name, "label", file)),
    ):
        raise AssertionError("it was added")
