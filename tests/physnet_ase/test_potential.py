"""``Potential``: what it refuses, how it batches, what it compiles, its references."""

import copy
import threading
import warnings

import jax
import numpy as np
import pytest
from ase.build import molecule
from structures import formaldehyde

from physnet_ase import ElectronicState
from physnet_ase.checkpoint import ModelMetadata, StateRecord
from physnet_ase.config import ModelConfig
from physnet_ase.potential import Potential
from physnet_ase.untrained import untrained_potential

TINY = ModelConfig(num_features=8, num_radial=4, num_blocks=1, cutoff=3.0)
STATES = [(0, 1), (1, 2), (-1, 2), (0, 3)]
REFERENCES = {"H": -13.6, "C": -1029.25, "O": -2041.5}


def referenced(base):
    """The same weights with references as large as real ones."""
    constants = [0.0, 9.25, -1.5, 6.0]
    metadata = ModelMetadata(
        name="tiny",
        config=base.config,
        element_energies=REFERENCES,
        states=[
            StateRecord(charge=q, multiplicity=m, reference_energy=c)
            for (q, m), c in zip(STATES, constants, strict=True)
        ],
    )
    return Potential(metadata, base.params)


@pytest.fixture(scope="module")
def plain():
    return untrained_potential(TINY, (1, 6, 8))


@pytest.fixture(scope="module")
def potential(plain):
    return referenced(plain)


def refusal(potential, numbers, state, **options):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the caller looks at it)
        potential.check(numbers, ElectronicState(*state), **options)
    return str(caught.value)


SEEN = (
    "charge -1, multiplicity 2; charge 0, multiplicity 1; charge 0, multiplicity 3; "
    "charge +1, multiplicity 2"
)


def test_unknown_element_is_named_with_its_atom(potential):
    assert refusal(potential, [8, 1, 16], (0, 1), allow_unseen_states=True) == (
        "atom 2 is S, which the model has not seen; it knows H, C, O. Retrain with "
        "this element"
    )


def test_impossible_state_is_refused_before_an_unseen_one(potential):
    text = refusal(potential, [8, 1, 1], (0, 2), allow_unseen_states=True)
    assert text == (
        "multiplicity 2 (2S+1) is impossible; with charge 0 it has 10 electrons; "
        "allowed multiplicities: 1, 3, 5, 7, …"
    )
    assert "removes more electrons than there are" in refusal(potential, [1], (2, 1))


def test_unseen_state_is_refused_or_a_warning(potential):
    numbers, state = [8, 1, 1], (0, 5)
    assert refusal(potential, numbers, state) == (
        f"the model was not trained on charge 0, multiplicity 5; seen in training: "
        f"{SEEN}. Retrain with this state, or pass allow_unseen_states=True to "
        "extrapolate"
    )
    message = "not trained on charge 0, multiplicity 5; its energy is an extrapolation"
    with pytest.warns(UserWarning, match=message):
        potential.check(numbers, ElectronicState(*state), allow_unseen_states=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        potential.check(numbers, ElectronicState(0, 3), allow_unseen_states=True)


@pytest.mark.parametrize("state", [(3, 2), (-3, 2), (0, 7)])
def test_state_outside_the_ranges_is_always_refused(potential, state):
    text = refusal(potential, [8, 1, 1], state, allow_unseen_states=True)
    assert text == (
        f"{ElectronicState(*state)} lies outside the model's ranges (charge -2..2, "
        f"multiplicity 1..6); seen in training: {SEEN}"
    )


def test_references_are_added_in_double_precision(plain, potential):
    atoms, wanted = formaldehyde(), ("energy", "energies")
    for state, bare, full in zip(
        STATES,
        plain.evaluate(atoms, STATES, wanted),
        potential.evaluate(atoms, STATES, wanted),
        strict=True,
    ):
        constant = dict(zip(STATES, [0.0, 9.25, -1.5, 6.0], strict=True))[state]
        expected = -2041.5 - 1029.25 - 2 * 13.6 + constant
        assert potential.reference_energy(atoms.numbers, state) == pytest.approx(
            expected, abs=1e-12
        )
        # float32 would lose 1e-4 of 3000 eV
        assert full.energy - bare.energy == pytest.approx(expected, abs=1e-11)
        per_atom = np.array([REFERENCES[s] for s in atoms.symbols]) + constant / 4
        np.testing.assert_allclose(full.energies - bare.energies, per_atom, atol=1e-11)
        assert full.energies.sum() == pytest.approx(full.energy, abs=1e-11)


def test_unseen_state_takes_the_constant_of_the_nearest_spin(potential):
    atoms = [1, 1, 8]
    elements = potential.reference_energy(atoms, (0, 1))
    assert potential.reference_energy(atoms, (0, 5)) - elements == pytest.approx(6.0)
    assert potential.reference_energy(atoms, (1, 4)) - elements == pytest.approx(9.25)
    assert potential.reference_energy(atoms, (2, 1)) == elements


def test_double_precision_leaves_the_switch_of_jax_alone(plain):
    atoms = molecule("H2O")
    single = plain.evaluate(atoms)
    double = plain.evaluate(atoms, dtype="float64")
    assert not jax.config.jax_enable_x64
    assert jax.numpy.ones(1).dtype == np.float32
    assert 0.0 < abs(double.energy - single.energy) < 1e-4
    assert plain.dtype == np.float32
    assert plain.astype("float64").dtype == np.float64
    assert plain.astype("float64") is plain.astype("float64")
    assert plain.astype("float64").astype("float32") is plain
    with jax.enable_x64(True):
        again = plain.evaluate(atoms)
    assert again.energy == single.energy


def test_threads_of_both_precisions_do_not_disturb_each_other(plain):
    atoms, found = molecule("H2O"), {}
    expected = {
        d: plain.evaluate(atoms, dtype=d).energy for d in ("float32", "float64")
    }

    def work(dtype):
        found[dtype] = {plain.evaluate(atoms, dtype=dtype).energy for _ in range(20)}

    threads = [threading.Thread(target=work, args=(dtype,)) for dtype in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {dtype: {energy} for dtype, energy in expected.items()}


def test_precision_that_does_not_exist_is_refused(plain):
    with pytest.raises(
        ValueError, match="dtype must be float32 or float64, got float16"
    ):
        plain.astype("float16")


def test_copies_share_compiled_code(plain):
    assert copy.deepcopy(plain) is plain
    assert repr(plain) == "Potential('untrained', elements=H, C, O, float32)"


def test_untrained_potential_refuses_states_outside_its_ranges():
    with pytest.raises(ValueError, match=r"charge \+3, multiplicity 2 lies outside"):
        untrained_potential(TINY, states=[(3, 2)])
