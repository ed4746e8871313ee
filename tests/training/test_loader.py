"""The loader's order, sharding, resume, and its dense batches."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from physnet_training import PackedMemmapLoader, split_loader
from physnet_training.packed import PackedDataset

SIZES = tuple(np.random.default_rng(1).integers(1, 9, 53).tolist())


@pytest.fixture(scope="module")
def folder(make_dataset):
    return make_dataset(SIZES, seed=5)


def epoch_of(loader):
    """Indices in the order in which one epoch yields them."""
    rows = [batch["index"] for batch in loader.batches(physnet_format=False)]
    return [index for row in rows for index in row.tolist() if index >= 0]


@settings(max_examples=30, deadline=None)
@given(
    batch_size=st.integers(1, 60),
    bucket_size=st.integers(1, 70),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**40),
)
def test_each_molecule_once_per_epoch(folder, batch_size, bucket_size, shuffle, seed):
    loader = PackedMemmapLoader(folder, batch_size, shuffle, bucket_size, seed)
    for _ in range(2):
        assert sorted(epoch_of(loader)) == list(range(len(SIZES)))


def test_order_changes_with_epoch_and_seed_only(folder):
    loader = PackedMemmapLoader(folder, 8)
    first, second = epoch_of(loader), epoch_of(loader)
    assert first != second
    assert first != epoch_of(PackedMemmapLoader(folder, 8, seed=1))
    again = PackedMemmapLoader(folder, 8)
    again.restore(again.state() | {"epoch": 1})
    assert epoch_of(again) == second  # although epoch 0 was never read


def test_without_shuffle_the_order_is_that_of_the_files(folder):
    loader = PackedMemmapLoader(folder, 8, shuffle=False)
    assert epoch_of(loader) == list(range(len(SIZES)))
    assert epoch_of(loader) == list(range(len(SIZES)))


def test_sorting_inside_windows_saves_padding(folder):
    def padded(bucket_size):
        loader = PackedMemmapLoader(folder, 8, bucket_size=bucket_size)
        return sum(batch["Z"].size for batch in loader.batches())

    assert padded(8192) < 0.8 * padded(1)


@settings(max_examples=25, deadline=None)
@given(batch_size=st.integers(1, 20), stop=st.integers(0, 60), shuffle=st.booleans())
def test_resume_continues_with_identical_batches(folder, batch_size, stop, shuffle):
    straight = PackedMemmapLoader(folder, batch_size, shuffle)
    expected = [b for _ in range(2) for b in straight.batches()]
    loader = PackedMemmapLoader(folder, batch_size, shuffle)
    stop = min(stop, 2 * loader.num_batches)
    taken = 0
    while taken < stop:
        for _ in loader.batches():
            taken += 1
            if taken == stop:
                break
    resumed = PackedMemmapLoader(folder, batch_size, shuffle)
    resumed.restore(json.loads(json.dumps(loader.state())))
    rest = []
    while len(rest) < len(expected) - stop:
        rest += resumed.batches()
    for got, want in zip(rest, expected[stop:], strict=True):
        assert got.keys() == want.keys()
        for key in got:
            np.testing.assert_array_equal(got[key], want[key])


@settings(max_examples=20, deadline=None)
@given(processes=st.integers(1, 5), batch_size=st.integers(1, 30))
def test_processes_share_an_epoch_without_overlap(folder, processes, batch_size):
    seen = []
    counts = set()
    for index in range(processes):
        loader = PackedMemmapLoader(
            folder, batch_size, process_index=index, process_count=processes
        )
        batches = list(loader.batches())
        counts.add(len(batches))
        seen += [i for b in batches for i in b["index"].tolist() if i >= 0]
    assert sorted(seen) == list(range(len(SIZES)))
    assert len(counts) == 1  # all take the same number of steps


def test_dense_batch_holds_the_molecules(folder):
    dataset = PackedDataset.open(folder)
    for batch in PackedMemmapLoader(folder, 8).batches(num_atoms=9):
        assert batch["Z"].shape == (8, 9)
        assert batch["E"].dtype == np.float64
        for row, index in enumerate(batch["index"]):
            n = batch["N"][row]
            assert batch["mask"][row].sum() == n
            assert not batch["Z"][row, n:].any()
            if index < 0:
                assert n == 0
                continue
            one, atoms = np.array([index]), dataset.atom_rows(np.array([index]))
            for key, name in (
                ("Z", "atomic_numbers"),
                ("R", "positions"),
                ("F", "forces"),
            ):
                np.testing.assert_array_equal(
                    batch[key][row, :n], dataset.take(name, atoms)
                )
            assert batch["E"][row] == dataset.take("energy", one)[0]
            assert batch["total_charge"][row] == dataset.take("total_charge", one)[0]
            assert batch["total_spin"][row] == dataset.multiplicities(one)[0]


def test_pairs_of_a_dense_batch_stay_inside_molecules(folder):
    for batch in PackedMemmapLoader(folder, 8).batches():
        dst, src = batch["dst_idx"], batch["src_idx"]
        segment = batch["batch_segments"]
        assert segment.tolist() == np.repeat(np.arange(8), batch["Z"].shape[1]).tolist()
        real = batch["mask"].ravel()
        expected = {
            (i, j)
            for i in np.flatnonzero(real)
            for j in np.flatnonzero(real)
            if i != j and segment[i] == segment[j]
        }
        assert set(zip(dst.tolist(), src.tolist(), strict=True)) == expected
        assert len(dst) == len(expected)


def test_few_widths_without_num_atoms(folder):
    loader = PackedMemmapLoader(folder, 4)
    assert {batch["Z"].shape[1] for batch in loader.batches()} <= set(range(1, 9))


def test_num_atoms_below_the_largest_molecule_is_refused(folder):
    row = int(np.argmax(SIZES))
    with pytest.raises(ValueError, match=f"at least 8, the size of molecule {row}"):
        PackedMemmapLoader(folder, 4).batches(num_atoms=7)


def test_state_of_another_loader_is_refused(folder):
    state = PackedMemmapLoader(folder, 4).state()
    with pytest.raises(ValueError, match="batch_size = 4, this loader has 5"):
        PackedMemmapLoader(folder, 5).restore(state)
    with pytest.raises(ValueError, match="lacks 'index'"):
        PackedMemmapLoader(folder, 4).restore({"epoch": 0})
    with pytest.raises(ValueError, match="names batch 99 of epoch 0"):
        PackedMemmapLoader(folder, 4).restore(state | {"index": 99})


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": 2, "bucket_size": 0},
        {"batch_size": 2, "seed": -1},
        {"batch_size": 2, "process_index": 1},
    ],
)
def test_impossible_settings_are_refused(folder, options):
    with pytest.raises(ValueError, match=f"{list(options)[-1]} must be"):
        PackedMemmapLoader(folder, **options)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([], "at least one"),
        ([0, 53], "molecule 53 is outside"),
        ([1, 1], "each molecule once"),
    ],
)
def test_bad_subsets_are_refused(folder, indices, message):
    with pytest.raises(ValueError, match=message):
        PackedMemmapLoader(folder, 4).subset(indices)


def test_split_loader_divides_the_molecules(folder):
    loader = PackedMemmapLoader(folder, 4)
    train, validation = split_loader(loader, 0.7, seed=3)
    assert sorted(epoch_of(train) + epoch_of(validation)) == list(range(len(SIZES)))
    other, _ = split_loader(PackedMemmapLoader(folder, 9, seed=8), 0.7, seed=3)
    assert set(epoch_of(other)) == set(epoch_of(train))


def test_reading_imports_no_jax(folder):
    code = (
        "import sys; from physnet_training import PackedMemmapLoader as L;"
        f"loader = L({str(folder)!r}, 4);"
        "next(loader.batches()); next(loader.graphs());"
        "sys.exit(any(name.split('.')[0] in ('jax', 'flax') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
