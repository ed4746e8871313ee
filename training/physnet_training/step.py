"""The jitted training step. Weights travel as one vector.

A model has some two hundred small arrays; on a CPU handing them, their moments and
their average to every call costs more than the arithmetic on them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from physnet_ase.config import ModelConfig
from physnet_ase.graph import Graph
from physnet_ase.programs import terms_and_forces
from physnet_ase.terms import Params
from physnet_training.config import OptimizerConfig, Recipe
from physnet_training.loss import loss_terms, total_loss


class TrainState(NamedTuple):
    """All that changes from step to step, apart from the loader's position."""

    step: Int[Array, ""]
    weights: Float[Array, " weights"]
    average: Float[Array, " weights"]  # exponential moving average
    optimizer: Any


def learning_rate(config: OptimizerConfig) -> optax.Schedule:
    """Linear warm-up, then a cosine to the final rate."""
    warmup = min(config.warmup_steps, config.steps // 2)
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / max(warmup, 1),
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=config.steps,
        end_value=config.final_learning_rate,
    )


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clipped AMSGrad, the optimiser PhysNet was published with."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_amsgrad(),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(learning_rate(config)),
    )


class Trainable(NamedTuple):
    """The compiled functions of a recipe."""

    start: TrainState
    step: Callable[[TrainState, Graph], tuple[TrainState, dict[str, jax.Array]]]
    predict: Callable[[Any, Graph], dict[str, jax.Array]]
    unravel: Callable[[Any], Params]


def build(recipe: Recipe, params: Params) -> Trainable:
    """Compile-ready step and prediction for initial parameters ``params``."""
    weights_of_loss = recipe.loss
    if not recipe.model.spin_populations:
        # labels that happen to be there must not shape what is never reported
        weights_of_loss = recipe.loss.model_copy(update={"spin_populations": 0.0})
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, params))
    optimizer, config = make_optimizer(recipe.optimizer), recipe.model
    # a copy: the step donates its input, which must not be the average's buffer
    start = TrainState(
        jnp.zeros((), jnp.int32), flat, jnp.array(flat), optimizer.init(flat)
    )

    def loss_fn(weights: jax.Array, graph: Graph) -> tuple[jax.Array, dict[str, Any]]:
        terms, forces = terms_and_forces(config, unravel(weights), graph)
        parts = loss_terms(weights_of_loss, terms, forces, graph)
        return total_loss(weights_of_loss, parts), parts

    def step(state: TrainState, graph: Graph) -> tuple[TrainState, dict[str, Any]]:
        (loss, parts), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
            state.weights, graph
        )
        updates, moments = optimizer.update(gradient, state.optimizer, state.weights)
        weights = optax.apply_updates(state.weights, updates)
        count = state.step + 1
        # early averages forget faster, so the start does not linger in short runs
        decay = jnp.minimum(recipe.optimizer.ema_decay, (1.0 + count) / (10.0 + count))
        average = decay * state.average + (1.0 - decay) * weights
        metrics = {
            "loss": loss,
            "gradient_norm": jnp.linalg.norm(gradient),
            **parts,
        }
        return TrainState(count, weights, average, moments), metrics

    def predict(weights: Any, graph: Graph) -> dict[str, jax.Array]:
        return predictions(config, unravel(weights), graph)

    return Trainable(start, jax.jit(step, donate_argnums=0), jax.jit(predict), unravel)


def predictions(
    config: ModelConfig, params: Params, graph: Graph
) -> dict[str, jax.Array]:
    """Per-atom energies (without references), forces and charges of a batch."""
    terms, forces = terms_and_forces(config, params, graph)
    return {
        "energies": terms.energies,
        "forces": forces,
        "charges": terms.charges,
        "spin_populations": terms.spin_populations,
    }


def starting_parameters(params: Params, energy_scale: float) -> Params:
    """PhysNet's start: output heads and second residual layers at zero.

    The network then begins at the references, and every residual block as the identity.
    ``energy_scale`` (eV) is the size that one unit of the energy head has.
    """

    def clear(path: Any, leaf: np.ndarray) -> np.ndarray:
        names = [entry.key for entry in path]
        zero = "head" in names or (names[-2:] == ["residual", "kernel"])
        return np.zeros_like(leaf) if zero else leaf

    cleared = dict(jax.tree_util.tree_map_with_path(clear, params))
    scale = np.ones_like(cleared["scale"])
    scale[:, 0] = energy_scale
    cleared["scale"] = scale
    return cleared
