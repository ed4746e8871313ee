"""The crossing search: its result is checked from outside, its failures explained."""

import functools

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms

from physnet_ase import (
    PhysNetCalculator,
    Potential,
    minimum_energy_crossing_point,
    untrained_potential,
)
from physnet_ase.config import ModelConfig
from physnet_ase.observables import Relaxation

TINY = ModelConfig(num_features=8, num_radial=8, num_blocks=1, cutoff=5.0, zbl=True)
STATES = ((0, 1), (0, 3))


@functools.cache
def shifted_potential():
    """A potential whose singlet and triplet water cross at ``molecule("H2O")``."""
    potential = untrained_potential(TINY, states=STATES, seed=2)
    singlet, triplet = potential.evaluate(
        molecule("H2O"), states=STATES, properties=("energy",), dtype="float64"
    )
    records = list(potential.metadata.states)
    records[1] = records[1].model_copy(
        update={"reference_energy": singlet.energy - triplet.energy}
    )
    metadata = potential.metadata.model_copy(update={"states": records})
    return Potential(metadata, potential.params, "float64")


@pytest.fixture
def calculator():
    return PhysNetCalculator(shifted_potential())


@pytest.fixture
def water():
    atoms = molecule("H2O")
    atoms.rattle(0.1, seed=1)
    return atoms


def test_crossing_point_has_equal_energies_and_no_gradient_along_the_seam(
    calculator, water
):
    result = minimum_energy_crossing_point(water, calculator, *STATES)
    a, b = calculator.potential.evaluate(result.geometries[0], states=STATES)
    assert abs(a.energy - b.energy) < 1e-3
    assert result.value == pytest.approx(0.5 * (a.energy + b.energy), abs=1e-6)
    difference = (a.forces - b.forces).ravel()
    difference /= np.linalg.norm(difference)
    mean = 0.5 * (a.forces + b.forces).ravel()
    along = mean - difference * (mean @ difference)
    assert np.linalg.norm(along.reshape(3, 3), axis=1).max() < 0.01
    # The seam is not where the states have their own minima.
    assert np.abs(mean).max() > 0.1


def test_crossing_point_failures_say_how_far(calculator, water):
    with pytest.raises(RuntimeError, match=r"converge in 1 steps: .* differ by .* eV"):
        minimum_energy_crossing_point(
            water, calculator, (0, 1), (0, 3), Relaxation(steps=1)
        )
    with pytest.raises(ValueError, match="two different states"):
        minimum_energy_crossing_point(water, calculator, (0, 1), (0, 1))
    with pytest.raises(ValueError, match="one atom has no geometry"):
        minimum_energy_crossing_point(Atoms("O"), calculator, (0, 1), (0, 3))


def test_crossing_search_keeps_constraints_and_the_users_atoms(calculator, water):
    before = water.copy()
    water.set_constraint(FixAtoms([0]))
    result = minimum_energy_crossing_point(water, calculator, *STATES)
    assert abs(result.gap) < 1e-3
    assert result.residual_gradient < 0.01
    np.testing.assert_array_equal(result.geometries[0].positions[0], before[0].position)
    np.testing.assert_array_equal(water.positions, before.positions)
    assert [one.info["spin_multiplicity"] for one in result.geometries] == [1, 3]
