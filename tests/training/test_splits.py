"""Splits: who belongs where, stored and checked."""

import numpy as np
import pytest
from data_files import molecules_of
from hypothesis import given
from hypothesis import strategies as st
from physnet_training.hashing import hash_uniform
from physnet_training.packed import PackedDataset, PackedWriter
from physnet_training.train.split import (
    Split,
    geometry_split,
    group_indices,
    permutation_split,
    split_indices,
)


@given(st.integers(50, 400), st.integers(0, 400), st.integers(0, 2**62))
def test_appended_molecules_move_nobody(num, more, seed):
    small, _ = split_indices(num, 0.5, seed)
    large, rest = split_indices(num + more, 0.5, seed)
    np.testing.assert_array_equal(large[large < num], small)
    assert len(large) + len(rest) == num + more


def test_membership_is_pinned_and_uniform():
    """Golden: a change here would leak validation data into resumed trainings."""
    assert split_indices(16, 0.5, 0)[0].tolist() == [3, 4, 6, 7, 11, 12, 14]
    train, _ = split_indices(100_000, 0.9, 7)
    assert len(train) == pytest.approx(90_000, abs=500)  # 5 standard deviations
    both = np.intersect1d(train, split_indices(100_000, 0.9, 8)[0])
    assert len(both) == pytest.approx(81_000, abs=700)


def test_hash_is_in_the_unit_interval():
    values = hash_uniform(np.arange(10_000), 3)
    assert values.min() >= 0
    assert values.max() < 1
    assert len(np.unique(values)) == 10_000


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_impossible_fraction_is_refused(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_indices(10, fraction, 0)


def test_empty_part_is_refused():
    with pytest.raises(ValueError, match="leave one part of the split empty"):
        split_indices(2, 0.999, 0)
    with pytest.raises(ValueError, match="the validation part of the split is empty"):
        permutation_split(10, 5, 0, seed=0)


def test_permutation_split_is_numpys():
    split = permutation_split(20, 12, 5, seed=3)
    order = np.random.default_rng(3).permutation(20)
    np.testing.assert_array_equal(split.train, order[:12])
    np.testing.assert_array_equal(split.validation, order[12:17])
    np.testing.assert_array_equal(split.test, order[17:])
    with pytest.raises(ValueError, match=r"12 \+ 9 molecules asked for, .* has 20"):
        permutation_split(20, 12, 9, seed=3)


def test_split_is_stored_and_read_back(tmp_path):
    split = permutation_split(20, 12, 5, seed=3)
    read = Split.load(split.save(tmp_path / "split.npz"))
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(read, name), getattr(split, name))
    with pytest.raises(ValueError, match="is no stored split"):
        Split.load(tmp_path / "absent.npz")


def test_damaged_split_is_named(tmp_path):
    file = permutation_split(20, 12, 5, seed=3).save(tmp_path / "split.npz")
    content = file.read_bytes()
    for damaged in (b"{}", b"", content[:-30], content[: len(content) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"split\.npz is no stored split"):
            Split.load(file)
    np.save(tmp_path / "one.npy", np.arange(3))
    with pytest.raises(ValueError, match=r"one\.npy is no stored split"):
        Split.load(tmp_path / "one.npy")
    np.savez(tmp_path / "two.npz", train=[0], validation=[1])
    with pytest.raises(ValueError, match=r"two\.npz is no stored split.*test"):
        Split.load(tmp_path / "two.npz")


@pytest.mark.parametrize(
    "parts",
    [([0, 1], [1], []), ([0, 0], [1], []), ([0], [1], [0]), ([-1], [1], [])],
)
def test_overlap_is_refused(parts):
    with pytest.raises(ValueError, match=r"must stand in one part of the split once"):
        Split(*parts)


@pytest.fixture(scope="module")
def ladders(tmp_path_factory):
    """Forty diatomics, each geometry in three states, shuffled."""
    rng = np.random.default_rng(4)
    distances = np.repeat(rng.uniform(0.7, 1.5, 40), 3)
    order = rng.permutation(120)
    geometry = np.repeat(np.arange(40), 3)[order]
    positions = np.zeros((120, 2, 3))
    positions[:, 1, 0] = distances[order]
    target = tmp_path_factory.mktemp("ladders") / "set"
    with PackedWriter(target) as writer:
        writer.append(
            molecules_of(
                np.full(120, 2),
                {
                    "atomic_numbers": np.tile([8, 1], 120),
                    "positions": positions.reshape(-1, 3),
                    "total_charge": np.tile([0, 1, -1], 40)[order],
                    "spin_multiplicity": np.tile([2, 1, 1], 40)[order],
                },
                names=[f"molecule-{g % 5}" for g in geometry],
            )
        )
    return PackedDataset.open(target), geometry


def test_equal_geometries_stay_together(ladders):
    dataset, geometry = ladders
    inside, outside = geometry_split(dataset, 0.6, seed=1)
    assert not set(geometry[inside]) & set(geometry[outside])
    assert sorted([*inside, *outside]) == list(range(120))
    other, _ = geometry_split(dataset, 0.6, seed=2)
    assert set(other) != set(inside)
    some = np.arange(0, 120, 2)
    chosen, _ = geometry_split(dataset, 0.6, seed=1, molecules=some)
    assert set(chosen) == set(inside) & set(some)


def test_groups_are_found_by_name(ladders):
    dataset, geometry = ladders
    found = group_indices(dataset, ["molecule-1", "molecule-3"])
    np.testing.assert_array_equal(found, np.flatnonzero(np.isin(geometry % 5, [1, 3])))


def test_unknown_group_names_similar_ones(ladders, make_dataset):
    with pytest.raises(ValueError, match=r"called 'molecul-2'; .*molecule-2"):
        group_indices(ladders[0], ["molecul-2"])
    nameless = PackedDataset.open(make_dataset([2]))
    with pytest.raises(ValueError, match="no names are stored"):
        group_indices(nameless, ["water"])
