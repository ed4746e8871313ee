"""Forces and stress against ASE's finite differences, in every kind of state."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.fd import (
    calculate_numerical_forces,
    calculate_numerical_stress,
)
from structures import formaldehyde, thin_cell

from physnet_ase import PhysNetCalculator, untrained_potential
from physnet_ase.config import ModelConfig

TINY = ModelConfig(num_features=8, num_radial=8, num_blocks=1, cutoff=4.0, zbl=True)
STATES = [(charge, mult) for charge in (-1, 0, 1) for mult in (1, 2, 3, 4)]
POTENTIAL = untrained_potential(TINY, states=STATES)


def in_state(atoms, charge, multiplicity):
    """Atoms with that state in float64; a hydrogen atom more if parity needs it."""
    electrons = int(atoms.numbers.sum()) - charge
    if (electrons - multiplicity) % 2 == 0:
        center = atoms.positions.mean(axis=0)
        atoms += Atoms("H", [center + np.array([0.9, -1.1, 1.2])])
    atoms.info.update(charge=charge, spin_multiplicity=multiplicity)
    atoms.calc = PhysNetCalculator(POTENTIAL, dtype="float64")
    return atoms


@pytest.mark.parametrize(("charge", "multiplicity"), STATES)
def test_forces_of_a_molecule(charge, multiplicity):
    atoms = in_state(formaldehyde(), charge, multiplicity)
    numerical = calculate_numerical_forces(atoms, eps=1e-4)
    # Central differences: the error is that of the third derivative, 1e-8 Å² times it.
    np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-6)
    assert np.abs(numerical).max() > 0.1


@pytest.mark.parametrize(("charge", "multiplicity"), STATES)
def test_forces_and_stress_of_a_cell(charge, multiplicity):
    atoms = in_state(thin_cell(4.5), charge, multiplicity)
    forces, stress = atoms.get_forces(), atoms.get_stress()
    numerical = calculate_numerical_forces(atoms, eps=1e-4)
    np.testing.assert_allclose(forces, numerical, atol=1e-6)
    numerical = calculate_numerical_stress(atoms, eps=1e-5)
    np.testing.assert_allclose(stress, numerical, atol=1e-7)
    assert np.abs(numerical).max() > 1e-3


@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 2, 2)])
def test_a_cell_thinner_than_the_cutoff_is_like_its_supercell(repeats):
    cell = thin_cell()
    cell.info.clear()
    cell.numbers[2] = 6  # an even number of electrons, so each copy is a singlet too
    large = cell * repeats
    small, many = (PhysNetCalculator(POTENTIAL, dtype="float64") for _ in "ab")
    copies = int(np.prod(repeats))
    np.testing.assert_allclose(
        many.get_potential_energies(large),
        np.tile(small.get_potential_energies(cell), copies),
        atol=1e-10,
    )
    np.testing.assert_allclose(
        many.get_forces(large), np.tile(small.get_forces(cell), (copies, 1)), atol=1e-10
    )
    np.testing.assert_allclose(
        many.get_stress(large), small.get_stress(cell), atol=1e-10
    )


def test_energy_of_a_crystal_is_extensive():
    carbon = bulk("C", "diamond", a=3.6)
    calculator = PhysNetCalculator(POTENTIAL, dtype="float64")
    one = calculator.get_potential_energy(carbon)
    eight = calculator.get_potential_energy(carbon * (2, 2, 2))
    assert eight == pytest.approx(8 * one, abs=1e-9)
