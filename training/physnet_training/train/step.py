"""The jitted training step. Weights travel as one vector.

A model has some two hundred small arrays; on a CPU handing them, their moments and
their average to every call costs more than the arithmetic on them.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from physnet_ase.energy import PROGRAMS, Params, predicted_labels, program_for
from physnet_ase.graph import Graph
from physnet_ase.quantities import trained
from physnet_training.train.devices import SHARES, Devices
from physnet_training.train.loss import loss_terms, total_loss
from physnet_training.train.optimizer import make_optimizer
from physnet_training.train.recipe import Recipe
from physnet_training.train.start import outputs_only


class TrainState(NamedTuple):
    """All that changes from step to step, apart from the loader's position."""

    step: Int[Array, ""]
    weights: Float[Array, " weights"]
    average: Float[Array, " weights"]  # what is validated and kept
    optimizer: Any


class Trainable(NamedTuple):
    """The compiled functions of a recipe."""

    start: TrainState
    # (state, graph, rate) -> (state, parts of the loss)
    step: jax.stages.Wrapped
    predict: Callable[[Any, Graph], dict[str, jax.Array]]
    unravel: Callable[[Any], Params]


def trained_labels(recipe: Recipe, fields: Collection[str]) -> tuple[str, ...]:
    """Labels of a dataset with these fields that shape the model.

    What the model never reports is left out, and so is what has no weight.
    """
    return tuple(
        quantity.name
        for quantity in trained()
        if quantity.name in fields
        and recipe.loss.weight(quantity.name) > 0
        and (not quantity.needs or getattr(recipe.model, quantity.needs))
    )


def late_weight(recipe: Recipe, count: Int[Array, ""]) -> Float[Array, ""]:
    """What the weight of the energy has more in the last part of the steps."""
    more = recipe.loss.weight("energy") * (recipe.loss.late_energy - 1.0)
    return jnp.where(count >= recipe.optimizer.late_start, more, 0.0)


def build(
    recipe: Recipe, params: Params, labels: Sequence[str], devices: Devices
) -> Trainable:
    """Compile-ready step and prediction for initial parameters ``params``.

    Args:
        recipe: Loss, optimiser and model.
        params: Initial weights.
        labels: What is trained, see :func:`trained_labels`.
        devices: Among which the step divides its molecules; predictions are made by
            the one on which their graph is.
    """
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, params))
    learns: Any = 1.0
    if recipe.start.freeze == "trunk":
        learns = ravel_pytree(jax.tree.map(jnp.asarray, outputs_only(params)))[0]
    optimizer, config = make_optimizer(recipe.optimizer, unravel), recipe.model
    # a copy: the step donates its input, which must not be the average's buffer
    start = TrainState(
        jnp.zeros((), jnp.int32), flat, jnp.array(flat), optimizer.init(flat)
    )

    def over_shares(own: Any) -> Any:
        """The sum over the devices, of each array."""
        return own if devices.count == 1 else jax.lax.psum(own, SHARES)

    def predict_labels(
        weights: jax.Array, graph: Graph
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        outputs = PROGRAMS[program_for(labels)](config, unravel(weights), graph)
        return outputs, predicted_labels(outputs, graph, labels)

    def loss_fn(
        weights: jax.Array,
        graph: Graph,
        count: jax.Array,
        total_of: Callable[[jax.Array], jax.Array] = over_shares,
    ) -> tuple[jax.Array, dict[str, Any]]:
        outputs, predicted = predict_labels(weights, graph)
        penalty = outputs["nonhierarchicality"]
        parts = loss_terms(recipe.loss, predicted, penalty, graph, total_of)
        total = total_loss(recipe.loss, parts)
        metrics = {"loss": total, **parts}  # comparable from start to end
        if recipe.loss.late_energy != 1.0 and "energy" in parts:
            total = total + late_weight(recipe, count) * parts["energy"]
        return total, metrics

    def of_one_graph(
        weights: jax.Array, graph: Graph, count: jax.Array
    ) -> tuple[dict[str, Any], jax.Array]:
        (_, metrics), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
            weights, graph, count
        )
        return over_shares((metrics, gradient))

    def denominators(graph: Graph) -> list[jax.Array]:
        """What a graph adds to those of the loss's means, in their order."""
        found: list[jax.Array] = []

        def noted(own: jax.Array) -> jax.Array:
            found.append(own)
            return own

        known = {} if graph.labels is None else graph.labels.values
        nothing = {name: jnp.zeros_like(known[name]) for name in labels}
        penalty = jnp.zeros(graph.atom_mask.shape)
        loss_terms(recipe.loss, nothing, penalty, graph, noted)
        return found

    def accumulated(
        weights: jax.Array, graphs: Graph, count: jax.Array
    ) -> tuple[dict[str, Any], jax.Array]:
        """As ``of_one_graph``: those of one large graph, from its parts in turn."""
        own = jax.tree.map(lambda each: each.sum(0), jax.vmap(denominators)(graphs))
        totals = over_shares(own)

        def share(graph: Graph) -> tuple[dict[str, Any], jax.Array]:
            following = iter(totals)
            (_, metrics), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
                weights, graph, count, lambda own: next(following)
            )
            return metrics, gradient

        def add(sums: Any, graph: Graph) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, share(graph)), None

        first = jax.tree.map(lambda leaf: leaf[0], graphs)
        nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(share, first))
        return over_shares(jax.lax.scan(add, nothing, graphs)[0])

    several = recipe.optimizer.accumulate > 1
    gradients = accumulated if several else of_one_graph
    if devices.count > 1:
        same = PartitionSpec()
        shared = PartitionSpec(*([None] if several else []), SHARES)
        gradients = jax.shard_map(
            gradients,
            mesh=devices.mesh,
            in_specs=(same, shared, same),
            out_specs=same,
            # each share is differentiated by itself, and summed afterwards
            check_vma=False,
        )

    def averaged(
        state: TrainState, weights: jax.Array, moments: Any, count: jax.Array
    ) -> jax.Array:
        if recipe.optimizer.schedule == "schedule-free":
            return optax.contrib.schedule_free_eval_params(moments, weights)
        # early averages forget faster, so the start does not linger in short runs
        decay = jnp.minimum(recipe.optimizer.ema_decay, (1.0 + count) / (10.0 + count))
        # of this form, so that weights that do not change have themselves as average
        return state.average + (1.0 - decay) * (weights - state.average)

    def step(
        state: TrainState, graph: Graph, rate: jax.Array
    ) -> tuple[TrainState, dict[str, Any]]:
        metrics, gradient = gradients(state.weights, graph, state.step)
        # both: neither the norm of the gradient nor weight decay sees the frozen ones
        gradient = learns * gradient
        updates, moments = optimizer.update(
            gradient, state.optimizer, state.weights, rate=learns * rate
        )
        weights = optax.apply_updates(state.weights, learns * updates)
        count = state.step + 1
        average = averaged(state, weights, moments, count)
        metrics["gradient_norm"] = jnp.linalg.norm(gradient)
        return TrainState(count, weights, average, moments), metrics

    def predict(weights: Any, graph: Graph) -> dict[str, jax.Array]:
        return predict_labels(weights, graph)[1]

    # said, so that the state that goes in again is placed as the first one
    placed = None if devices.count == 1 else devices.replicated
    compiled = jax.jit(step, donate_argnums=0, out_shardings=placed)
    start = devices.everywhere(start)
    return Trainable(start, compiled, jax.jit(predict), unravel)
