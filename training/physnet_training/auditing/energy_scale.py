"""How large a total energy must be: the statistical theory of the atom."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.units import HARTREE

Array = NDArray[Any]


def atom_energies(atomic_numbers: Array) -> Array:
    """Estimated energy of free atoms with all electrons, within 3 % beyond helium.

    E = −0.768745 Z^(7/3) + Z²/2 − 0.269900 Z^(5/3) hartree: Thomas and Fermi's term,
    Scott's correction and Schwinger's (B.-G. Englert, Semiclassical Theory of Atoms,
    1988). Molecules differ from their atoms by a thousandth of that.

    Args:
        atomic_numbers: [atoms].

    Returns:
        [atoms] eV, negative.
    """
    z = np.arange(int(np.max(atomic_numbers, initial=0)) + 1, dtype=np.float64)
    table = -0.768745 * z ** (7 / 3) + z**2 / 2 - 0.269900 * z ** (5 / 3)
    return HARTREE * table[atomic_numbers]


def molecule_energies(atomic_numbers: Array, starts: Array) -> Array:
    """Sum of ``atom_energies`` over each molecule. [molecules] eV."""
    return np.add.reduceat(atom_energies(atomic_numbers), starts)
