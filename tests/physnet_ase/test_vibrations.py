"""Vibrations: derivatives, projection, intensities, and what is refused."""

import numpy as np
import pytest
from ase.build import molecule
from structures import central_differences, displaced, formaldehyde

from physnet_ase import untrained_potential
from physnet_ase.config import ModelConfig

TINY = ModelConfig(num_features=8, num_radial=8, num_blocks=1, cutoff=5.0, zbl=True)
POTENTIAL = untrained_potential(TINY, seed=2)


@pytest.mark.parametrize("charge", [0, 1])
def test_dipole_derivatives_of_a_batch_are_those_of_the_dipole(charge):
    carbonyl, water = formaldehyde(), molecule("H2O")
    for atoms in (carbonyl, water):
        atoms.info["charge"] = charge
    together = POTENTIAL.evaluate(
        [carbonyl, water], properties=("dipole_derivatives",), dtype="float64"
    )
    for atoms, result in zip((carbonyl, water), together, strict=True):
        assert result.dipole_derivatives.shape == (3 * len(atoms), 3)
        moved = displaced(atoms, 1e-4)
        rows = POTENTIAL.evaluate(moved, properties=("dipole",), dtype="float64")
        numeric = central_differences([row.dipole for row in rows], 1e-4)
        # central differences err by step²/6 times third derivatives
        np.testing.assert_allclose(result.dipole_derivatives, numeric, atol=1e-6)
        # A translation moves the dipole of an ion by its charge.
        total = result.dipole_derivatives.reshape(-1, 3, 3).sum(axis=0)
        np.testing.assert_allclose(total, charge * np.eye(3), atol=1e-10)


def test_dipole_derivatives_of_a_periodic_cell_are_refused():
    atoms = molecule("H2O", vacuum=3.0, pbc=True)
    with pytest.raises(ValueError, match="no meaning along periodic directions"):
        POTENTIAL.evaluate(atoms, properties=("dipole_derivatives",))
