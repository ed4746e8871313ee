"""References: what least squares must give, with and without full rank."""

from collections import Counter

import numpy as np
import pytest

from physnet_ase.molecules import Molecules
from physnet_ase.references import ReferenceFit, References, Seen
from physnet_ase.state import ElectronicState

ELEMENTS = np.array([1, 8])


def batch(energies, composition, states):
    """Molecules of these counts of hydrogen and oxygen."""
    numbers = [np.repeat(ELEMENTS, counts) for counts in composition]
    return Molecules(
        np.sum(composition, axis=1).astype(np.int32),
        {
            "atomic_numbers": np.concatenate(numbers),
            "energy": np.asarray(energies),
            "total_charge": np.asarray(states)[:, 0],
            "spin_multiplicity": np.asarray(states)[:, 1],
        },
        np.arange(len(energies)),
    )


def fit_references(energies, composition, states, pieces=1):
    """References, and what they leave over, from molecules in some pieces."""
    whole = batch(energies, composition, states)
    rows = np.array_split(np.arange(len(whole)), pieces)
    counts = Counter(whole.states())
    return References.fit((whole.take(some) for some in rows), ELEMENTS, counts)


def energies_of(references, composition, states):
    """References of these molecules."""
    molecules = batch(np.zeros(len(states)), composition, states)
    values = molecules.values
    return references.of_molecules(
        values["atomic_numbers"], molecules.owner, *np.asarray(states).T
    )


def test_energies_made_from_references_are_fitted_exactly(rng) -> None:
    composition = rng.integers(1, 6, size=(30, 2))
    states = np.array([[0, 1], [1, 2], [0, 3]])[np.arange(30) % 3]
    constants = np.array([0.0, 9.5, 3.25])[np.arange(30) % 3]
    energies = composition @ np.array([-13.6, -2041.0]) + constants
    found, _ = fit_references(energies, composition, states)
    np.testing.assert_allclose(
        energies_of(found, composition, states), energies, atol=1e-8
    )
    assert found.state_energies[ElectronicState(0, 1)] == 0.0
    assert found.state_energies[ElectronicState(1, 2)] == pytest.approx(9.5, abs=1e-7)
    assert found.element_energies[8] == pytest.approx(-2041.0, abs=1e-7)
    assert found.state_counts[ElectronicState(0, 3)] == 10


def test_levels_have_their_own_elements_and_share_the_constants(rng) -> None:
    composition = rng.integers(1, 6, size=(40, 2))
    states = np.array([[0, 1], [1, 2]])[np.arange(40) % 2]
    level = (np.arange(40) >= 25).astype(np.int64)
    states[level == 1] = (0, 1), *[(1, 2)] * 14  # hardly a neutral at the second one
    elements = np.array([[-13.6, -2041.0], [-14.0, -2044.5]])
    energies = (composition * elements[level]).sum(axis=1) + 9.5 * states[:, 0]
    whole = batch(energies, composition, states).with_values(level=level)
    seen = [Seen({1, 8}, Counter(whole.keep(level == i).states())) for i in (0, 1)]
    fit = ReferenceFit(seen, additive=False)
    fit.add(whole)
    for own, found in zip(elements, fit.references(), strict=True):
        assert found.element_energies[1] == pytest.approx(own[0], abs=1e-7)
        assert found.element_energies[8] == pytest.approx(own[1], abs=1e-7)
        assert found.constant(ElectronicState(1, 2)) == pytest.approx(9.5, abs=1e-7)


def test_rank_deficient_composition_takes_the_minimum_norm() -> None:
    # only water: hydrogen and oxygen cannot be told apart
    composition = np.tile([2, 1], (4, 1))
    energies = np.array([-2079.0, -2079.5, -2080.0, -2079.5])
    states = np.tile([0, 1], (4, 1))
    found, _ = fit_references(energies, composition, states)
    mean = energies.mean()
    assert found.element_energies[1] == pytest.approx(mean * 2 / 5)
    assert found.element_energies[8] == pytest.approx(mean * 1 / 5)


def test_molecules_without_energy_count_as_seen_but_do_not_take_part() -> None:
    composition = np.array([[1, 0], [0, 1], [1, 1]])
    energies = np.array([-13.0, -2040.0, np.nan])
    states = np.array([[0, 1], [0, 1], [1, 2]])
    found, _ = fit_references(energies, composition, states)
    assert found.element_energies[1] == pytest.approx(-13.0)
    assert found.state_counts[ElectronicState(1, 2)] == 1
    assert found.state_energies[ElectronicState(1, 2)] == 0.0


def test_no_energy_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no training molecule has an energy"):
        fit_references(np.array([np.nan]), np.array([[1, 1]]), np.array([[0, 1]]))


def test_pieces_give_what_all_rows_together_give(rng) -> None:
    composition = rng.integers(1, 6, size=(200, 2))
    states = np.array([[0, 1], [1, 2], [0, 3]])[rng.integers(0, 3, 200)]
    energies = composition @ np.array([-13.6, -2041.0]) + rng.normal(size=200)
    energies[::7] = np.nan
    whole, _ = fit_references(energies, composition, states)
    found, residual = fit_references(energies, composition, states, pieces=67)
    for name in ("element_energies", "state_energies"):
        mine, other = getattr(found, name), getattr(whole, name)
        assert mine.keys() == other.keys()
        np.testing.assert_allclose([*mine.values()], [*other.values()], atol=1e-9)
    left = energies - energies_of(whole, composition, states)
    per_atom = (left / composition.sum(axis=1))[np.isfinite(left)]
    expected = np.sqrt(np.mean(per_atom**2))
    assert residual == pytest.approx(expected, rel=1e-9)


def test_fit_is_that_of_plain_least_squares(rng) -> None:
    composition = rng.integers(1, 6, size=(50, 2))
    states = np.array([[0, 1], [1, 2]])[np.arange(50) % 2]
    energies = composition @ np.array([-13.6, -2041.0]) + rng.normal(size=50)
    design = np.column_stack([composition, np.arange(50) % 2])
    expected = np.linalg.lstsq(design, energies)[0]
    found, _ = fit_references(energies, composition, states)
    assert found.element_energies[1] == pytest.approx(expected[0], abs=1e-9)
    assert found.element_energies[8] == pytest.approx(expected[1], abs=1e-9)
    assert found.state_energies[ElectronicState(1, 2)] == pytest.approx(expected[2])


def test_the_neutral_singlet_has_no_constant_though_it_was_never_seen() -> None:
    references = References({1: -13.0, 8: -2040.0}, {ElectronicState(0, 2): 0.5})
    assert references.constant(ElectronicState(0, 1)) == 0.0
    assert references.constant(ElectronicState(0, 4)) == 0.5  # nearest in spin
    assert references.constant(ElectronicState(1, 1)) == 0.0  # no such charge seen
    whole = energies_of(references, [[2, 1], [1, 1]], [[0, 2], [0, 1]])
    np.testing.assert_allclose(whole, [-2065.5, -2053.0])
    atoms = references.of_atoms(np.array([8, 1, 1]), ElectronicState(0, 2))
    assert atoms.sum() == pytest.approx(whole[0])
