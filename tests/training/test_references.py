"""References: what least squares must give, with and without full rank."""

import numpy as np
import pytest
from physnet_training.references import fit_references

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
