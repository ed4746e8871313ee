"""Heads on one trunk: the answer is their mean, and its uncertainty their spread."""

import numpy as np
import pytest
from ase.build import molecule
from flax.traverse_util import unflatten_dict
from structures import formaldehyde

from physnet_ase import (
    ElectronicState,
    PhysNetCalculator,
    ionization_energy,
    load_potential,
    scan_states,
    untrained_potential,
)
from physnet_ase.committee import Committee
from physnet_ase.config import ModelConfig
from physnet_ase.network.heads import (
    model_of_head,
    probe,
    with_heads,
    without_heads,
)
from physnet_ase.network.initial import parameter_shapes
from physnet_ase.network.levels import model_of_level
from physnet_ase.potential import Potential

HEADS = 3
TINY = ModelConfig(
    num_features=8,
    num_radial=8,
    num_blocks=2,
    num_residual_interaction=0,
    cutoff=5.0,
    # the mean charges of all heads act in the energy of each, not those of its own
    electrostatics=False,
    num_heads=HEADS,
)
STATES = ((0, 1), (1, 2), (-1, 2), (1, 1))
POTENTIAL = untrained_potential(TINY, states=STATES, seed=1).astype("float64")
WATER = molecule("H2O")


def of_head(potential: Potential, head: int) -> Potential:
    """One head as a model of its own."""
    config, params = model_of_head(potential.config, potential.params, head)
    metadata = potential.metadata.model_copy(update={"config": config})
    return Potential(metadata, params, potential.dtype)


ALONE = [of_head(POTENTIAL, head) for head in range(HEADS)]


@pytest.mark.parametrize("state", [(0, 1), (1, 2)])
def test_the_answer_is_the_mean_and_the_spread_that_of_models_of_one_head(state):
    names = ("energy", "forces", "charges", "forces_std")
    [found] = POTENTIAL.evaluate(WATER, [state], names)
    alone = [one.evaluate(WATER, [state], names[:3])[0] for one in ALONE]
    for name, said in (
        ("energy", found.member_energies),
        ("forces", found.member_forces),
        ("charges", found.member_charges),
    ):
        expected = np.array([getattr(one, name) for one in alone])
        np.testing.assert_allclose(said, expected, atol=1e-10)
        mean, std = (getattr(found, each) for each in (name, f"{name}_std"))
        np.testing.assert_allclose(mean, expected.mean(axis=0), atol=1e-10)
        np.testing.assert_allclose(std, expected.std(axis=0), atol=1e-10)
        assert np.max(std) > 1e-3
    assert found.member_charges.sum(axis=1) == pytest.approx([state[0]] * HEADS)


def test_with_electrostatics_the_mean_charges_act_in_every_head():
    config = TINY.model_copy(update={"electrostatics": True})
    metadata = POTENTIAL.metadata.model_copy(update={"config": config})
    coulomb = Potential(metadata, POTENTIAL.params, "float64").evaluate(WATER)
    plain = POTENTIAL.evaluate(WATER)
    shift = coulomb.energy - plain.energy
    assert abs(shift) > 1e-3
    expected = plain.member_energies + shift
    np.testing.assert_allclose(coulomb.member_energies, expected, atol=1e-10)
    assert coulomb.energy_std == pytest.approx(plain.energy_std, abs=1e-10)


def test_a_model_of_one_head_has_no_spread():
    result = ALONE[0].evaluate(WATER, properties=("energy", "charges"))
    assert vars(result).keys() == {"state", "fragments", "energy", "charges"}
    with pytest.raises(ValueError, match="one head, and nothing to compare"):
        ALONE[0].evaluate(WATER, properties=("forces_std",))
    with pytest.raises(ValueError, match="one head, and nothing to compare"):
        PhysNetCalculator(ALONE[0]).get_forces_std(WATER)


def test_results_of_a_calculator_hold_the_spread_of_energies_not_of_forces():
    calculator = PhysNetCalculator(POTENTIAL)
    calculator.get_forces(WATER)
    expected = POTENTIAL.evaluate(WATER, properties=("energy", "forces_std"))
    assert calculator.results["energy_std"] == pytest.approx(expected.energy_std)
    np.testing.assert_allclose(
        calculator.results["member_energies"], expected.member_energies
    )
    assert "forces_std" not in calculator.results
    spread = calculator.get_forces_std(WATER)
    np.testing.assert_allclose(spread, expected.forces_std, atol=1e-12)


def test_a_committee_pools_the_heads_of_its_models():
    committee = Committee([POTENTIAL, ALONE[0]])
    assert committee.num_members == HEADS + 1
    found = committee.evaluate(WATER, properties=("energy", "forces_std"))
    own = POTENTIAL.evaluate(WATER, properties=("energy", "forces_std"))
    other = ALONE[0].evaluate(WATER)
    energies = [*own.member_energies, other.energy]
    np.testing.assert_allclose(found.member_energies, energies)
    assert found.energy == pytest.approx((own.energy + other.energy) / 2)
    assert found.energy_std == pytest.approx(np.std(energies))
    forces = np.concatenate([own.member_forces, other.forces[None]])
    np.testing.assert_allclose(found.forces_std, forces.std(axis=0), atol=1e-10)
    assert not hasattr(committee.evaluate(WATER), "forces_std")
    assert Committee(ALONE[:2]).evaluate(WATER).forces_std.shape == (3, 3)


def test_gaps_have_the_spread_of_differences_of_the_heads():
    calculator = PhysNetCalculator(POTENTIAL)
    found = ionization_energy(WATER, calculator, to_state=(1, 2))
    rows = POTENTIAL.evaluate(WATER, [(0, 1), (1, 2)], ("energy",))
    apart = rows[1].member_energies - rows[0].member_energies
    assert found.value == pytest.approx(apart.mean())
    assert found.std == pytest.approx(apart.std())
    scan = scan_states(WATER, calculator, [(1, 2), (0, 1)])
    assert scan.std == pytest.approx(apart.std())
    assert scan.relative_stds[scan.states.index(scan.ground_state)] == 0.0
    assert max(scan.relative_stds) == pytest.approx(apart.std())
    both = ionization_energy([WATER, formaldehyde()], calculator, to_state=(1, 2))
    assert both[0].std == pytest.approx(found.std)
    assert ionization_energy(WATER, PhysNetCalculator(ALONE[0])).std is None


def test_heads_are_stored_and_read(tmp_path):
    single = POTENTIAL.astype("float32")
    again = load_potential(single.save(tmp_path / "model"))
    assert again.num_members == HEADS
    ours, theirs = (one.evaluate(WATER, [(1, 2)])[0] for one in (single, again))
    assert np.array_equal(ours.member_energies, theirs.member_energies)
    assert np.array_equal(ours.forces, theirs.forces)


def test_heads_change_nothing_of_the_answer():
    config, params = without_heads(POTENTIAL.config, POTENTIAL.params)
    metadata = POTENTIAL.metadata.model_copy(update={"config": config})
    names = ("energy", "forces", "charges")
    # the same operations; compilers may order them otherwise in another program
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-5)):
        alone = Potential(metadata, params, dtype).evaluate(WATER, [(1, 2)], names)[0]
        found = POTENTIAL.evaluate(WATER, [(1, 2)], names, dtype)[0]
        for name in names:
            ours, theirs = getattr(found, name), getattr(alone, name)
            np.testing.assert_allclose(ours, theirs, atol=tolerance)


def test_a_probe_says_what_each_weight_is_worth(rng):
    alone, change = ALONE[0], np.zeros((2, 8, 2, 3))
    change[:, :, 0, 0] = rng.normal(size=(2, 8))
    said = []
    for config, params in (
        probe(alone.config, alone.params, 0),
        with_heads(alone.config, alone.params, change),
    ):
        metadata = POTENTIAL.metadata.model_copy(update={"config": config})
        found = Potential(metadata, params, "float64").evaluate(WATER)
        said.append(found.member_energies)
    expected = change[:, :, 0, 0].ravel() @ (said[0][:-1] - said[0][-1])
    assert said[1][0] - said[1][1] == pytest.approx(expected, abs=1e-5)


def test_each_level_of_theory_has_heads_of_its_own(rng):
    whole = TINY.model_copy(update={"num_levels": 2})
    shapes = parameter_shapes(whole)
    flat = {tuple(key.split("/")): rng.normal(size=shapes[key]) for key in shapes}
    both = unflatten_dict(flat)
    for level in range(2):
        single, params = model_of_level(whole, both, level)
        assert (single.num_levels, single.num_heads) == (1, HEADS)
        columns = slice(3 * HEADS * level, 3 * HEADS * (level + 1))
        for block in ("output_0", "output_1"):
            kernel = both[block]["spread"]["kernel"][:, columns]
            assert np.array_equal(params[block]["spread"]["kernel"], kernel)


def test_local_charges_are_shared_by_all_heads():
    config = TINY.model_copy(update={"conditioning": "local"})
    result = untrained_potential(config).evaluate(
        WATER, properties=("energy", "charges")
    )
    assert result.energy_std > 1e-3
    assert not hasattr(result, "charges_std")
    assert result.state == ElectronicState(0, 1)
