"""Keys and units of data files."""

import pytest
from physnet_training.sources.keys import factor_to_internal, find_keys, meaning

from physnet_ase.units import BOHR, DEBYE, HARTREE, KCAL_PER_MOL


@pytest.mark.parametrize(
    ("quantity", "key", "expected"),
    [
        ("energy", "energy_hartree_wB97M_V", ("hartree", "wB97M_V")),
        ("energy", "energy_kcal_mol", ("kcal/mol", "")),
        ("energy", "energy_kcal_per_mol_HF", ("kcal/mol", "HF")),
        ("energy", "energy_eV", ("ev", "")),
        ("energy", "energy", (None, "")),
        ("energy", "energy_error", (None, "")),
        ("gradient", "gradient_hartree_bohr", ("hartree/bohr", "")),
        ("forces", "forces_ev_angstrom", ("ev/angstrom", "")),
        ("dipole", "dipole_e_angstrom", ("e*angstrom", "")),
        ("dipole", "dipole_debye", ("debye", "")),
    ],
)
def test_unit_in_a_key(quantity, key, expected):
    found = meaning(key)
    said = (None, "") if found is None else (found.unit or None, found.level)
    assert said == expected
    assert found is None or found.quantity == quantity


@pytest.mark.parametrize(
    ("quantity", "unit", "factor"),
    [
        ("energy", "Hartree", HARTREE),
        ("energy", "kcal/mol", KCAL_PER_MOL),
        ("positions", "bohr", BOHR),
        ("forces", "hartree/bohr", HARTREE / BOHR),
        ("forces", "kcal/mol/angstrom", KCAL_PER_MOL),
        ("dipole", "Debye", DEBYE),
        ("dipole", "e*angstrom (about the coordinate origin)", 1.0),
        ("stress", "eV/angstrom^3", 1.0),
        ("charges", "e", 1.0),
    ],
)
def test_factor_of_a_unit(quantity, unit, factor):
    assert factor_to_internal(quantity, unit) == pytest.approx(factor, rel=1e-14)


@pytest.mark.parametrize(
    ("quantity", "unit", "known"),
    [
        ("energy", "furlong", "eV, meV"),
        ("forces", "hartree", "eV/angstrom"),
        ("stress", "eV/angstrom", "eV/angstrom"),
        ("dipole", "bohr", "debye"),
    ],
)
def test_unknown_unit_lists_the_known_ones(quantity, unit, known):
    with pytest.raises(ValueError, match=rf"unknown unit .*{known}"):
        factor_to_internal(quantity, unit)


def test_usual_keys_come_first_and_a_chosen_one_alone():
    assert find_keys("total_charge", ["Q", "charge"], {}) == ["charge", "Q"]
    assert find_keys("forces", ["F", "forces"], {}) == ["forces", "F"]
    assert find_keys("forces", ["F", "forces"], {"forces": "F"}) == ["F"]
