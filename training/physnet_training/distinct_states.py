"""The different electronic states among many molecules."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_SHIFT = 1 << 20  # beyond any multiplicity


def distinct_states(charge: Array, multiplicity: Array) -> tuple[Array, Array, Array]:
    """Different (charge, multiplicity), ascending.

    One integer per state sorts several times faster than rows of two.

    Args:
        charge: [molecules] integers, e.
        multiplicity: [molecules] integers, 2S+1.

    Returns:
        [states, 2] the states, [molecules] the number of each one's state, and
        [states] how many molecules are in each.
    """
    codes = np.asarray(charge, np.int64) * _SHIFT + np.asarray(multiplicity, np.int64)
    unique, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    states = np.stack([unique // _SHIFT, unique % _SHIFT], axis=1)
    return states, inverse.reshape(-1), counts
