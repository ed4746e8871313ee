"""Many structures relaxed together: minima, order, constraints, what fails."""

import numpy as np
import pytest
from ase.build import molecule
from ase.constraints import FixAtoms

from physnet_ase import (
    PhysNetCalculator,
    ionization_energy,
    minimization,
    simulate,
    untrained_potential,
)
from physnet_ase.config import ModelConfig
from physnet_ase.observables import Relaxation

TINY = ModelConfig(num_features=8, num_radial=8, num_blocks=1, cutoff=5.0, zbl=True)
STATES = ((0, 1), (1, 2), (-1, 2), (0, 3), (1, 4), (0, 2), (1, 1), (1, 3), (-1, 1))
POTENTIAL = untrained_potential(TINY, states=STATES, seed=2)
FMAX = 0.05


def shaken(name, seed, size=0.05):
    atoms, rng = molecule(name), np.random.default_rng(seed)
    atoms.positions += rng.normal(scale=size, size=(len(atoms), 3))
    return atoms


def test_structures_in_states_end_in_their_minima(monkeypatch):
    """Also where lots are small, so that some wait for a place."""
    monkeypatch.setattr(minimization, "LOT_ATOMS", 8)
    held = shaken("H2O", 3)
    held.set_constraint(FixAtoms([0]))
    several = [shaken("H2O", 1), shaken("NH3", 2), held, shaken("H2O", 4)]
    several[0].info["tag"] = "mine"
    before = [one.copy() for one in several]
    told = []
    found = simulate.relax(
        several,
        POTENTIAL,
        [(0, 1), (1, 2)],
        fmax=FMAX,
        on_progress=lambda *done: told.append(done),
    )
    assert told[-1] == (8, 8)
    for atoms, old, row in zip(several, before, found, strict=True):
        assert atoms == old
        for one, state in zip(row, ((0, 1), (1, 2)), strict=True):
            assert (one.state.charge, one.state.multiplicity) == state
            assert one.largest_force < FMAX
            assert one.problem is None
            [checked] = POTENTIAL.evaluate(one.atoms, states=[state])
            assert checked.energy == pytest.approx(one.energy, abs=1e-5)
            free = [i for i in range(len(atoms)) if i or atoms is not held]
            assert np.linalg.norm(checked.forces[free], axis=1).max() < FMAX
    np.testing.assert_array_equal(found[2][0].atoms.positions[0], held.positions[0])
    assert found[0][1].atoms.info["tag"] == "mine"


def test_observables_of_a_list_relax_together():
    calculator = PhysNetCalculator(POTENTIAL)
    options = {"to_state": (1, 2), "relaxation": Relaxation(fmax=0.1 * FMAX)}
    several = [shaken("H2O", 1), shaken("H2O", 4)]
    together = ionization_energy(several, calculator, "adiabatic", **options)
    for atoms, one in zip(several, together, strict=True):
        alone = ionization_energy(atoms, calculator, "adiabatic", **options)
        assert one.value == pytest.approx(alone.value, abs=2e-3)
        assert one.geometries[1].info["charge"] == 1
        assert one.geometries[1].calc is None


def test_those_that_fail_are_named_and_the_others_kept():
    done = simulate.relax(shaken("H2O", 1), POTENTIAL, fmax=FMAX).atoms
    with pytest.raises(
        simulate.RelaxationError,
        match=r"1 of 2 relaxations failed: structure 1 \(H2O in charge 0.*\) did not "
        r"converge in 1 steps: largest force .* eV/Å, asked 0.05",
    ) as caught:
        simulate.relax([done, shaken("H2O", 4)], POTENTIAL, fmax=FMAX, steps=1)
    assert [one.problem is None for one in caught.value.results] == [True, False]
    close = molecule("H2O")
    close.positions[1] = close.positions[0] + 0.01
    with pytest.raises(ValueError, match="structure 1: atoms 0 and 1 are only"):
        simulate.relax([done, close], POTENTIAL)
    with pytest.raises(ValueError, match="fmax must be positive"):
        simulate.relax(done, POTENTIAL, fmax=0.0)


def test_lists_of_cells_follow_their_atoms():
    box = shaken("NH3", 5, size=0.2)
    box.cell, box.pbc = [4.5, 4.5, 4.5], True
    found = simulate.relax(box, POTENTIAL, fmax=FMAX)
    checked = POTENTIAL.evaluate(found.atoms)
    assert checked.energy == pytest.approx(found.energy, abs=1e-5)
    assert np.linalg.norm(checked.forces, axis=1).max() < FMAX
    assert found.atoms.pbc.all()
