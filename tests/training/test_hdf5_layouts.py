"""Charges out of mapped SMILES."""

import numpy as np
import pytest
from physnet_training.sources.read_hdf5 import formal_charge


@pytest.mark.parametrize(
    ("smiles", "numbers", "charge"),
    [
        ("[Na+:1].[Cl-:2]", [11, 17], 0),
        ("[Ca+2:1]", [20], 2),
        ("[Mg++:1]", [12], 2),
        ("[H:3][N+:1]([H:4])([H:5])[C@@:2]([H:6])([H:7])[H:8]", [7, 6] + [1] * 6, 1),
        ("[c:1]1([H:2])[c:3]([H:4])[n:5][s:6]1", [6, 1, 6, 1, 7, 16], 0),
        ("[Br-:1].[13C:2]", [35, 6], -1),
    ],
)
def test_formal_charges(smiles, numbers, charge):
    assert formal_charge(smiles, np.array(numbers)) == charge


@pytest.mark.parametrize(
    "smiles", ["[OH-:1]", "[O:1][H:1]", "[O:1]", "[O:2][H:1]", "O", "[O:1][H:2][H:3]"]
)
def test_smiles_that_does_not_map_every_atom(smiles):
    with pytest.raises(ValueError, match="does not map the atomic numbers .8, 1. one"):
        formal_charge(smiles, np.array([8, 1]))
