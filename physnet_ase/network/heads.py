"""A shallow committee: heads on one trunk, whose spread tells how sure a model is.

Behind one trunk each head costs a few columns more (Kellner & Ceriotti, Mach. Learn.:
Sci. Technol. 2024, 5, 035006). Their mean has a linear map of its own, so that it is
what it would be without them, and no rounding of large deviations reaches it; a second
map gives these. Its columns are ordered by level of theory, head, output.
"""

from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from physnet_ase.config import ModelConfig
from physnet_ase.network.levels import HEAD, SPREAD, is_head


def model_of_head(
    config: ModelConfig, params: Any, head: int
) -> tuple[ModelConfig, Any]:
    """The network of one head alone.

    Its charges are its own in the Coulomb energy, too, where the whole model takes the
    mean charges for all heads.

    Args:
        config: With ``num_heads``.
        params: Weights for it.
        head: Which.
    """
    flat = flatten_dict(without_heads(config, params)[1])
    spread = flatten_dict(params)
    for path in filter(is_head, flat):
        kernel = flat[path]
        shape = (len(kernel), config.num_levels, config.num_heads, -1)
        apart = spread[path[0], SPREAD, "kernel"].reshape(shape)
        apart = apart[:, :, head] - apart.mean(axis=2)
        flat[path] = kernel + apart.reshape(kernel.shape)
    return config.model_copy(update={"num_heads": 1}), unflatten_dict(flat)


def without_heads(config: ModelConfig, params: Any) -> tuple[ModelConfig, Any]:
    """The network of the mean alone."""
    if config.num_heads == 1:
        return config, params
    flat = flatten_dict(params)
    kept = {path: flat[path] for path in flat if path[1:2] != (SPREAD,)}
    return config.model_copy(update={"num_heads": 1}), unflatten_dict(kept)


def with_heads(
    config: ModelConfig, params: Any, deviations: Any
) -> tuple[ModelConfig, Any]:
    """A network with several heads around the only one.

    Args:
        config: Of one head, and one level of theory.
        params: Weights for it.
        deviations: From its weights, [blocks, features, heads, outputs]; outputs that
            the network does not have are left out.
    """
    flat = flatten_dict(params)
    for block, apart in enumerate(deviations):
        kernel = flat[f"output_{block}", HEAD, "kernel"]
        own = apart[:, :, : kernel.shape[1]].reshape(len(kernel), -1)
        flat[f"output_{block}", SPREAD, "kernel"] = own.astype(kernel.dtype)
    heads = {"num_heads": deviations.shape[2]}
    return config.model_copy(update=heads), unflatten_dict(flat)


def probe(config: ModelConfig, params: Any, output: int) -> tuple[ModelConfig, Any]:
    """A network with a head for every weight of a head: what that weight is worth.

    Args:
        config: Of one head, and one level of theory.
        params: Weights for it.
        output: Which one the heads give: energy, charge, spin population.

    Returns:
        A network whose head ``block * num_features + feature`` has one more of this
        feature of this block than the last head.
    """
    blocks, size = config.num_blocks, config.num_features
    deviations = np.zeros((blocks, size, blocks * size + 1, 3))
    every = np.eye(blocks * size).reshape(blocks, size, -1)
    deviations[:, :, :-1, output] = every
    return with_heads(config, params, deviations)
