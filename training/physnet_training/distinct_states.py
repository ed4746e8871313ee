"""Electronic states of many molecules at once: which differ, and the lowest spins."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.state import free_atom_multiplicity

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


def lowest_multiplicities(numbers: Array, n_atoms: Array, charge: Array) -> Array:
    """Lowest 2S+1 of the right parity, of free atoms that of the ground state.

    Args:
        numbers: [atoms] atomic numbers.
        n_atoms: [molecules].
        charge: [molecules] e.

    Returns:
        [molecules] float64, NaN for free ions whose ground state no table here says.
    """
    first = np.cumsum(n_atoms) - n_atoms
    charge = np.rint(np.asarray(charge, np.float64))
    protons = np.add.reduceat(np.asarray(numbers, np.int64), first)
    lowest = 1.0 + (protons - charge) % 2
    alone = np.flatnonzero((n_atoms == 1) & np.isfinite(charge))
    alone = alone[(protons[alone] >= 1) & (protons[alone] <= 118)]
    atoms, which, _ = distinct_states(charge[alone], protons[alone])
    grounds = [free_atom_multiplicity(number, q) for q, number in atoms.tolist()]
    lowest[alone] = np.array([np.nan if g is None else g for g in grounds])[which]
    return lowest
