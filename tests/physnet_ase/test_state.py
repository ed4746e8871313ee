"""The electronic-state contract, row by row, without a model."""

import copy

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from physnet_ase.state import (
    STATE_KEYS,
    ElectronicState,
    as_state,
    check_possible,
    is_possible,
    lowest_multiplicity,
    resolve_state,
    with_state,
)


def water(**info):
    atoms = molecule("H2O")
    atoms.info.update(info)
    return atoms


@pytest.mark.parametrize(
    ("name", "charge", "expected"),
    [
        ("H2O", None, (0, 1)),
        ("CH3", None, (0, 2)),
        ("H2O", 1, (1, 2)),
        ("H2O", -2, (-2, 1)),
    ],
)
def test_default_is_neutral_with_the_lowest_multiplicity_of_right_parity(
    name, charge, expected
):
    atoms = molecule(name)
    atoms.set_initial_magnetic_moments(None)
    assert resolve_state(atoms, charge) == ElectronicState(*expected)


def test_info_wins_over_arguments_and_arguments_over_initial_values():
    atoms = water()
    atoms.set_initial_charges([-2.0, 0.0, 0.0])
    atoms.set_initial_magnetic_moments([2.0, 0.0, 0.0])
    assert resolve_state(atoms) == ElectronicState(-2, 3)
    assert resolve_state(atoms, 2, 5) == ElectronicState(2, 5)
    atoms.info.update(charge=1, spin_multiplicity=4)
    assert resolve_state(atoms, 2, 5) == ElectronicState(1, 4)


def test_charge_and_multiplicity_are_resolved_separately():
    assert resolve_state(water(charge=1), 0, 4) == ElectronicState(1, 4)
    assert resolve_state(water(spin=2), 1, 1) == ElectronicState(1, 2)
    atoms = water(charge=2)
    atoms.set_initial_magnetic_moments([1.0, 0.5, 0.5])
    assert resolve_state(atoms) == ElectronicState(2, 3)


def test_initial_values_that_are_all_zero_say_nothing():
    atoms = water()
    atoms.set_initial_charges([0.0, 0.0, 0.0])
    atoms.set_initial_magnetic_moments([0.0, 0.0, 0.0])
    assert resolve_state(atoms) == ElectronicState(0, 1)
    with pytest.raises(ValueError, match="strict=True and no charge and no multipl"):
        resolve_state(atoms, strict=True)


def test_sums_of_initial_values_count_even_when_they_cancel():
    atoms = water()
    atoms.set_initial_charges([0.8, -0.4, -0.4])
    atoms.set_initial_magnetic_moments([1.0, -0.5, -0.5])
    assert resolve_state(atoms, strict=True) == ElectronicState(0, 1)


def test_sums_of_initial_values_forgive_rounding_and_spin_down():
    atoms = Atoms("O2", positions=np.eye(2, 3))
    atoms.set_initial_charges([0.1 + 0.2, 0.7000001])
    atoms.set_initial_magnetic_moments([-0.3333333, -0.6666666])
    assert resolve_state(atoms) == ElectronicState(1, 2)


@pytest.mark.parametrize("name", ["initial_charges", "initial_magmoms"])
def test_sum_of_initial_values_that_is_not_whole_is_refused(name):
    atoms = water()
    atoms.set_array(name, np.array([0.5, 0.1, 0.0]))
    with pytest.raises(ValueError, match=rf"sum of {name} must be a whole.*got 0\.6"):
        resolve_state(atoms)


def test_noncollinear_moments_are_refused():
    atoms = water()
    atoms.set_initial_magnetic_moments(np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"one number per atom, got shape \(3, 3\)"):
        resolve_state(atoms)


@pytest.mark.parametrize("key", STATE_KEYS["multiplicity"])
def test_every_spin_key_means_2s_plus_1(key):
    assert resolve_state(water(**{key: 3})) == ElectronicState(0, 3)


def test_spin_keys_that_agree_are_fine_and_that_disagree_are_refused():
    assert resolve_state(water(spin=3, mult=3.0)) == ElectronicState(0, 3)
    with pytest.raises(
        ValueError, match=r"contradicting.*multiplicity'\] = 3.*spin'\] = 1"
    ):
        resolve_state(water(spin=1, multiplicity=3))


@pytest.mark.parametrize(
    "one", [1, 1.0, np.int64(1), np.int8(1), np.uint8(1), np.float32(1), np.array(1)]
)
def test_whole_numbers_of_any_type_are_accepted(one):
    state = resolve_state(water(charge=one, spin_multiplicity=2 * one))
    assert state == ElectronicState(1, 2)
    assert type(state.charge) is int
    assert type(state.multiplicity) is int


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("charge", 0.5),
        ("charge", "1"),
        ("charge", True),
        ("charge", None),
        ("charge", [1]),
        ("charge", np.array([1])),
        ("charge", float("nan")),
        ("charge", float("inf")),
        ("spin", 0.5),
        ("mult", "3"),
    ],
)
def test_anything_else_is_refused_by_value_electron_count_and_allowed(key, value):
    with pytest.raises(ValueError, match="whole number") as error:
        resolve_state(water(**{key: value}))
    text = str(error.value)
    assert f"atoms.info[{key!r}]" in text
    assert repr(value) in text
    assert "10 electrons" in text
    assert "allowed" in text


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"multiplicity": 2}, ["multiplicity 2", "10 electrons", "1, 3, 5, 7, …"]),
        ({"charge": 1, "spin": 1}, ["multiplicity 1", "9 electrons", "2, 4, 6, 8, …"]),
        ({"mult": 0}, ["at least 1, got 0", "10 electrons", "1, 3, 5"]),
        ({"mult": -1}, ["at least 1, got -1"]),
        ({"spin": 13}, ["multiplicity 13", "10 electrons", "1, 3"]),
        ({"charge": 11}, ["removes more electrons", "10 electrons", "up to +10"]),
    ],
)
def test_impossible_states_are_refused_with_the_electron_count(info, words):
    with pytest.raises(ValueError, match=words[0]) as error:
        resolve_state(water(**info))
    for word in words:
        assert word in str(error.value)


def test_refusal_names_where_the_values_came_from():
    atoms = molecule("O2")
    atoms.info["charge"] = 1
    with pytest.raises(ValueError, match=r"from atoms.info\['charge'\].*magnetic mom"):
        resolve_state(atoms)
    with pytest.raises(ValueError, match=r"from charge=1, .*from multiplicity=1"):
        resolve_state(water(), 1, 1)


@pytest.mark.parametrize(
    ("info", "missing"), [({"charge": 0}, "multiplicity"), ({"spin": 1}, "charge")]
)
def test_strict_refuses_whichever_value_nothing_names(info, missing):
    with pytest.raises(ValueError, match=f"strict=True and no {missing} given"):
        resolve_state(water(**info), strict=True)
    assert resolve_state(water(**info), 0, 1, strict=True) == ElectronicState(0, 1)


def test_info_is_never_written_to_and_other_entries_are_ignored():
    atoms = water(spin=np.array(3), dipole=np.arange(3.0), name="charge")
    before = copy.deepcopy(atoms.info)
    assert resolve_state(atoms) == ElectronicState(0, 3)
    assert list(atoms.info) == list(before)
    assert all(np.array_equal(atoms.info[key], before[key]) for key in before)


def test_with_state_copies_and_replaces_every_spin_key():
    atoms = water(spin=3, mult=3, tag="kept")
    copied = with_state(atoms, ElectronicState(1, 2))
    assert copied.info == {"tag": "kept", "charge": 1, "spin_multiplicity": 2}
    assert atoms.info == {"spin": 3, "mult": 3, "tag": "kept"}
    copied.positions += 1.0
    assert not np.allclose(copied.positions, atoms.positions)


def test_bare_nuclei_and_hydrogen():
    assert resolve_state(Atoms("H"), 1) == ElectronicState(1, 1)
    assert resolve_state(Atoms("H")) == ElectronicState(0, 2)
    with pytest.raises(ValueError, match="1 electrons; allowed multiplicities: 2"):
        check_possible([1], ElectronicState(0, 4))


def test_possible_states_have_right_parity_and_enough_electrons():
    possible = {
        (charge, multiplicity)
        for charge in range(-1, 4)
        for multiplicity in range(1, 5)
        if is_possible([2], ElectronicState(charge, multiplicity))
    }
    assert possible == {(-1, 2), (-1, 4), (0, 1), (0, 3), (1, 2), (2, 1)}
    assert lowest_multiplicity([2], 1) == 2


def test_states_compare_sort_and_print():
    assert as_state((1, 2)) == ElectronicState(1, 2)
    assert sorted([ElectronicState(1, 2), ElectronicState(0, 3)])[0].charge == 0
    assert str(ElectronicState(-1, 2)) == "charge -1, multiplicity 2"
    assert str(ElectronicState(0, 1)) == "charge 0, multiplicity 1"


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"total_charge": 1, "total_spin": 2}, (1, 2)),
        ({"net_charge": 1, "spin_mult": 2}, (1, 2)),
        ({"molecular_charge": 1, "molecular_multiplicity": 2}, (1, 2)),
        ({"Charge": -1, "MULTIPLICITY": 2}, (-1, 2)),
        ({"Q": 1, "M": 4}, (1, 4)),
        ({"Q": 1.0, "S": 2}, (1, 2)),
        ({"uhf": 2}, (0, 3)),
        ({"charge": 1, "unpaired_electrons": 1}, (1, 2)),
        ({"charge": 1, "uhf": 1, "mult": 2}, (1, 2)),
        # single letters of the other case, and arrays below them, are something else
        ({"q": 1, "m": 2, "s": 5}, (0, 1)),
        ({"Q": np.arange(3), "S": [1.0, 2.0]}, (0, 1)),
    ],
)
def test_keys_of_other_codes_mean_the_same_everywhere(info, expected):
    assert resolve_state(water(**info)) == ElectronicState(*expected)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"charge": 1, "total_charge": 0}, "contradicting charges"),
        ({"charge": 0, "Charge": 1}, "contradicting charges"),
        ({"mult": 1, "uhf": 2}, r"contradicting multiplicities 2S\+1: .*uhf'\] = 3"),
        ({"Q": 0.3}, r"atoms\.info\['Q'\] must be a single whole number"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(info, words):
    with pytest.raises(ValueError, match=words):
        resolve_state(water(**info))


def test_attributes_that_other_packages_set_count():
    atoms = water()
    atoms.charge, atoms.spin_multiplicity = 1, 2
    assert resolve_state(atoms) == ElectronicState(1, 2)
    atoms.info["charge"] = 0
    with pytest.raises(ValueError, match=r"atoms\.charge = 1, atoms\.info\['charge'\]"):
        resolve_state(atoms)


@pytest.mark.parametrize(
    ("symbol", "charge", "multiplicity"),
    [
        *[
            ("H", 0, 2),
            ("C", 0, 3),
            ("N", 0, 4),
            ("O", 0, 3),
            ("F", 0, 2),
            ("Ne", 0, 1),
        ],
        *[
            ("C", 1, 2),
            ("N", 1, 3),
            ("O", 1, 4),
            ("O", -1, 2),
            ("F", -1, 1),
            ("H", 1, 1),
        ],
        *[("Fe", 0, 5), ("Fe", 2, 1)],  # no table for ions of transition metals
    ],
)
def test_free_atoms_are_in_their_ground_state(symbol, charge, multiplicity):
    atoms = Atoms(symbol, info={"charge": charge})
    assert resolve_state(atoms) == ElectronicState(charge, multiplicity)


def test_a_state_that_is_set_replaces_every_name_of_the_old_one():
    atoms = water(total_charge=1, uhf=1, note="kept")
    copy = with_state(atoms, ElectronicState(-1, 2))
    assert copy.info == {"note": "kept", "charge": -1, "spin_multiplicity": 2}
    assert resolve_state(copy) == ElectronicState(-1, 2)
