"""Levels of theory as heads: one trunk, and a linear map of its own for each level.

What differs between two levels, beyond constants of the elements, is small and smooth:
data of a cheap level teach the features, and few labels of an expensive one its head.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from physnet_ase.config import ModelConfig
from physnet_ase.graph import Graph

HEAD = "head"
"""Name of the linear maps whose columns are outputs of level 0, of level 1, …"""
SPREAD = "spread"
"""Name of those beside them that give how far a committee's heads are from the mean."""


def of_own_level(
    outputs: Float[Array, "atoms columns"], graph: Graph, num_levels: int
) -> Float[Array, "atoms outputs"]:
    """The outputs of each atom at the level of its molecule.

    Args:
        outputs: Those of all levels, as a head gives them.
        graph: With levels, or without: then all molecules are of the first one.
        num_levels: How many there are.
    """
    if num_levels == 1:
        return outputs
    several = outputs.reshape(len(outputs), num_levels, -1)
    if graph.level is None:
        return several[:, 0]
    chosen = jax.nn.one_hot(graph.level, num_levels, dtype=outputs.dtype)
    return jnp.einsum("alo,al->ao", several, chosen[graph.molecule_index])


def model_of_level(
    config: ModelConfig, params: Any, level: int
) -> tuple[ModelConfig, Any]:
    """The network of one level alone: what it computes costs nothing for the others.

    Args:
        config: With ``num_levels``.
        params: Weights for it.
        level: Which.
    """
    if config.num_levels == 1:
        return config, params
    flat = flatten_dict(params)
    for path in filter(is_head, flat):
        columns = flat[path].reshape(len(flat[path]), config.num_levels, -1)
        flat[path] = columns[:, level]
    return config.model_copy(update={"num_levels": 1}), unflatten_dict(flat)


def joined_levels(params: Sequence[Any]) -> Any:
    """Weights with the heads of several single-level models; the trunk is the first's.

    Args:
        params: Weights of each, of one architecture.
    """
    several = [flatten_dict(each) for each in params]
    joined = dict(several[0])
    for path in filter(is_head, joined):
        joined[path] = np.concatenate([each[path] for each in several], axis=1)
    return unflatten_dict(joined)


def is_head(path: tuple[str, ...]) -> bool:
    """Whether a weight is a map from features to outputs of a block."""
    return path[0].startswith("output_") and path[1] in (HEAD, SPREAD)
