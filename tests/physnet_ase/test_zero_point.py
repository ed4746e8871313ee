"""Zero-point corrections: what they add, where they are refused."""

import inspect

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from physnet_ase import (
    ElectronicState,
    PhysNetCalculator,
    electron_affinity,
    ionization_energy,
    scan_states,
    singlet_triplet_gap,
    spin_ladder,
    vibrations,
)
from physnet_ase.observables import Relaxation, Vibrations


@pytest.fixture(scope="module")
def calculator():
    return PhysNetCalculator("states-dft-small")


@pytest.fixture
def hydroxyl():
    return Atoms("OH", positions=[[0, 0, 0], [0, 0, 0.97]])


def expected(result, calculator):
    return tuple(
        vibrations(geometry, calculator).value for geometry in result.geometries
    )


@pytest.mark.parametrize(
    ("observable", "sign"), [(ionization_energy, 1), (electron_affinity, -1)]
)
def test_the_correction_is_the_difference_of_two_zero_point_energies(
    calculator, hydroxyl, observable, sign
):
    plain = observable(hydroxyl, calculator, "adiabatic")
    assert plain.zero_point_energies is None
    assert plain.corrected_energies == plain.energies
    result = observable(hydroxyl, calculator, "adiabatic", zero_point=True)
    start, end = result.zero_point_energies
    assert result.zero_point_energies == pytest.approx(expected(result, calculator))
    # ω_e/2 of OH is 1869 cm⁻¹, of OH+ 1557 (Huber & Herzberg 1979).
    assert start == pytest.approx(0.2317, abs=0.01)
    assert result.value == pytest.approx(plain.value + sign * (end - start), abs=1e-6)
    assert result.energies == plain.energies


def test_gaps_and_scans_hold_the_correction(calculator):
    atoms = molecule("CH2_s3B1d")
    gap = singlet_triplet_gap(atoms, calculator, "adiabatic", zero_point=True)
    assert gap.zero_point_energies == pytest.approx(expected(gap, calculator))
    singlet, triplet = gap.corrected_energies
    assert gap.value == pytest.approx(triplet - singlet)
    assert gap.value != pytest.approx(gap.energies[1] - gap.energies[0], abs=1e-3)
    ladder = spin_ladder(atoms, calculator, "adiabatic", zero_point=True)
    assert ladder.ground_state == ElectronicState(0, 3)
    assert ladder.value == pytest.approx(-gap.value, abs=1e-5)
    assert ladder.relative_energies == pytest.approx((-gap.value, 0.0), abs=1e-5)


def test_vertical_energies_have_no_zero_point(calculator, hydroxyl):
    with pytest.raises(ValueError, match="zero_point=True needs kind='adiabatic'"):
        ionization_energy(hydroxyl, calculator, zero_point=True)
    with pytest.raises(ValueError, match="zero_point=True needs kind='adiabatic'"):
        scan_states([hydroxyl], calculator, [(0, 2)], zero_point=True)


def test_a_ridge_is_left_for_the_minimum_below(calculator):
    flat = molecule("NH3")
    flat.positions[:, 2] = 0.0
    ridge = scan_states(flat, calculator, [(0, 1)], "adiabatic")
    result = scan_states(flat, calculator, [(0, 1)], "adiabatic", zero_point=True)
    assert np.ptp(ridge.geometries[0].positions[:, 2]) < 1e-3
    assert np.ptp(result.geometries[0].positions[:, 2]) > 0.2
    assert result.energies[0] < ridge.energies[0] - 0.1
    pyramid = vibrations(molecule("NH3"), calculator, relaxation=Relaxation())
    assert result.zero_point_energies[0] == pytest.approx(pyramid.value, abs=2e-3)
    assert flat.positions[:, 2].any() == 0


@pytest.mark.filterwarnings("ignore::UserWarning")  # how familiar it is
def test_the_flat_ridge_of_a_turning_methyl_group_is_left():
    atoms = molecule("H3CNH2")
    atoms.set_initial_magnetic_moments(None)
    organic = PhysNetCalculator("states-organic")
    result = scan_states(atoms, organic, [(0, 1)], "adiabatic", zero_point=True)
    # 1.73 eV from the fundamentals (Shimanouchi 1972), of which those of the model
    # may be wrong by some percent.
    assert result.zero_point_energies[0] == pytest.approx(1.73, abs=0.15)


def test_a_ridge_that_cannot_be_left_is_an_error(calculator, monkeypatch):
    flat = molecule("NH3")
    flat.positions[:, 2] = 0.0
    # Whoever moves along the mode by nothing arrives nowhere.
    stay = Vibrations.displaced
    monkeypatch.setattr(
        Vibrations, "displaced", lambda self, mode: stay(self, mode, amplitude=0.0)
    )
    with pytest.raises(RuntimeError, match=r"no minimum, 1 imaginary mode at \d+i cm"):
        scan_states(flat, calculator, [(0, 1)], "adiabatic", zero_point=True)


def test_the_option_must_be_named():
    for observable in (ionization_energy, electron_affinity, scan_states, spin_ladder):
        parameter = inspect.signature(observable).parameters["zero_point"]
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default is False


def test_lists_hold_a_correction_each(calculator, hydroxyl):
    results = ionization_energy(
        [hydroxyl, molecule("O")],
        calculator,
        "adiabatic",
        relaxation=Relaxation(fmax=0.005),
        zero_point=True,
    )
    assert results[0].zero_point_energies[0] > 0.2
    assert results[1].zero_point_energies == (0.0, 0.0)
