"""The masked loss against numbers worked out by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from physnet_training.train.loss import (
    WHOLE,
    energy_share,
    masked_mean,
    penalty,
    total_loss,
)
from physnet_training.train.recipe import LossConfig, recipe_from
from physnet_training.train.step import late_weight

from physnet_ase.graph import Graph

NAN = float("nan")
L1 = LossConfig()


def test_penalty_is_the_absolute_error_without_a_parabola() -> None:
    np.testing.assert_allclose(penalty(jnp.array([-2.0, 0.5]), L1), [2.0, 0.5])


def test_penalty_may_be_the_square() -> None:
    config = LossConfig(kind="squared")
    np.testing.assert_allclose(penalty(jnp.array([-2.0, 0.5]), config), [4.0, 0.25])


@pytest.mark.parametrize("wrong", [{"kind": "huber"}, {"huber_delta": 0.1}])
def test_huber_needs_its_delta_and_the_delta_huber(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="belong together"):
        LossConfig(**wrong)


def test_penalty_is_continuous_and_smooth_where_the_parabola_ends() -> None:
    delta = 0.1
    huber = LossConfig(kind="huber", huber_delta=delta)
    inside, outside = penalty(jnp.array([delta - 1e-4, delta + 1e-4]), huber)
    assert float(outside - inside) == pytest.approx(2e-4, rel=1e-2)
    assert float(penalty(jnp.array(0.05), huber)) == pytest.approx(0.0125)
    slope = jax.grad(lambda x: penalty(x, huber))(0.1 - 1e-6)
    assert float(slope) == pytest.approx(1.0, abs=1e-3)


def test_missing_labels_and_weightless_rows_do_not_count() -> None:
    prediction = jnp.array([1.0, 5.0, 7.0, 2.0])
    label = jnp.array([0.0, NAN, 6.0, 100.0])
    weight = jnp.array([1.0, 1.0, 3.0, 0.0])
    # (1·1 + 3·1) / (1 + 3)
    assert float(masked_mean(prediction, label, weight, L1)) == pytest.approx(1.0)


def test_a_row_of_forces_with_one_missing_component_is_missing() -> None:
    prediction = jnp.ones((2, 3))
    label = jnp.array([[0.0, 0.0, NAN], [0.0, 1.0, 1.0]])
    found = masked_mean(prediction, label, jnp.ones(2), L1)
    assert float(found) == pytest.approx(1.0 / 3.0)


def test_gradient_stays_finite_when_every_label_is_missing() -> None:
    def loss(x: jax.Array) -> jax.Array:
        return masked_mean(x, jnp.full((3, 3), NAN), jnp.ones(3), L1)

    gradient = jax.grad(loss)(jnp.ones((3, 3)))
    np.testing.assert_array_equal(gradient, np.zeros((3, 3)))


def test_energy_counts_more_in_the_last_part_of_the_steps() -> None:
    content = {
        "loss": {"energy": 2.0, "late_energy": 5.0},
        "optimizer": {"steps": 10, "decay_fraction": 0.3},
    }
    recipe = recipe_from(content, "test")
    weights = [float(late_weight(recipe, jnp.array(step))) for step in (0, 6, 7, 9)]
    assert weights == [0.0, 0.0, 8.0, 8.0]
    content["optimizer"]["schedule"] = "constant"  # it has no last part
    with pytest.raises(ValueError, match=r"late_energy .*'cosine' or 'wsd'"):
        recipe_from(content, "test")


def test_total_loss_weighs_each_part() -> None:
    config = LossConfig(energy=2.0, forces=3.0, dipole=0.0)
    parts = {"energy": jnp.array(1.5), "forces": jnp.array(0.5), "dipole": jnp.array(9)}
    assert float(total_loss(config, parts)) == pytest.approx(4.5)


def test_energies_of_large_systems_count_less_by_the_square_of_their_size() -> None:
    sizes = np.array([3, WHOLE, 2 * WHOLE])
    graph = Graph(**dict.fromkeys(Graph._fields))._replace(
        molecule_index=jnp.asarray(np.repeat([0, 1, 2, 2], [*sizes, 5])),
        atom_mask=jnp.arange(sizes.sum() + 5) < sizes.sum(),
        total_charge=jnp.zeros(3, int),
    )
    share = energy_share(graph)
    np.testing.assert_allclose(share, [1.0, 1.0, 0.25])
    error = jnp.array([1.0, -1.0, 8.0])
    # (1 + 1 + 8/4) / 3: the size is no weight, a batch of cells alone is as small
    found = masked_mean(error, jnp.zeros(3), jnp.ones(3), L1, share=share)
    assert float(found) == pytest.approx(4.0 / 3.0)
