"""Which atoms are bonded: those about as far apart as covalent bonds are long."""

from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import Pairs, find_pairs
from physnet_ase.state import ElectronicState

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[Any]
BONDED = 1.3
"""Two atoms are bonded up to so many times the sum of their covalent radii."""


def bond_lengths(molecules: Molecules, longest: float) -> tuple[Pairs, Array, Array]:
    """Pairs of neighbours, and how far apart they are.

    Args:
        molecules: Structures, periodic ones with their images.
        longest: In sums of both covalent radii; some pairs beyond it are found, too.

    Returns:
        The pairs, in both directions, [pairs] distances in sums of both covalent radii
        (Cordero et al., Dalton Trans. 2008, 2832), and [pairs] the same in Å.
    """
    radii = covalent_radii[molecules.values["atomic_numbers"]]
    pairs = find_pairs(molecules, 2.0 * longest * float(radii.max()))
    vectors = pairs.vectors(molecules.values["positions"])
    distances = np.linalg.norm(vectors, axis=1)
    return pairs, distances / (radii[pairs.senders] + radii[pairs.receivers]), distances


def bonds(atoms: "Atoms", reach: float = BONDED) -> set[tuple[int, int]]:
    """Bonded atoms i < j of one structure.

    Args:
        atoms: The structure.
        reach: Longest bond in sums of both covalent radii.
    """
    any_state = [ElectronicState(0, 1)]  # bonds here are geometry
    pairs, ratios, _ = bond_lengths(Molecules.from_atoms([atoms], any_state), reach)
    near = (ratios < reach) & (pairs.senders < pairs.receivers)
    ends = zip(
        pairs.senders[near].tolist(), pairs.receivers[near].tolist(), strict=True
    )
    return {(i, j) for i, j in ends}
