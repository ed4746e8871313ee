"""References: what least squares must give, with and without full rank."""

import numpy as np
import pytest
from physnet_training.references import ReferenceFit, fit_references

from physnet_ase.state import ElectronicState

ELEMENTS = np.array([1, 8])


def test_energies_made_from_references_are_fitted_exactly(rng) -> None:
    composition = rng.integers(1, 6, size=(30, 2))
    states = np.array([[0, 1], [1, 2], [0, 3]])[np.arange(30) % 3]
    constants = np.array([0.0, 9.5, 3.25])[np.arange(30) % 3]
    energies = composition @ np.array([-13.6, -2041.0]) + constants
    found = fit_references(energies, composition, ELEMENTS, states)
    np.testing.assert_allclose(
        found.energies(composition, ELEMENTS, states), energies, atol=1e-8
    )
    assert found.state_energies[ElectronicState(0, 1)] == 0.0
    assert found.state_energies[ElectronicState(1, 2)] == pytest.approx(9.5, abs=1e-7)
    assert found.element_energies[8] == pytest.approx(-2041.0, abs=1e-7)
    assert found.state_counts[ElectronicState(0, 3)] == 10


def test_rank_deficient_composition_takes_the_minimum_norm() -> None:
    # only water: hydrogen and oxygen cannot be told apart
    composition = np.tile([2, 1], (4, 1))
    energies = np.array([-2079.0, -2079.5, -2080.0, -2079.5])
    states = np.tile([0, 1], (4, 1))
    found = fit_references(energies, composition, ELEMENTS, states)
    mean = energies.mean()
    assert found.element_energies[1] == pytest.approx(mean * 2 / 5)
    assert found.element_energies[8] == pytest.approx(mean * 1 / 5)


def test_molecules_without_energy_count_as_seen_but_do_not_take_part() -> None:
    composition = np.array([[1, 0], [0, 1], [1, 1]])
    energies = np.array([-13.0, -2040.0, np.nan])
    states = np.array([[0, 1], [0, 1], [1, 2]])
    found = fit_references(energies, composition, ELEMENTS, states)
    assert found.element_energies[1] == pytest.approx(-13.0)
    assert found.state_counts[ElectronicState(1, 2)] == 1
    assert found.state_energies[ElectronicState(1, 2)] == 0.0


def test_no_energy_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no training molecule has an energy"):
        fit_references(
            np.array([np.nan]), np.array([[1, 1]]), ELEMENTS, np.array([[0, 1]])
        )


def test_pieces_give_what_all_rows_together_give(rng) -> None:
    composition = rng.integers(1, 6, size=(200, 2))
    states = np.array([[0, 1], [1, 2], [0, 3]])[rng.integers(0, 3, 200)]
    energies = composition @ np.array([-13.6, -2041.0]) + rng.normal(size=200)
    energies[::7] = np.nan
    whole = fit_references(energies, composition, ELEMENTS, states)
    fit = ReferenceFit(ELEMENTS, whole.state_counts)
    for start in range(0, 200, 3):
        some = slice(start, start + 3)
        fit.add(energies[some], composition[some], states[some])
    found = fit.references()
    for name in ("element_energies", "state_energies"):
        mine, other = getattr(found, name), getattr(whole, name)
        assert mine.keys() == other.keys()
        np.testing.assert_allclose([*mine.values()], [*other.values()], atol=1e-9)
    left = energies - whole.energies(composition, ELEMENTS, states)
    per_atom = (left / composition.sum(axis=1))[np.isfinite(left)]
    expected = np.sqrt(np.mean(per_atom**2))
    assert fit.residual_per_atom() == pytest.approx(expected, rel=1e-9)


def test_fit_is_that_of_plain_least_squares(rng) -> None:
    composition = rng.integers(1, 6, size=(50, 2))
    states = np.array([[0, 1], [1, 2]])[np.arange(50) % 2]
    energies = composition @ np.array([-13.6, -2041.0]) + rng.normal(size=50)
    design = np.column_stack([composition, np.arange(50) % 2])
    expected = np.linalg.lstsq(design, energies)[0]
    found = fit_references(energies, composition, ELEMENTS, states)
    assert found.element_energies[1] == pytest.approx(expected[0], abs=1e-9)
    assert found.element_energies[8] == pytest.approx(expected[1], abs=1e-9)
    assert found.state_energies[ElectronicState(1, 2)] == pytest.approx(expected[2])
