"""Redox potential: sign, references, the terms that are the caller's, refusals."""

import numpy as np
import pytest
from ase import Atoms

from physnet_ase import (
    ElectronicState,
    PhysNetCalculator,
    ionization_energy,
    redox_potential,
    thermochemistry,
    untrained_potential,
)
from physnet_ase.config import ModelConfig
from physnet_ase.observables import REFERENCE_ELECTRODES, Relaxation

TINY = ModelConfig(num_features=8, num_radial=8, num_blocks=1, cutoff=5.0, zbl=True)


@pytest.fixture(scope="module")
def calculator():
    return PhysNetCalculator("states-dft-small")


@pytest.fixture
def hydroxyl():
    return Atoms("OH", positions=[[0, 0, 0], [0, 0, 0.97]])


def test_the_potential_is_the_ionization_energy_on_another_scale(calculator, hydroxyl):
    result = redox_potential(hydroxyl, calculator)
    loss = ionization_energy(hydroxyl, calculator, "adiabatic")
    assert result.states == loss.states
    assert result.value == pytest.approx(loss.value - 4.281, abs=1e-5)
    assert result.absolute_potential == pytest.approx(loss.value, abs=1e-5)
    assert (result.num_electrons, result.reference) == (1, "SHE")
    assert result.gas_phase
    assert result.gibbs_corrections is None


def test_both_ends_of_a_couple_give_the_same_potential(calculator, hydroxyl):
    reduced = redox_potential(hydroxyl, calculator, to_state=(1, 3))
    oxidised = hydroxyl.copy()
    oxidised.info.update(charge=1, spin_multiplicity=3)
    back = redox_potential(oxidised, calculator, to_state=(0, 2))
    assert back.value == pytest.approx(reduced.value, abs=1e-3)
    # Reduced to the anion: what the electron affinity is to the neutral.
    anion = redox_potential(hydroxyl, calculator, to_state=(-1, 1))
    expected = anion.energies[0] - anion.energies[1] - 4.281
    assert anion.value == pytest.approx(expected)
    assert anion.value < reduced.value


def test_solvation_and_temperature_enter_as_gibbs_energies(calculator, hydroxyl):
    gas = redox_potential(hydroxyl, calculator)
    solvated = redox_potential(hydroxyl, calculator, solvation_energies=(-0.3, -3.5))
    assert solvated.value == pytest.approx(gas.value - 3.2, abs=1e-5)
    assert solvated.solvation_energies == (-0.3, -3.5)
    assert not solvated.gas_phase
    warm = redox_potential(hydroxyl, calculator, temperature=298.15)
    gibbs = [one.value for one in thermochemistry(list(warm.geometries), calculator)]
    assert warm.absolute_potential == pytest.approx(gibbs[1] - gibbs[0], abs=1e-4)
    corrections = warm.gibbs_corrections
    shift = corrections[1] - corrections[0]
    assert warm.value == pytest.approx(gas.value + shift, abs=1e-5)
    assert shift != pytest.approx(0.0, abs=1e-3)


def test_references_differ_by_their_absolute_potentials(calculator, hydroxyl):
    absolute = redox_potential(hydroxyl, calculator, 0.0)
    assert absolute.reference == "absolute"
    assert absolute.value == absolute.absolute_potential
    for name, potential in REFERENCE_ELECTRODES.items():
        result = redox_potential(hydroxyl, calculator, name)
        assert result.value == pytest.approx(absolute.value - potential, abs=1e-5)
        assert result.reference_potential == potential
    # The scale of the IUPAC, the calomel electrode against SHE
    assert REFERENCE_ELECTRODES["SHE-IUPAC"] == 4.44
    difference = REFERENCE_ELECTRODES["SCE"] - REFERENCE_ELECTRODES["SHE"]
    assert difference == pytest.approx(0.241)


def test_two_electrons_count_twice():
    potential = untrained_potential(TINY, states=((1, 1), (-1, 1)), seed=2)
    calculator = PhysNetCalculator(potential)
    atom = Atoms("N", info={"charge": 1, "spin_multiplicity": 1})
    result = redox_potential(atom, calculator, to_state=(-1, 1))
    assert result.num_electrons == 2
    cation, anion = result.energies
    assert result.absolute_potential == pytest.approx((cation - anion) / 2)
    assert result.states[1] == ElectronicState(-1, 1)


def test_lists_have_a_pair_of_solvation_energies_each(calculator, hydroxyl):
    two = [hydroxyl, hydroxyl]
    pairs = np.array([[0.0, -1.0], [0.0, -2.0]])
    first, second = redox_potential(two, calculator, solvation_energies=pairs)
    assert first.value - second.value == pytest.approx(1.0)
    with pytest.raises(ValueError, match="two numbers in eV .* for each of 2"):
        redox_potential(two, calculator, solvation_energies=(0.0, -1.0))
    with pytest.raises(ValueError, match="two numbers in eV"):
        redox_potential(hydroxyl, calculator, solvation_energies=(0.0, np.nan))


def test_what_is_no_couple_is_refused(calculator, hydroxyl):
    with pytest.raises(ValueError, match="unknown reference electrode 'NHE'; allowed"):
        redox_potential(hydroxyl, calculator, "NHE")
    with pytest.raises(ValueError, match="a redox couple needs two charges"):
        redox_potential(hydroxyl, calculator, to_state=(0, 4))
    with pytest.raises(RuntimeError, match="did not converge in 1 steps"):
        redox_potential(hydroxyl, calculator, relaxation=Relaxation(steps=1))
    hydroxyl.pbc = True
    hydroxyl.set_cell(np.eye(3) * 9)
    with pytest.raises(ValueError, match="belongs to a molecule; got pbc"):
        redox_potential(hydroxyl, calculator)
