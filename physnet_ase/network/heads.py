"""A shallow committee: heads on one trunk, whose spread tells how sure a model is.

Behind one trunk each head costs a few columns more (Kellner & Ceriotti, Mach. Learn.:
Sci. Technol. 2024, 5, 035006). Where there are levels of theory, too, columns are
ordered by level, head, output.
"""

from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from physnet_ase.config import ModelConfig
from physnet_ase.network.levels import is_head

NOISE = 0.1
"""Of the size of a head's weights: how far heads that start as copies are apart."""


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
    flat = flatten_dict(params)
    for path in filter(is_head, flat):
        several = _by_head(flat[path], config.num_levels, config.num_heads)
        flat[path] = several[:, :, head].reshape(len(flat[path]), -1)
    return config.model_copy(update={"num_heads": 1}), unflatten_dict(flat)


def with_copies(config: ModelConfig, params: Any, seed: int) -> Any:
    """Weights with copies of an only head, a little apart; their mean is unchanged.

    Args:
        config: Of the model that is to be, with ``num_heads``.
        params: Weights of one head.
        seed: Of the differences.
    """
    rng = np.random.default_rng([seed, 0x4EAD5])
    flat = flatten_dict(params)
    for path in sorted(filter(is_head, flat)):
        only = _by_head(np.asarray(flat[path]), config.num_levels, 1)
        size = np.sqrt(np.mean(only**2, axis=(0, 2), keepdims=True))
        shape = (*only.shape[:2], config.num_heads, only.shape[3])
        apart = NOISE * size * rng.normal(size=shape)
        apart -= apart.mean(axis=2, keepdims=True)
        flat[path] = (only + apart).reshape(len(only), -1).astype(only.dtype)
    return unflatten_dict(flat)


def _by_head(kernel: Any, num_levels: int, num_heads: int) -> Any:
    """[features, levels, heads, outputs]."""
    return kernel.reshape(len(kernel), num_levels, num_heads, -1)
