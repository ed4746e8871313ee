"""Functional groups are called what chemists call them."""

import pytest
from ase.build import molecule

from physnet_ase.bonds import bonds
from physnet_ase.groups import Groups


def names_of(atoms):
    """Names of the heavy atoms."""
    bonded = [[] for _ in atoms]
    for i, j in bonds(atoms):
        bonded[i].append(j)
        bonded[j].append(i)
    groups = Groups(atoms.numbers.tolist(), bonded)
    return sorted(groups.name(i) for i, z in enumerate(atoms.numbers) if z > 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("C2H6", {"saturated carbon"}),
        ("C2H4", {"alkene carbon"}),
        ("C2H2", {"alkyne carbon"}),
        ("C6H6", {"aromatic carbon"}),
        ("C5H5N", {"aromatic carbon", "aromatic nitrogen"}),
        ("C4H4O", {"aromatic carbon", "aromatic oxygen"}),
        ("C4H4S", {"aromatic carbon", "aromatic sulfur"}),
        ("CH3CN", {"saturated carbon", "nitrile carbon", "nitrile nitrogen"}),
        ("CH3NO2", {"saturated carbon", "nitro nitrogen", "nitro oxygen"}),
        ("H2CO", {"aldehyde carbon", "aldehyde oxygen"}),
        ("CH3COCH3", {"saturated carbon", "ketone carbon", "ketone oxygen"}),
        ("HCOOH", {"carboxyl carbon", "carboxyl oxygen"}),
        ("HCOOCH3", {"saturated carbon", "ester carbon", "ester oxygen"}),
        (
            "CH3CONH2",
            {"saturated carbon", "amide carbon", "amide nitrogen", "amide oxygen"},
        ),
        ("CH3CH2OH", {"saturated carbon", "hydroxyl oxygen"}),
        ("CH3OCH3", {"saturated carbon", "ether oxygen"}),
        ("H2O2", {"peroxide oxygen"}),
        ("NH3", {"amine nitrogen"}),
        ("N2H4", {"nitrogen bonded to nitrogen"}),
        ("CH3SH", {"saturated carbon", "thiol sulfur"}),
        ("CH3SCH3", {"saturated carbon", "thioether sulfur"}),
        (
            "CH2OCH2",
            {"saturated carbon of a ring of 3", "ether oxygen of a ring of 3"},
        ),
        ("HF", {""}),
    ],
)
def test_groups_of_well_known_molecules(name, expected):
    assert set(names_of(molecule(name))) == expected
