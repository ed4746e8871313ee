"""Reactivity indices: definitions, units, choice of ions, refusals."""

import numpy as np
import pytest
from ase.build import molecule

from physnet_ase import (
    ElectronicState,
    PhysNetCalculator,
    Potential,
    electron_affinity,
    fukui_functions,
    ionization_energy,
    reactivity_indices,
)


@pytest.fixture(scope="module")
def calculator():
    return PhysNetCalculator("states-dft-small")


def test_the_indices_follow_from_ie_and_ea(calculator):
    carbonyl = molecule("H2CO")
    result = reactivity_indices(carbonyl, calculator)
    loss = ionization_energy(carbonyl, calculator)
    gain = electron_affinity(carbonyl, calculator)
    ie, ea = loss.value, gain.value
    assert result.states == (loss.to_state, ElectronicState(0, 1), gain.to_state)
    assert result.ionization_energy == pytest.approx(ie, abs=1e-4)
    assert result.electron_affinity == pytest.approx(ea, abs=1e-4)
    assert result.value == result.hardness == pytest.approx(ie - ea, abs=1e-4)
    assert result.softness == pytest.approx(1 / (ie - ea), rel=1e-5)
    assert result.electronegativity == pytest.approx((ie + ea) / 2, abs=1e-4)
    assert result.chemical_potential == -result.electronegativity
    expected = (ie + ea) ** 2 / (8 * (ie - ea))
    assert result.electrophilicity == pytest.approx(expected, rel=1e-4)
    # ω is the depth of the parabola E(N) through the three energies.
    mu, eta = result.chemical_potential, result.hardness
    electrons = np.linspace(0.0, 3.0, 30001)
    depth = -np.min(mu * electrons + 0.5 * eta * electrons**2)
    assert result.electrophilicity == pytest.approx(depth, rel=1e-6)
    for geometry, state in zip(result.geometries, result.states, strict=True):
        assert geometry.info["charge"] == state.charge
        np.testing.assert_array_equal(geometry.positions, carbonyl.positions)


def test_a_list_shares_one_batch_and_the_states_of_the_fukui_functions(
    calculator, monkeypatch
):
    molecules = [molecule(name) for name in ("H2O", "O2", "NH3")]
    fukui = fukui_functions(molecules, calculator)
    single = [reactivity_indices(atoms, calculator).value for atoms in molecules]
    calls = []
    evaluate = Potential.evaluate
    monkeypatch.setattr(
        Potential,
        "evaluate",
        lambda self, *args, **kwargs: (
            calls.append(1) or evaluate(self, *args, **kwargs)
        ),
    )
    results = reactivity_indices(molecules, calculator)
    assert len(calls) == 1
    np.testing.assert_allclose([one.value for one in results], single, atol=1e-3)
    assert [one.states for one in results] == [one.states for one in fukui]
    assert results[1].states[1] == ElectronicState(0, 3)
    assert reactivity_indices([], calculator) == []


def test_states_can_be_named_and_must_fit(calculator):
    water = molecule("H2O")
    result = reactivity_indices(
        water, calculator, cation_state=(1, 4), anion_state=(-1, 4)
    )
    assert [state.multiplicity for state in result.states] == [4, 1, 4]
    with pytest.raises(ValueError, match=r"final state must have charge \+1"):
        reactivity_indices(water, calculator, cation_state=(0, 3))
    with pytest.raises(ValueError, match=r"seen no state with charge \+2"):
        reactivity_indices(water, calculator, from_state=(1, 2))


def test_a_hardness_below_zero_has_no_meaning(calculator):
    potential = calculator.potential
    records = [
        record.model_copy(update={"reference_energy": record.reference_energy - shift})
        for record in potential.metadata.states
        for shift in [30.0 if record.charge else 0.0]
    ]
    metadata = potential.metadata.model_copy(update={"states": records})
    shifted = PhysNetCalculator(Potential(metadata, potential.params))
    with pytest.raises(ValueError, match=r"H2O .* hardness IE − EA must be positive"):
        reactivity_indices(molecule("H2O"), shifted)
