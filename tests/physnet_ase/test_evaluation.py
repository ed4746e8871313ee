"""``Potential.evaluate``: order, states, refusals, and what it compiles."""

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from structures import formaldehyde, thin_cell

from physnet_ase import ElectronicState
from physnet_ase.config import ModelConfig
from physnet_ase.potential import Potential
from physnet_ase.untrained import untrained_potential

TINY = ModelConfig(num_features=8, num_radial=4, num_blocks=1, cutoff=3.0)
STATES = [(0, 1), (1, 2), (-1, 2), (0, 3)]


@pytest.fixture(scope="module")
def potential():
    return untrained_potential(TINY, (1, 6, 8), (*STATES, (1, 1)))


def test_evaluate_names_the_structure_that_it_refuses(potential):
    water, sulphide = molecule("H2O"), molecule("SH2")
    with pytest.raises(ValueError, match="^structure 1: atom 0 is S"):
        potential.evaluate([water, sulphide])
    with pytest.raises(ValueError, match="^atom 0 is S"):
        potential.evaluate(sulphide)
    with pytest.raises(ValueError, match="^structure 1: atoms 0 and 1 are only 0 Å"):
        potential.evaluate([water, Atoms("H2")])
    with pytest.raises(ValueError, match="^structure 0: multiplicity 1"):
        potential.evaluate([water], [(0, 1), (1, 1)])
    water.info["charge"] = 0.5
    with pytest.raises(ValueError, match=r"^structure 1: H2O: atoms.info\['charge'\]"):
        potential.evaluate([molecule("H2O"), water])


@pytest.mark.parametrize("states", [[], (0, 1), ElectronicState(0, 1), [(0, 1, 2)]])
def test_states_that_are_no_list_of_states_are_refused(potential, states):
    with pytest.raises(ValueError, match="states must be a non-empty list of states"):
        potential.evaluate(molecule("H2O"), states)


@pytest.mark.parametrize(
    ("atoms", "properties", "words"),
    [
        (molecule("H2O"), ("energy", "force"), r"some of \('energy'.*'force'"),
        (molecule("H2O"), "energy", "properties must be some of"),
        (molecule("H2O"), (), "properties must be some of"),
        (molecule("H2O"), ("stress",), r"three periodic.*0 has pbc=\[False, False"),
        (thin_cell(), ("dipole",), r"no meaning along periodic.*pbc=\[True, True"),
        (molecule("H2O"), ("spin_populations",), "not trained on spin populations"),
    ],
)
def test_properties_that_do_not_exist_are_refused(potential, atoms, properties, words):
    with pytest.raises(ValueError, match=words):
        potential.evaluate(atoms, None, properties)


def test_result_says_how_to_get_what_was_not_asked_for(potential):
    result = potential.evaluate(molecule("H2O"), properties=("energy",))
    assert result.state == ElectronicState(0, 1)
    assert repr(result) == "Result(charge 0, multiplicity 1: energy)"
    with pytest.raises(AttributeError, match=r"forces was not computed; ask for it"):
        _ = result.forces
    with pytest.raises(AttributeError, match="^colour$"):
        _ = result.colour


def test_structures_states_and_order(potential):
    several = [formaldehyde(charge=-1), molecule("H2O"), Atoms("O"), molecule("H2O")]
    several[3].info["spin"] = 3
    own = potential.evaluate(several)
    expected = [(-1, 2), (0, 1), (0, 3), (0, 3)]  # the free atom by Hund's rules
    assert [r.state for r in own] == [ElectronicState(*s) for s in expected]
    assert [len(r.forces) for r in own] == [4, 3, 1, 3]
    table = potential.evaluate(several[:2], STATES)
    assert [[r.state for r in row] for row in table] == [
        [ElectronicState(*s) for s in STATES]
    ] * 2
    assert table[0][2].energy == pytest.approx(own[0].energy, abs=1e-4)
    assert table[1][3].energy == pytest.approx(own[3].energy, abs=1e-4)
    row = potential.evaluate(several[1], STATES)
    assert row[3].energy == pytest.approx(own[3].energy, abs=1e-4)
    assert potential.evaluate([]) == []
    assert len(potential.evaluate([several[1]])) == 1


def test_results_are_numpy_in_double_precision(potential):
    wanted = ("energy", "energies", "forces", "charges", "dipole", "features")
    atoms = molecule("H2O")
    result = potential.evaluate(atoms, properties=wanted)
    assert type(result.energy) is float
    for name in wanted[1:]:
        array = getattr(result, name)
        assert type(array) is np.ndarray
        assert array.dtype == np.float64
    assert result.features.shape == (3, 8)
    np.testing.assert_allclose(
        result.dipole,
        (result.charges[:, None] * atoms.positions).sum(axis=0),
        atol=1e-12,
    )
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(potential.params))


def test_dipole_of_an_ion_moves_with_the_origin(potential):
    atoms = molecule("H2O")
    here = potential.evaluate(atoms, [(-1, 2)], ("dipole",))[0].dipole
    atoms.positions += [2.0, 0.0, 0.0]
    there = potential.evaluate(atoms, [(-1, 2)], ("dipole",))[0].dipole
    np.testing.assert_allclose(there - here, [-2.0, 0.0, 0.0], atol=1e-5)


def test_energy_alone_runs_no_backward_program(potential):
    fresh = Potential(potential.metadata, potential.params)
    fresh.evaluate(molecule("H2O"), STATES, ("energy", "charges", "dipole"))
    assert {kind for kind, *_ in fresh.programs._compiled} == {"terms"}
    fresh.evaluate(molecule("H2O"))
    assert {kind for kind, *_ in fresh.programs._compiled} == {"terms", "forces"}


def test_few_compilations_for_molecules_of_many_sizes(potential):
    fresh = Potential(potential.metadata, potential.params)
    grid = 1.3 * np.argwhere(np.ones((4, 4, 3)))
    for count in [*range(1, 29), 35, 40]:
        result = fresh.evaluate(Atoms(f"C{count}", grid[:count]), [(0, 1)], ("energy",))
        assert np.isfinite(result[0].energy)
    assert fresh.num_compilations <= 6
