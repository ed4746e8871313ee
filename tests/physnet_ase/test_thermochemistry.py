"""Thermochemistry: textbook values, conditions, symmetry, what it refuses."""

import numpy as np
import pytest
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.thermochemistry import HarmonicThermo, IdealGasThermo

from physnet_ase import PhysNetCalculator, thermochemistry, vibrations
from physnet_ase.observables import Relaxation, thermochemistry_of
from physnet_ase.units import BOLTZMANN

JOULE_PER_MOL = 1.0364269656e-5
"""In eV."""


@pytest.fixture(scope="module")
def calculator():
    return PhysNetCalculator("states-dft-small")


@pytest.fixture(scope="module")
def water(calculator):
    return vibrations(molecule("H2O"), calculator, relaxation=Relaxation())


@pytest.mark.parametrize(
    ("name", "symmetry_number", "shape", "entropy"),
    # Standard entropies at 298.15 K and 1 bar in J/(mol K), NIST-JANAF tables.
    [("H2O", 2, "nonlinear", 188.8), ("CO", 1, "linear", 197.7)],
)
def test_entropies_of_small_molecules_are_those_of_the_tables(
    calculator, name, symmetry_number, shape, entropy
):
    result = thermochemistry(
        molecule(name),
        calculator,
        symmetry_number=symmetry_number,
        relaxation=Relaxation(),
    )
    assert result.vibrations.shape == shape
    # These molecules are stiff: what counts are masses, bond lengths and σ.
    assert result.entropy / JOULE_PER_MOL == pytest.approx(entropy, abs=0.3)
    assert result.value == pytest.approx(result.enthalpy - 298.15 * result.entropy)
    assert result.gibbs_energy == result.value
    assert result.zero_point_energies == (result.vibrations.value,)
    assert isinstance(result.thermo, IdealGasThermo)
    assert result.thermo.get_gibbs_energy(298.15, 1e5, verbose=False) == result.value


def test_an_atom_is_sackur_and_tetrode_and_its_spin(calculator):
    atom = molecule("O")  # a triplet
    result = thermochemistry(atom, calculator, temperature=300.0)
    mass, kt = 15.999 * 1.66053907e-27, 1.380649e-23 * 300.0
    wavelength = 6.62607015e-34 / np.sqrt(2 * np.pi * mass * kt)
    translation = np.log(kt / 1e5 / wavelength**3) + 2.5
    expected = BOLTZMANN * (translation + np.log(3))
    assert result.entropy == pytest.approx(expected, rel=1e-5)
    thermal = 2.5 * BOLTZMANN * 300.0
    assert result.enthalpy == pytest.approx(result.energies[0] + thermal, abs=1e-6)
    assert result.states[0].multiplicity == 3


def test_temperature_pressure_and_symmetry_enter_as_they_must(water):
    plain = thermochemistry_of(water)
    assert (plain.temperature, plain.pressure) == (298.15, 1e5)
    denser = thermochemistry_of(water, pressure=2e5)
    assert denser.enthalpy == plain.enthalpy
    change = denser.entropy - plain.entropy
    assert change == pytest.approx(-BOLTZMANN * np.log(2), rel=1e-5)
    twofold = thermochemistry_of(water, symmetry_number=2)
    assert twofold.entropy - plain.entropy == pytest.approx(change, rel=1e-9)
    # At 1 K only the translation and the rotation are warm: 4 kT.
    cold = thermochemistry_of(water, temperature=1.0)
    floor = water.energies[0] + water.value
    assert cold.enthalpy == pytest.approx(floor + 4.0 * BOLTZMANN, abs=1e-9)
    # dG/dT = −S
    warm = thermochemistry_of(water, temperature=298.25)
    cool = thermochemistry_of(water, temperature=298.05)
    slope = (warm.value - cool.value) / 0.2
    assert slope == pytest.approx(-plain.entropy, rel=1e-5)


def test_a_list_with_a_symmetry_number_each(calculator, water):
    two = [water.geometries[0], molecule("O")]
    results = thermochemistry(two, calculator, symmetry_number=[2, 1])
    assert [one.symmetry_number for one in results] == [2, 1]
    single = thermochemistry(two[0], calculator, symmetry_number=2)
    assert results[0].value == pytest.approx(single.value, abs=1e-5)
    with pytest.raises(ValueError, match=r"one per molecule; got \[1, 1, 1\] for 2"):
        thermochemistry(two, calculator, symmetry_number=[1, 1, 1])


def test_what_is_partly_fixed_is_harmonic(calculator):
    free = vibrations(molecule("NH3"), calculator, relaxation=Relaxation())
    atoms = free.geometries[0].copy()
    atoms.set_constraint(FixAtoms([0, 1, 2]))
    held = vibrations(atoms, calculator)
    assert held.shape == "fixed"
    result = thermochemistry_of(held)
    assert isinstance(result.thermo, HarmonicThermo)
    assert len(result.thermo.vib_energies) == 3
    internal = result.thermo.get_internal_energy(298.15, verbose=False)
    assert result.enthalpy == internal
    assert result.entropy == result.thermo.get_entropy(298.15, verbose=False)
    assert result.value == pytest.approx(internal - 298.15 * result.entropy)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, r"temperature must be positive \(K\), got 0.0"),
        ({"pressure": -1.0}, r"pressure must be positive \(Pa\), got -1.0"),
        ({"symmetry_number": 0}, "symmetry_number must be at least 1, got 0"),
    ],
)
def test_impossible_conditions_are_refused(water, calculator, settings, message):
    with pytest.raises(ValueError, match=message):
        thermochemistry_of(water, **settings)
    with pytest.raises(ValueError, match=message):
        thermochemistry(molecule("O"), calculator, **settings)


def test_a_saddle_point_has_no_thermochemistry(calculator):
    flat = molecule("NH3")
    flat.positions[:, 2] = 0.0
    saddle = vibrations(flat, calculator, relaxation=Relaxation(fmax=0.02))
    assert int(saddle.imaginary.sum()) == 1
    with pytest.raises(RuntimeError, match="H3N in charge 0.*no minimum, 1 imaginary"):
        thermochemistry_of(saddle)
    # Following the mode leads to the pyramid.
    pyramid = vibrations(saddle.displaced(0), calculator, relaxation=Relaxation())
    pyramid.check_minimum()
    assert pyramid.energies[0] < saddle.energies[0] - 0.1
