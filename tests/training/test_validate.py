"""Every problem of a piece, which of them can be kept, and distances in blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from physnet_training.audit.validate import (
    check_molecules,
    closest_pair,
    find_problems,
    shortest_distances,
)

from physnet_ase.molecules import Molecules


@pytest.fixture
def piece(make_molecules):
    """Six sound molecules, rows 10 to 15 of their source."""
    made = make_molecules([3, 4, 2, 3, 5, 1], seed=4)
    values = {
        name: array.astype(float) if name == "total_charge" else array
        for name, array in made["values"].items()
    }
    values["spin_multiplicity"] = values["spin_multiplicity"].astype(float)
    return Molecules(made["n_atoms"], values, np.arange(10, 16))


FIRST = np.array([0, 3, 7, 9, 12, 17])


def test_sound_molecules_have_no_problem(piece):
    assert find_problems(piece, allow_missing=False) == []
    check_molecules(piece, allow_missing=False)


@pytest.mark.parametrize(
    ("name", "index", "value", "keepable", "reason"),
    [
        ("atomic_numbers", FIRST[1] + 2, 0, False, "atom 2 .* unknown element"),
        ("positions", FIRST[1] + 1, np.nan, False, "atom 1 .* positions is"),
        ("positions", FIRST[1] + 1, np.inf, False, "atom 1 .* positions is"),
        ("total_charge", 1, np.nan, False, "total_charge is nan"),
        ("total_charge", 1, 0.5, False, "charge must be a single whole number"),
        ("total_charge", 1, 300.0, True, r"charge \+300 removes more electrons"),
        ("spin_multiplicity", 1, 1.5, False, "multiplicity must be a single whole"),
        ("spin_multiplicity", 1, np.inf, False, "multiplicity must be a single whole"),
        ("spin_multiplicity", 1, 0.0, False, "at least 1, got 0"),
        ("spin_multiplicity", 1, 101.0, True, r"multiplicity 101 \(2S\+1\)"),
        ("energy", 1, np.nan, True, "energy is nan.*--allow-missing"),
        ("energy", 1, np.inf, True, "energy is inf; correct or remove"),
        ("forces", FIRST[1] + 3, np.nan, True, "atom 3 .* forces is"),
        ("dipole", 1, 1e39, True, "dipole is"),
    ],
)
def test_each_problem(piece, name, index, value, keepable, reason):
    piece.values[name][index] = value
    [problem] = find_problems(piece, allow_missing=False)
    assert (problem.place, problem.row, problem.keepable) == (1, 11, keepable)
    with pytest.raises(ValueError, match=rf"^molecule 11.*{reason}") as raised:
        check_molecules(piece, allow_missing=False)
    assert str(raised.value) == problem.reason


def test_close_atoms_can_be_kept(piece):
    positions = piece.values["positions"]
    positions[FIRST[4] + 3] = positions[FIRST[4] + 1] + [0.0, 0.06, 0.05]
    [problem] = find_problems(piece, allow_missing=True)
    assert (problem.place, problem.keepable) == (4, True)
    assert "molecule 14, atom 1 (0-based): another atom is 0.078 Å" in problem.reason


@pytest.mark.parametrize(("gap", "found"), [(0.0999, 1), (0.1001, 0)])
def test_the_limit_is_exact_far_from_the_origin(piece, gap, found):
    """float32 finds candidates, the positions as they are decide."""
    positions = piece.values["positions"]
    positions += 1000.0
    positions[FIRST[2] + 1] = positions[FIRST[2]] + [gap, 0.0, 0.0]
    assert len(find_problems(piece, allow_missing=True)) == found


def test_images_count(piece):
    values = piece.values | {
        "pbc": np.zeros((6, 3), bool),
        "cell": np.tile(30.0 * np.eye(3), (6, 1, 1)),
    }
    periodic = Molecules(piece.n_atoms, values, piece.rows)
    values["pbc"][2] = True
    assert find_problems(periodic, allow_missing=True) == []
    step = values["positions"][8] - values["positions"][7]
    values["cell"][2] = np.diag(np.where(np.abs(step) > 1, np.abs(step), 40.0))
    values["positions"][8] = values["positions"][7] + np.diag(values["cell"][2]) - 0.03
    [problem] = find_problems(periodic, allow_missing=True)
    assert (problem.place, problem.keepable) == (2, True)
    assert "0.052 Å" in problem.reason


def test_all_molecules_are_reported_once_the_worst_first(piece):
    piece.values["energy"][[0, 3]] = np.nan
    piece.values["forces"][FIRST[3]] = np.nan  # the same molecule again
    piece.values["total_charge"][0] = 0.5  # not keepable: hides the missing energy
    piece.values["spin_multiplicity"][5] = 7.0
    found = find_problems(piece, allow_missing=False)
    assert [(p.place, p.keepable) for p in found] == [(0, False), (3, True), (5, True)]
    assert "charge must be" in found[0].reason
    assert "energy is nan" in found[1].reason
    assert [p.place for p in find_problems(piece, allow_missing=True)] == [0, 5]


def test_entries_that_are_absent_are_no_problem(piece):
    piece.values["forces"][FIRST[1] : FIRST[2]] = np.nan
    piece.absent["forces"] = np.arange(6) == 1
    assert find_problems(piece, allow_missing=False) == []


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=30),
    seed=st.integers(0, 1000),
)
def test_shortest_distances_agree_with_all_pairs(sizes, seed):
    positions = np.random.default_rng(seed).uniform(-4, 4, (sum(sizes), 3))
    found = shortest_distances(np.array(sizes), positions)
    starts = np.cumsum(sizes) - sizes
    for size, start, distance in zip(sizes, starts, found, strict=True):
        local = positions[start : start + size]
        if size == 1:
            assert distance == np.inf
            continue
        pairs = np.linalg.norm(local[:, None] - local[None], axis=-1)
        expected = pairs[~np.eye(size, dtype=bool)].min()
        assert distance == pytest.approx(expected, abs=2e-6)
        assert closest_pair(local)[0] == pytest.approx(expected, abs=1e-12)


def test_blocks_of_many_molecules_and_of_large_ones(rng):
    sizes = np.array([2] * 9000 + [600, 601])
    positions = rng.uniform(-50, 50, (int(sizes.sum()), 3))
    positions[-1] = positions[-601] + [0.0, 0.02, 0.0]  # first and last of the last
    found = shortest_distances(sizes, positions)
    lengths = np.linalg.norm(positions[1:18000:2] - positions[:18000:2], axis=1)
    np.testing.assert_allclose(found[:9000], lengths, atol=2e-5)
    assert found[-1] == pytest.approx(0.02, abs=2e-5)


def test_positions_beyond_float32_are_not_taken_for_close():
    far = np.array([[0.0, 0, 0], [1e200, 0, 0]])
    assert not shortest_distances(np.array([2]), far) < 1.0
