"""Vibrations: derivatives, projection, intensities, and what is refused."""

import numpy as np
import pytest
from ase.build import molecule
from ase.constraints import FixAtoms, FixBondLength
from ase.vibrations import Infrared
from structures import central_differences, displaced, formaldehyde

from physnet_ase import PhysNetCalculator, untrained_potential, vibrations
from physnet_ase.config import ModelConfig
from physnet_ase.observables import Relaxation
from physnet_ase.observables.relaxation import relax
from physnet_ase.state import ElectronicState

TINY = ModelConfig(num_features=8, num_radial=8, num_blocks=1, cutoff=5.0, zbl=True)
POTENTIAL = untrained_potential(TINY, seed=2).astype("float64")
TIGHT = Relaxation(fmax=1e-5)


@pytest.fixture
def calculator():
    return PhysNetCalculator(POTENTIAL)


@pytest.fixture(scope="module")
def trained():
    """A potential with minima where molecules have them."""
    return PhysNetCalculator("states-dft-small", dtype="float64")


def relaxed(name, calculator):
    return relax(molecule(name), ElectronicState(), calculator, TIGHT)[0]


@pytest.mark.parametrize("charge", [0, 1])
def test_dipole_derivatives_of_a_batch_are_those_of_the_dipole(charge):
    carbonyl, water = formaldehyde(), molecule("H2O")
    for atoms in (carbonyl, water):
        atoms.info["charge"] = charge
    together = POTENTIAL.evaluate([carbonyl, water], properties=("dipole_derivatives",))
    for atoms, result in zip((carbonyl, water), together, strict=True):
        assert result.dipole_derivatives.shape == (3 * len(atoms), 3)
        rows = POTENTIAL.evaluate(displaced(atoms, 1e-4), properties=("dipole",))
        numeric = central_differences([row.dipole for row in rows], 1e-4)
        # central differences err by step²/6 times third derivatives
        np.testing.assert_allclose(result.dipole_derivatives, numeric, atol=1e-6)
        # A translation moves the dipole of an ion by its charge.
        total = result.dipole_derivatives.reshape(-1, 3, 3).sum(axis=0)
        np.testing.assert_allclose(total, charge * np.eye(3), atol=1e-10)


def test_dipole_derivatives_of_a_periodic_cell_are_refused():
    atoms = molecule("H2O", vacuum=1.0, pbc=True)
    with pytest.raises(ValueError, match="no meaning along periodic directions"):
        POTENTIAL.evaluate(atoms, properties=("dipole_derivatives",))


@pytest.mark.parametrize("masses", [None, [15.999, 2.014, 1.008]], ids=["H2O", "HDO"])
def test_frequencies_and_intensities_are_those_of_ases_finite_differences(
    trained, masses, tmp_path
):
    atoms = relaxed("H2O", trained)
    atoms.set_masses(masses)
    result = vibrations(atoms, trained, fmax=1e-4)
    atoms.calc = trained
    infrared = Infrared(atoms, name=tmp_path / "ir", delta=1e-3)
    infrared.run()
    frequencies = infrared.get_frequencies()
    # Differences over ±1e-3 Å err by some 1e-5 of the curvature.
    np.testing.assert_allclose(result.frequencies, frequencies[-3:], rtol=1e-3)
    expected = 42.255 * infrared.intensities[-3:]
    np.testing.assert_allclose(result.intensities, expected, rtol=2e-3, atol=1e-3)
    zero_point = 0.5 * infrared.get_energies()[-3:].real.sum()
    assert result.value == pytest.approx(zero_point, rel=1e-3)
    # Without projection ASE's list begins with the rigid motions; the rest is ours.
    whole = result.to_ase().get_frequencies()
    np.testing.assert_allclose(whole[-3:], result.frequencies, rtol=1e-4)


def test_a_diatomic_is_the_textbook_oscillator(trained):
    atoms = relaxed("CO", trained)
    result = vibrations(atoms, trained)
    assert result.shape == "linear"
    first, second = atoms.get_masses()
    reduced = first * second / (first + second)
    bond = atoms.get_distance(0, 1)
    energies = []
    for step in (-1e-3, 0.0, 1e-3):
        atoms.set_distance(0, 1, bond + step)
        energies.append(trained.get_potential_energy(atoms))
    curvature = (energies[0] - 2 * energies[1] + energies[2]) / 1e-6
    # ω in cm⁻¹ from k in eV/Å² and μ in amu
    expected = 521.4709 * np.sqrt(curvature / reduced)
    np.testing.assert_allclose(result.frequencies.real, [expected], rtol=1e-4)
    # Normalised to unit length over both atoms: μ Σ m / (m_1 m_2) of it is the usual μ.
    share = (second**2 + first**2) / (first + second) ** 2
    np.testing.assert_allclose(result.reduced_masses, reduced / share, rtol=1e-4)
    assert result.value == pytest.approx(0.5 * expected * 1.239842e-4, rel=1e-4)


def test_modes_move_neither_the_centre_nor_the_angles_of_the_molecule(calculator):
    # Away from the minimum rotations mix with vibrations unless they are projected out.
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=4)
    result = vibrations(atoms, calculator, fmax=None)
    assert result.modes.shape == (3, 3, 3)
    momenta = result.modes * atoms.get_masses()[:, None]
    arms = atoms.positions - atoms.get_center_of_mass()
    np.testing.assert_allclose(momenta.sum(axis=1), 0.0, atol=1e-10)
    np.testing.assert_allclose(np.cross(arms, momenta).sum(axis=1), 0.0, atol=1e-10)
    lengths = np.linalg.norm(result.modes.reshape(3, -1), axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-12)
    assert not np.any(result.frequencies.real * result.frequencies.imag)


def test_a_geometry_with_forces_is_refused_unless_asked_or_relaxed(trained):
    water = molecule("H2O")
    before = water.copy()
    with pytest.raises(ValueError, match=r"above fmax=0.05; .* relax first"):
        vibrations(water, trained)
    after = vibrations(water, trained, relaxation=Relaxation(fmax=1e-3))
    [found] = trained.potential.evaluate(after.geometries[0], states=[(0, 1)])
    assert np.linalg.norm(found.forces, axis=1).max() < 1e-3
    assert after.energies[0] == pytest.approx(found.energy, abs=1e-8)
    assert water == before
    with pytest.raises(RuntimeError, match="did not converge in 1 steps"):
        vibrations(water, trained, relaxation=Relaxation(steps=1))


def test_lists_states_and_single_atoms(calculator):
    names = ("O", "H2O")
    results = vibrations([molecule(name) for name in names], calculator, fmax=None)
    assert [result.shape for result in results] == ["monatomic", "nonlinear"]
    assert results[0].value == 0.0
    assert results[0].frequencies.shape == results[0].intensities.shape == (0,)
    cation = vibrations(molecule("H2O"), calculator, (1, 2), fmax=None)
    assert cation.states == (ElectronicState(1, 2),)
    assert np.abs(cation.frequencies - results[1].frequencies).max() > 1.0


def test_imaginary_modes_are_marked_and_can_be_followed(calculator):
    atoms = molecule("H2O")
    atoms.positions *= 1.6  # beyond the inflexion of the bonds
    result = vibrations(atoms, calculator, fmax=None)
    unstable = result.frequencies[result.imaginary]
    assert len(unstable) > 0
    np.testing.assert_array_equal(unstable, 1j * unstable.imag)
    assert result.value == pytest.approx(0.5 * result.quanta.real.sum())
    with pytest.raises(RuntimeError, match=r"no minimum, . imaginary mode.* \d+i cm"):
        result.check_minimum()
    moved = result.displaced(0, 0.05)
    assert np.linalg.norm(moved.positions - atoms.positions) == pytest.approx(0.05)
    downhill = calculator.get_potential_energy(moved)
    slope = np.sum(calculator.get_forces(atoms) * result.modes[0])
    # E(s) = E(0) − F s + ½ k s² with k < 0
    assert downhill < result.energies[0] - 0.05 * slope


def test_fixed_atoms_stay_and_nothing_is_projected_out(trained):
    atoms = relaxed("H2O", trained)
    atoms.set_constraint(FixAtoms([0]))
    result = vibrations(atoms, trained)
    assert result.shape == "fixed"
    assert result.modes.shape == (6, 3, 3)
    np.testing.assert_array_equal(result.modes[:, 0], 0.0)
    assert result.intensities.shape == (6,)
    whole = result.to_ase().get_frequencies()
    # Zero modes are the square roots of noise.
    np.testing.assert_allclose(whole[3:], result.frequencies[3:], rtol=1e-5)
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(ValueError, match="know FixAtoms only, got FixBondLength"):
        vibrations(atoms, trained)
    atoms.set_constraint(FixAtoms([0, 1, 2]))
    with pytest.raises(ValueError, match="all atoms are fixed"):
        vibrations(atoms, trained)


def test_a_crystal_has_gamma_modes_and_no_intensities(calculator):
    atoms = molecule("H2O", vacuum=2.5, pbc=True)
    result = vibrations(atoms, calculator, fmax=None)
    assert result.shape == "periodic"
    assert result.frequencies.shape == (6,)
    assert result.intensities is None


def test_masses_must_be_positive(calculator):
    atoms = molecule("H2O")
    atoms.set_masses([16.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="atom 1 has the mass 0.0 amu"):
        vibrations(atoms, calculator)
