"""Local shares of charge and spin: what far fragments do to each other."""

from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from flax.traverse_util import flatten_dict, unflatten_dict

from physnet_ase import Potential, untrained_potential
from physnet_ase.config import ModelConfig
from physnet_ase.evaluation import Batch
from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import evaluation_pairs
from physnet_ase.state import as_state

CONFIG = ModelConfig(
    num_features=12,
    num_radial=8,
    num_blocks=2,
    num_residual_atomic=1,
    num_residual_interaction=1,
    cutoff=5.0,
    conditioning="local",
    vector_features=True,
    spin_populations=True,
)
STATES = ((0, 1), (1, 2), (-1, 2), (0, 3))
WANTED = ("energy", "charges", "spin_populations")


def as_one(potential, atoms, state):
    """What the network says of all atoms in one state, however far apart they are."""
    molecules = Molecules.from_atoms([atoms], [as_state(state)])
    batch = Batch(molecules, evaluation_pairs(molecules, potential.config.cutoff))
    [values] = batch.values(potential.programs, potential.references, WANTED)
    return SimpleNamespace(**values)


def apart(one, two, distance=1e5):
    """Both molecules, so far apart that multipoles do not matter."""
    moved = two.copy()
    moved.positions += [distance, 0.0, 0.0]
    both = Atoms(one + moved)
    both.set_initial_magnetic_moments(None)
    return both


@pytest.fixture(scope="module")
def potential():
    return untrained_potential(CONFIG, states=STATES, seed=2).astype("float64")


@pytest.fixture(scope="module")
def decided(potential):
    """The same model with scores so far apart that one fragment takes everything."""
    flat = flatten_dict(potential.params)
    sharp = {key: 1e4 * leaf if "scores" in key else leaf for key, leaf in flat.items()}
    assert any((sharp[key] != flat[key]).any() for key in flat)
    return Potential(potential.metadata, unflatten_dict(sharp), "float64")


def test_neutral_singlets_add_up_whatever_they_are(potential):
    water, ammonia = molecule("H2O"), molecule("NH3")
    one, two = (potential.evaluate(m, [(0, 1)], WANTED)[0] for m in (water, ammonia))
    both = as_one(potential, apart(water, ammonia), (0, 1))
    # positions of 1e5 Å are good to 1e-11 Å
    assert both.energy == pytest.approx(one.energy + two.energy, abs=1e-8)
    np.testing.assert_allclose(both.charges[:3], one.charges, atol=1e-9)
    np.testing.assert_allclose(both.charges[3:], two.charges, atol=1e-9)
    assert not both.spin_populations.any()
    assert np.abs(one.charges).max() > 1e-3


@pytest.mark.parametrize("state", STATES[1:])
def test_two_equal_fragments_carry_a_half_each(potential, state):
    both = as_one(potential, apart(molecule("CO"), molecule("CO")), state)
    assert both.charges[:2].sum() == pytest.approx(state[0] / 2, abs=1e-8)
    assert both.spin_populations[:2].sum() == pytest.approx(
        (state[1] - 1) / 2, abs=1e-8
    )


@pytest.mark.parametrize("state", STATES[1:])
def test_the_excess_can_sit_on_one_fragment_and_leave_the_other_alone(decided, state):
    water, ammonia = molecule("H2O"), molecule("NH3")
    rows = decided.evaluate([water, ammonia], [(0, 1), state], WANTED)
    both = as_one(decided, apart(water, ammonia), state)
    charge, spin = both.charges[:3].sum(), both.spin_populations[:3].sum()
    shares = [round(charge / state[0])] if state[0] else []
    shares += [round(spin / (state[1] - 1))]
    assert len(set(shares)) <= 2
    if len(set(shares)) == 1:  # charge and spin on the same fragment
        on_water = bool(shares[0])
        expected = rows[0][on_water].energy + rows[1][not on_water].energy
        assert both.energy == pytest.approx(expected, abs=1e-4)
        lone = rows[1][0] if on_water else rows[0][0]
        spectator = both.charges[3:] if on_water else both.charges[:3]
        np.testing.assert_allclose(spectator, lone.charges, atol=1e-6)
    assert charge == pytest.approx(round(charge), abs=1e-6)
    assert spin == pytest.approx(round(spin), abs=1e-6)


def rotamer(angle):
    """Hydrogen peroxide with this torsion, bonds and bond angles alike."""
    atoms = Atoms("O2H2", [[0, 0, 0], [0, 0, 1.46], [0.95, 0, -0.2], [0.95, 0, 1.66]])
    atoms.set_dihedral(2, 0, 1, 3, angle, indices=[3])
    return atoms


def test_vectors_tell_a_torsion_when_the_hydrogens_do_not_see_each_other():
    # H–O–O–H: with a cutoff between the longest bond path and the closest H···H only
    # what passes through the oxygens can know the angle between the two planes.
    sizes = {"num_features": 8, "num_radial": 8, "num_blocks": 3, "cutoff": 2.3}
    energies = {}
    for vectors in (False, True):
        config = ModelConfig(electrostatics=False, vector_features=vectors, **sizes)
        model = untrained_potential(config, elements=(1, 8)).astype("float64")
        atoms = [rotamer(a) for a in (100.0, 180.0)]
        assert min(a.get_distance(2, 3) for a in atoms) > config.cutoff
        energies[vectors] = [r.energy for r in model.evaluate(atoms)]
    assert np.ptp(energies[False]) < 1e-12
    assert np.ptp(energies[True]) > 1e-6
