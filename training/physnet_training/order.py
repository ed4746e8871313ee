"""The order of an epoch and membership in a split: pure functions of integers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def epoch_order(
    sizes: Array, seed: int, epoch: int, *, group: int, window: int
) -> Array:
    """A permutation of the molecules in which neighbours have similar sizes.

    The molecules are shuffled; inside windows of the shuffled order they are sorted by
    size, cut into groups of consecutive ones, and the groups are shuffled. The short
    last group is a random sample.

    Args:
        sizes: [molecules] number of atoms.
        seed: Seed of the loader.
        epoch: Number of the epoch.
        group: Molecules per batch, over all processes.
        window: Molecules that are sorted together.

    Returns:
        [molecules] int64 positions in ``sizes``.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(sizes))
    whole = len(order) // group * group
    window = max(window // group, 1) * group
    for start in range(0, whole, window):
        piece = order[start : min(start + window, whole)]
        piece = piece[np.argsort(sizes[piece], kind="stable")]
        groups = rng.permutation(piece.reshape(-1, group))
        order[start : start + len(piece)] = groups.ravel()
    return order


def hash_uniform(keys: Array, seed: int) -> Array:
    """A number in [0, 1) for each 64-bit key: splitmix64 of the seed and the key.

    Sebastiano Vigna's finaliser (public domain); one call per key, so the number does
    not depend on how many keys there are or in which order they come.

    Args:
        keys: [n] integers.
        seed: Any integer.

    Returns:
        [n] float64.
    """
    start = splitmix64(np.array([seed & (2**64 - 1)], dtype=np.uint64))
    mixed = splitmix64(splitmix64(np.asarray(keys).astype(np.uint64)) ^ start)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def splitmix64(values: Array) -> Array:
    """Array arithmetic on uint64 wraps silently, as the algorithm wants."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
