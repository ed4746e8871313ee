"""A trained network made larger without changing what it computes.

New weights are drawn as for a training from scratch, but for the last map of each new
part, which is zero: the larger network begins where the smaller one ended (Chen,
Goodfellow & Shlens, ICLR 2016), and learns from there what it could not hold before.
"""

from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from physnet_ase.config import ModelConfig
from physnet_ase.graph import Graph
from physnet_ase.network.initial import initial_parameters, starting_parameters

GROWING = (
    "max_degree",
    "vector_features",
    "num_residual_atomic",
    "num_residual_interaction",
    "num_residual_output",
)
"""What a recipe may ask more of than its ``start.model`` has."""


def may_grow(key: str, there: ModelConfig, wanted: ModelConfig) -> bool:
    """Whether ``key`` can grow from one network's to the other's."""
    if key == "vector_features" and there.max_degree > 0:
        return False  # what its blocks contract would go on to the next ones
    return key in GROWING and bool(getattr(wanted, key) > getattr(there, key))


def grown(params: Any, config: ModelConfig, graph: Graph, seed: int) -> Any:
    """Weights of a larger network that computes what the smaller one did.

    Args:
        params: Of the smaller one; it differs in :data:`GROWING` alone.
        config: Of the larger one.
        graph: Some molecules, for the scale of the drawn weights.
        seed: Of the draws.
    """
    drawn = flatten_dict(
        starting_parameters(initial_parameters(config, graph, seed), 1.0)
    )
    old = flatten_dict(params)
    for path, leaf in drawn.items():
        if path in old:
            # further degrees are further columns of one map
            columns = old[path].shape[-1]
            drawn[path] = np.concatenate([old[path], leaf[..., columns:]], axis=-1)
        elif path[-2].startswith("right"):
            drawn[path] = np.zeros_like(leaf)
    return unflatten_dict(drawn)
