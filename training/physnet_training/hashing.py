"""Numbers from numbers: the same on every machine, in any order of the keys."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_AT_ONCE = 1 << 18  # keys hashed at once


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
    keys = np.asarray(keys)
    result = np.empty(len(keys), dtype=np.float64)
    for first in range(0, len(keys), _AT_ONCE):
        some = keys[first : first + _AT_ONCE].astype(np.uint64)
        mixed = splitmix64(splitmix64(some) ^ start)
        result[first : first + len(some)] = mixed >> np.uint64(11)
    result *= 2.0**-53
    return result


def splitmix64(values: Array) -> Array:
    """Array arithmetic on uint64 wraps silently, as the algorithm wants."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
