"""Observables: definitions, signs, choice of states, batches, refusals."""

import inspect

import numpy as np
import pytest
from ase.build import molecule
from ase.constraints import FixAtoms

from physnet_ase import (
    ElectronicState,
    PhysNetCalculator,
    Potential,
    electron_affinity,
    fukui_functions,
    ionization_energy,
    reorganization_energy,
    scan_states,
    singlet_triplet_gap,
    spin_ladder,
    untrained_potential,
)
from physnet_ase.config import ModelConfig
from physnet_ase.observables import Relaxation

TINY = ModelConfig(num_features=8, num_radial=8, num_blocks=1, cutoff=5.0, zbl=True)
STATES = ((0, 1), (1, 2), (-1, 2), (0, 3), (1, 4), (0, 2), (1, 1), (1, 3), (-1, 1))
POTENTIAL = untrained_potential(TINY, states=STATES, seed=2)
LOOSE = Relaxation(fmax=0.05)
NEUTRAL, CATION, ANION = (
    ElectronicState(),
    ElectronicState(1, 2),
    ElectronicState(-1, 2),
)


@pytest.fixture
def calculator():
    return PhysNetCalculator(POTENTIAL)


@pytest.fixture
def water():
    return molecule("H2O")


def energy(atoms, state):
    [result] = POTENTIAL.evaluate(atoms, states=[state], properties=("energy",))
    return result.energy


def with_constants(constants):
    """The same potential with these constants c[Q, M] added to its states."""
    records = [
        record.model_copy(update={"reference_energy": constants.get(record.state, 0.0)})
        for record in POTENTIAL.metadata.states
    ]
    metadata = POTENTIAL.metadata.model_copy(update={"states": records})
    return Potential(metadata, POTENTIAL.params)


def test_vertical_ionization_and_affinity_have_the_conventional_signs(
    calculator, water
):
    neutral = energy(water, NEUTRAL)
    loss = ionization_energy(water, calculator, to_state=CATION)
    gain = electron_affinity(water, calculator, to_state=(-1, 2))
    assert loss.value == pytest.approx(energy(water, CATION) - neutral, abs=1e-5)
    assert gain.value == pytest.approx(neutral - energy(water, ANION), abs=1e-5)
    assert loss.states == (NEUTRAL, CATION)
    assert gain.to_state == ANION
    assert float(loss) == loss.value
    assert loss.value == pytest.approx(loss.energies[1] - loss.energies[0])
    for geometry, state in zip(loss.geometries, loss.states, strict=True):
        assert geometry.info == {
            "charge": state.charge,
            "spin_multiplicity": state.multiplicity,
        }
        np.testing.assert_array_equal(geometry.positions, water.positions)


@pytest.mark.parametrize(("constant", "multiplicity"), [(-50.0, 4), (50.0, 2)])
def test_the_ion_is_the_lowest_multiplicity_one_away(constant, multiplicity):
    calculator = PhysNetCalculator(with_constants({ElectronicState(1, 4): constant}))
    triplet = molecule("O2")
    result = ionization_energy(triplet, calculator)
    assert result.from_state == ElectronicState(0, 3)
    assert result.to_state == ElectronicState(1, multiplicity)
    # From a singlet the quartet is two spin flips away.
    singlet = ionization_energy(triplet, calculator, from_state=(0, 1))
    assert singlet.to_state == CATION


def test_singlet_triplet_gap_is_triplet_minus_singlet(calculator, water):
    result = singlet_triplet_gap(water, calculator)
    expected = energy(water, (0, 3)) - energy(water, NEUTRAL)
    assert result.value == pytest.approx(expected, abs=1e-5)
    water.info["charge"] = 1
    with pytest.raises(ValueError, match="9 electrons, an odd count"):
        singlet_triplet_gap(water, calculator)
    # The multiplicity of the atoms does not matter, only their charge.
    triplet = singlet_triplet_gap(molecule("O2"), calculator)
    assert [state.multiplicity for state in triplet.states] == [1, 3]


def test_spin_ladder_and_scan_hold_the_seen_states(calculator, water):
    ladder = spin_ladder(water, calculator)
    assert ladder.states == (NEUTRAL, ElectronicState(0, 3))
    assert ladder.value == pytest.approx(abs(ladder.energies[1] - ladder.energies[0]))
    scan = scan_states(water, calculator)
    assert set(scan.states) == {
        ElectronicState(*state) for state in [(0, 1), (0, 3), (1, 2), (1, 4), (-1, 2)]
    }
    expected = [energy(water, state) for state in scan.states]
    np.testing.assert_allclose(scan.energies, expected, atol=1e-5)
    lowest = scan.states[int(np.argmin(expected))]
    assert scan.ground_state == lowest
    assert min(scan.relative_energies) == 0.0
    chosen = scan_states(water, calculator, [(1, 2), NEUTRAL])
    assert chosen.states == (CATION, NEUTRAL)
    water.info["charge"] = 2
    with pytest.raises(ValueError, match=r"no state of H2O with charge \+2"):
        spin_ladder(water, calculator)


def test_fukui_functions_are_differences_of_charges_and_sum_to_one(calculator, water):
    result = fukui_functions(water, calculator)
    assert [state.charge for state in result.states] == [1, 0, -1]
    results = POTENTIAL.evaluate(water, states=result.states, properties=("charges",))
    cation, neutral, anion = (one.charges for one in results)
    np.testing.assert_allclose(result.f_plus, neutral - anion, atol=1e-5)
    np.testing.assert_allclose(result.f_minus, cation - neutral, atol=1e-5)
    np.testing.assert_allclose(result.f_zero, 0.5 * (cation - anion), atol=1e-5)
    np.testing.assert_allclose(result.value.sum(axis=1), 1.0, atol=1e-5)


def test_a_list_gives_a_list_from_one_batch(calculator, monkeypatch):
    molecules = [molecule(name) for name in ("H2O", "CH4", "NH3")]
    single = [ionization_energy(atoms, calculator).value for atoms in molecules]
    calls = []
    evaluate = Potential.evaluate
    monkeypatch.setattr(
        Potential,
        "evaluate",
        lambda self, *args, **kwargs: (
            calls.append(1) or evaluate(self, *args, **kwargs)
        ),
    )
    together = ionization_energy(molecules, calculator)
    assert len(calls) == 1
    np.testing.assert_allclose([one.value for one in together], single, atol=1e-5)
    assert ionization_energy([], calculator) == []


def test_adiabatic_values_come_from_two_minima(calculator, water):
    water.info["tag"] = "mine"
    before = water.copy()
    result = ionization_energy(
        water, calculator, "adiabatic", to_state=CATION, relaxation=LOOSE
    )
    for geometry, state, total in zip(
        result.geometries, result.states, result.energies, strict=True
    ):
        [found] = POTENTIAL.evaluate(geometry, states=[state])
        assert np.linalg.norm(found.forces, axis=1).max() < 0.05
        assert found.energy == pytest.approx(total, abs=1e-5)
    assert result.value == pytest.approx(result.energies[1] - result.energies[0])
    assert water == before
    assert water.info == before.info
    assert water.calc is None
    assert calculator.results == {}
    attached = electron_affinity(
        water, calculator, "adiabatic", to_state=ANION, relaxation=LOOSE
    )
    assert attached.value == pytest.approx(attached.energies[0] - attached.energies[1])


def test_unconverged_relaxations_are_errors_that_say_how_far(calculator, water):
    with pytest.raises(
        RuntimeError, match=r"H2O in charge 0.*converge in 1 steps: largest force .* eV"
    ):
        ionization_energy(
            water, calculator, kind="adiabatic", relaxation=Relaxation(steps=1)
        )


def test_reorganization_energy_is_the_four_point_sum(calculator, water):
    result = reorganization_energy(water, calculator, to_state=CATION, relaxation=LOOSE)
    a, b = result.geometries
    final = energy(a, CATION) - energy(b, CATION)
    initial = energy(b, NEUTRAL) - energy(a, NEUTRAL)
    assert result.final_relaxation == pytest.approx(final, abs=1e-4)
    assert result.initial_relaxation == pytest.approx(initial, abs=1e-4)
    assert result.value == pytest.approx(final + initial, abs=1e-4)
    assert result.value > 0.0


def test_constraints_hold_in_relaxations(calculator, water):
    water.set_constraint(FixAtoms([0]))
    result = singlet_triplet_gap(water, calculator, "adiabatic", LOOSE)
    for geometry in result.geometries:
        np.testing.assert_array_equal(geometry.positions[0], water.positions[0])
        assert np.abs(geometry.positions[1] - water.positions[1]).max() > 1e-3


def test_what_cannot_be_is_refused(calculator, water):
    with pytest.raises(ValueError, match="final state must have charge \\+1"):
        ionization_energy(water, calculator, to_state=(-1, 2))
    with pytest.raises(ValueError, match="'vertical' or 'adiabatic', got 'diagonal'"):
        ionization_energy(water, calculator, "diagonal")
    with pytest.raises(ValueError, match="no state with charge \\+2"):
        ionization_energy(water, calculator, from_state=CATION)
    with pytest.raises(ValueError, match="at least one state"):
        scan_states(water, calculator, [])
    water.positions[2] = water.positions[1]
    with pytest.raises(ValueError, match="atoms 1 and 2 are only 0 Å apart"):
        scan_states([molecule("CH4"), water], calculator, [(0, 1)])
    with pytest.raises(ValueError, match="fmax must be positive"):
        Relaxation(fmax=0.0)
    with pytest.raises(TypeError, match="needs a PhysNetCalculator, got Potential"):
        ionization_energy(water, POTENTIAL)


def test_signatures_are_those_of_the_documentation():
    names = list(inspect.signature(ionization_energy).parameters)
    assert names[:5] == ["atoms", "calculator", "kind", "from_state", "to_state"]
    assert "Gold Book" in ionization_energy.__doc__
