"""Constants against ASE's, which come from another CODATA year."""

import ase.units
import pytest

from physnet_ase import units


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (units.HARTREE, ase.units.Hartree),
        (units.BOHR, ase.units.Bohr),
        (units.KCAL_PER_MOL, ase.units.kcal / ase.units.mol),
        (units.TO_EV["kJ/mol"], ase.units.kJ / ase.units.mol),
        (units.TO_EV["rydberg"], ase.units.Rydberg),
        (units.DEBYE, ase.units.Debye),
        (units.FEMTOSECOND, ase.units.fs),
        (units.TO_ELECTRON_ANGSTROM["e*bohr"], ase.units.Bohr),
    ],
)
def test_constants_agree_with_ase(ours, theirs):
    # ASE uses CODATA 2014: the years differ in the eighth digit
    assert ours == pytest.approx(theirs, rel=3e-8)


def test_exact_constants_of_the_si_of_2019():
    # k_B / e; N_A e over 4184 J/kcal
    assert pytest.approx(1.380649e-23 / 1.602176634e-19, rel=1e-9) == units.BOLTZMANN
    assert 1.0 / units.KCAL_PER_MOL == pytest.approx(23.060547830619, rel=1e-12)
    assert units.HARTREE / units.KCAL_PER_MOL == pytest.approx(627.5094740631, rel=1e-9)


def test_time_unit_is_that_of_ase_to_the_last_digit():
    assert ase.units.fs == units.FEMTOSECOND


def test_coulomb_constant_is_e_squared_over_4_pi_epsilon_0():
    # CODATA 2018: 1.602176634e-19 C / (4π · 8.8541878128e-12 F/m) in V·Å
    assert pytest.approx(14.39964548, rel=1e-9) == units.COULOMB_CONSTANT


def test_tables_hold_the_units_used_inside():
    assert units.TO_EV["eV"] == units.TO_ANGSTROM["angstrom"] == 1.0
    assert units.TO_EV["meV"] == 1e-3
    assert units.TO_ANGSTROM["nm"] == 10.0


def test_spectroscopic_constants():
    assert pytest.approx(ase.units.invcm, rel=3e-8) == units.INVERSE_CM
    # ħ in eV·fs; ASE's in its own unit of time
    hbar = ase.units._hbar / ase.units._e * 1e15
    assert pytest.approx(hbar, rel=3e-8) == units.HBAR
    # 42.255 km/mol for 1 (debye/Å)²/amu (Porezag & Pederson 1996)
    assert units.INFRARED_INTENSITY * units.DEBYE**2 == pytest.approx(42.255, rel=3e-5)
