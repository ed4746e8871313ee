"""Which atoms are bonded, in molecules and across the faces of cells."""

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

from physnet_ase.bonds import BONDED, bond_lengths, bonds
from physnet_ase.molecules import Molecules
from physnet_ase.state import ElectronicState


def test_bonds_of_a_molecule_are_those_of_its_formula():
    ethanol = molecule("CH3CH2OH")
    found = bonds(ethanol)
    symbols = ethanol.get_chemical_symbols()
    kinds = sorted("".join(sorted(symbols[i] + symbols[j])) for i, j in found)
    assert kinds == ["CC", "CH", "CH", "CH", "CH", "CH", "CO", "HO"]
    assert bonds(ethanol, reach=0.5) == set()
    assert bonds(Atoms("H")) == set()


def test_bonds_cross_the_faces_of_a_cell():
    diamond = Molecules.from_atoms([bulk("C", cubic=True)], [ElectronicState(0, 1)])
    pairs, ratios, lengths = bond_lengths(diamond, BONDED)
    near = ratios < BONDED
    assert near.sum() == 4 * 8
    np.testing.assert_allclose(lengths[near], 3.57 * np.sqrt(3) / 4)
    np.testing.assert_allclose(ratios[near], lengths[near] / 1.52)
    assert (np.bincount(pairs.receivers[near]) == 4).all()
