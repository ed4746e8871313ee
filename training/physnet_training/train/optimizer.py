"""What turns a gradient into a step of the weights."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.flatten_util import ravel_pytree

from physnet_ase.energy import Params
from physnet_ase.network.levels import HEAD
from physnet_training.train.recipe import OptimizerConfig

RMS_OF_ADAM = 0.2
"""Root mean square of a step of Adam over its learning rate (Liu et al. 2025)."""
_MATRIX = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)


def learning_rate(config: OptimizerConfig) -> optax.Schedule:
    """Linear warm-up, then what ``optimizer.schedule`` says."""
    highest, final = config.learning_rate, config.final_learning_rate
    if config.schedule == "cosine":
        warmup = min(config.warmup_steps, config.steps // 2)
        return optax.warmup_cosine_decay_schedule(
            init_value=highest / max(warmup, 1),
            peak_value=highest,
            warmup_steps=warmup,
            decay_steps=config.steps,
            end_value=final,
        )
    warmup, start = min(config.warmup_steps, config.decay_start), config.decay_start
    decay = max(config.steps - start, 1)
    last = final if config.schedule == "wsd" else highest
    return optax.join_schedules(
        [
            optax.linear_schedule(highest / max(warmup, 1), highest, max(warmup, 1)),
            optax.linear_schedule(highest, last, decay, start - warmup),
        ],
        [warmup],
    )


def make_optimizer(
    config: OptimizerConfig, unravel: Callable[[jax.Array], Params]
) -> optax.GradientTransformationExtraArgs:
    """The optimiser of a recipe, for weights in one vector.

    Its update takes ``rate``, a factor on the learning rate. Without a schedule the
    momentum is replaced by an average of the weights (Defazio et al., The Road Less
    Scheduled, 2024).

    Args:
        config: Section of the recipe.
        unravel: Makes the network's parameters of the vector.
    """
    rates, free = learning_rate(config), config.schedule == "schedule-free"
    scaling = optax.scale_by_learning_rate(rates)

    def scale(updates: Any, state: Any, params: Any = None, *, rate: Any) -> Any:
        updates, state = scaling.update(updates, state, params)
        return jax.tree.map(lambda update: rate * update, updates), state

    direction = optax.scale_by_amsgrad(b1=0.0) if free else optax.scale_by_amsgrad()
    if config.kind == "muon":
        direction = _by_muon(direction, unravel, momentum=0.0 if free else 0.95)
    chain = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        direction,
        optax.add_decayed_weights(config.weight_decay),
        optax.GradientTransformationExtraArgs(scaling.init, scale),
    )
    return optax.contrib.schedule_free(chain, rates) if free else chain


def _by_muon(
    others: optax.GradientTransformation,
    unravel: Callable[[jax.Array], Params],
    momentum: float,
) -> optax.GradientTransformation:
    """Muon for the matrices of the network, ``others`` for all else.

    Muon replaces the momentum of a matrix by the nearest orthogonal matrix, so that all
    its directions learn alike (K. Jordan et al. 2024); scaled to the size of Adam's
    steps, it takes Adam's learning rates (J. Liu et al., arXiv:2502.16982). Matrices of
    one shape are turned together: a network has a hundred small ones.
    """
    muon = optax.chain(
        optax.contrib.scale_by_muon(
            beta=momentum, weight_dimension_numbers=_dimensions
        ),
        optax.stateless_with_tree_map(_sized_as_adam),
    )

    def init(flat: jax.Array) -> Any:
        return others.init(flat), muon.init(_stacks(unravel(flat)))

    def update(gradient: jax.Array, state: Any, params: Any = None) -> Any:
        rest, of_others = others.update(gradient, state[0], params)
        turned, of_muon = muon.update(_stacks(unravel(gradient)), state[1])
        return ravel_pytree(_unstacked(turned, unravel(rest)))[0], (of_others, of_muon)

    return optax.GradientTransformation(init, update)


def _dimensions(stacks: dict[str, jax.Array]) -> Any:
    return dict.fromkeys(stacks, _MATRIX)


def _sized_as_adam(stack: jax.Array, _: Any) -> jax.Array:
    return RMS_OF_ADAM * max(stack.shape[1:]) ** 0.5 * stack


def _is_matrix(path: Iterable[Any]) -> bool:
    """Kernels; those of the heads are rows of levels that batches hold rarely."""
    names = [entry.key for entry in path]
    return names[-1] == "kernel" and HEAD not in names


def _name(leaf: jax.Array) -> str:
    return "x".join(map(str, leaf.shape))


def _stacks(params: Params) -> dict[str, jax.Array]:
    """The matrices of each shape as one array, [matrices, rows, columns]."""
    found: dict[str, list[jax.Array]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if _is_matrix(path):
            found.setdefault(_name(leaf), []).append(leaf)
    return {name: jnp.stack(leaves) for name, leaves in found.items()}


def _unstacked(stacks: dict[str, jax.Array], params: Params) -> Params:
    """``params`` with the matrices of :func:`_stacks` in their places."""
    following = {name: iter(stack) for name, stack in stacks.items()}

    def take(path: Any, leaf: jax.Array) -> jax.Array:
        return next(following[_name(leaf)]) if _is_matrix(path) else leaf

    return jax.tree_util.tree_map_with_path(take, params)
