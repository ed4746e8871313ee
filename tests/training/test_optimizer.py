"""What a gradient becomes: Muon for matrices, AMSGrad for the rest."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from physnet_training.train.optimizer import RMS_OF_ADAM, make_optimizer
from physnet_training.train.recipe import OptimizerConfig

RATE = 1e-2


def parameters() -> dict[str, Any]:
    """A network's parameters in small: kernels of two shapes, bias, embedding, head."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Any:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "elements": {"embedding": drawn(5, 8)},
        "block": {
            "inner": {"kernel": drawn(8, 8), "bias": drawn(8)},
            "residual": {"kernel": drawn(8, 8)},
            "mask": {"kernel": drawn(4, 8)},
            "head": {"kernel": drawn(8, 3)},
        },
    }


def first_step(kind: str, scale: float = 1.0, **options: Any) -> dict[str, Any]:
    """What the optimiser adds to the parameters, at a gradient of random numbers."""
    flat, unravel = ravel_pytree(parameters())
    config = OptimizerConfig.model_validate(
        {"kind": kind, "learning_rate": RATE, "schedule": "constant", "warmup_steps": 0}
        | options
    )
    optimizer = make_optimizer(config, unravel)
    gradient = jnp.asarray(np.random.default_rng(1).normal(size=flat.size), flat.dtype)
    state = optimizer.init(flat)
    updates, _ = optimizer.update(scale * gradient, state, flat, rate=1.0)
    return dict(unravel(updates))


def test_steps_of_matrices_are_nearly_orthogonal_and_of_the_size_of_adams() -> None:
    block = first_step("muon")["block"]
    for name in ("inner", "residual", "mask"):
        step = np.asarray(block[name]["kernel"])
        sizes = np.linalg.svd(step, compute_uv=False)
        # five steps of Newton and Schulz bring singular values near one, not to one
        assert sizes.max() < 2.0 * sizes.min()
        rms = np.sqrt(np.mean(step**2))
        assert rms == pytest.approx(RMS_OF_ADAM * RATE, rel=0.35)
    different = [np.asarray(block[name]["kernel"]) for name in ("inner", "residual")]
    assert not np.allclose(*different)


def test_what_is_no_matrix_and_the_heads_move_as_by_amsgrad() -> None:
    muon, amsgrad = first_step("muon"), first_step("amsgrad")
    for path in (
        ("elements", "embedding"),
        ("block", "inner", "bias"),
        ("block", "head", "kernel"),
    ):
        mine, other = muon, amsgrad
        for key in path:
            mine, other = mine[key], other[key]
        np.testing.assert_array_equal(mine, other)


def test_steps_of_matrices_do_not_depend_on_the_size_of_the_gradient() -> None:
    one, ten = first_step("muon"), first_step("muon", scale=10.0)
    for name in ("inner", "mask"):
        np.testing.assert_allclose(
            one["block"][name]["kernel"], ten["block"][name]["kernel"], atol=1e-6
        )


def test_a_gradient_of_zero_moves_nothing() -> None:
    still = ravel_pytree(first_step("muon", scale=0.0))[0]
    np.testing.assert_array_equal(still, np.zeros_like(still))


def test_matrices_decay_as_everything_else() -> None:
    apart = ravel_pytree(first_step("muon", weight_decay=0.1))[0]
    apart = apart - ravel_pytree(first_step("muon"))[0]
    weights = ravel_pytree(parameters())[0]
    np.testing.assert_allclose(apart, -RATE * 0.1 * weights, atol=1e-7)
