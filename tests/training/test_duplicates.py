"""Exact duplicates: every kind of difference counts, hashes alone decide nothing."""

import numpy as np
import physnet_training.audit.duplicates
import pytest
from data_files import batch, molecules_of
from hypothesis import given, settings
from hypothesis import strategies as st
from physnet_training.audit.duplicates import DuplicateFinder, molecule_hashes
from physnet_training.audit.plausibility import read_for_audit
from physnet_training.packed import PackedDataset, PackedWriter


def write(folder, sources):
    """A dataset of the given molecules: number of atoms, values and level of each."""
    with PackedWriter(folder) as writer:
        for n_atoms, values, level in sources:
            writer.append(molecules_of(np.array([n_atoms]), values, levels=[level]))
    return PackedDataset.open(folder)


def find(dataset, limit=100):
    with DuplicateFinder(dataset, limit=limit) as finder:
        for piece in dataset.batches(read_for_audit(dataset), check=False):
            finder.add(piece)
        return finder.find()


def molecule(**changes):
    values = {
        "atomic_numbers": np.array([8, 1, 1]),
        "positions": np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]),
        "energy": np.array([-10.0]),
        "total_charge": np.array([0]),
        "spin_multiplicity": np.array([1]),
        "pbc": np.zeros((1, 3)),
        "cell": np.full((1, 3, 3), np.nan),
    }
    level = changes.pop("level", "PBE")
    return 3, values | changes, level


MOVED = molecule()[1]["positions"] + np.array([0, 0, 1e-6])
SWAPPED = molecule()[1]["positions"][[0, 2, 1]]
PERIODIC = {"pbc": np.ones((1, 3)), "cell": 9.0 * np.eye(3)[None]}


@pytest.mark.parametrize(
    "other",
    [
        {"positions": MOVED},
        {"positions": SWAPPED},
        {"atomic_numbers": np.array([16, 1, 1])},
        {"total_charge": np.array([2])},
        {"spin_multiplicity": np.array([3])},
        {"spin_multiplicity": np.array([np.nan])},
        {"level": "HF"},
        PERIODIC,
    ],
)
def test_what_differs_is_no_duplicate(tmp_path, other):
    dataset = write(tmp_path / "set", [molecule(), molecule(**other)])
    assert find(dataset).count == 0
    dataset = write(tmp_path / "again", [molecule(**other), molecule(**other)])
    assert find(dataset).count == 1


def test_another_cell_is_another_crystal(tmp_path):
    wider = PERIODIC | {"cell": 9.5 * np.eye(3)[None]}
    dataset = write(tmp_path / "set", [molecule(**PERIODIC), molecule(**wider)])
    assert find(dataset).count == 0


def test_signs_of_zero_and_labels_do_not_matter(tmp_path):
    mirrored = molecule()[1]["positions"].copy()
    mirrored[:, 2] = -0.0
    dataset = write(
        tmp_path / "set",
        [
            molecule(),
            molecule(positions=mirrored, energy=np.array([-10.0005])),
            molecule(energy=np.array([-9.0])),
            molecule(energy=np.array([np.nan])),
        ],
    )
    found = find(dataset)
    assert (found.count, found.contradicting) == (3, 1)
    np.testing.assert_array_equal(found.rows, [[1, 0], [2, 0], [3, 0]])


def test_rows_are_capped_and_the_count_is_not(make_molecules, tmp_path):
    one = make_molecules([4], ["energy"], seed=5)
    with PackedWriter(tmp_path / "set") as writer:
        for _ in range(7):
            writer.append(batch(one))
    found = find(PackedDataset.open(tmp_path / "set"), limit=2)
    assert found.count == 6
    np.testing.assert_array_equal(found.rows, [[1, 0], [2, 0]])


def test_equal_hashes_of_different_molecules(monkeypatch, make_dataset):
    """All hashes the same: every row is compared with the first, none is equal."""
    dataset = PackedDataset.open(make_dataset([3, 3, 2, 3], seed=2))
    monkeypatch.setattr(
        physnet_training.audit.duplicates,
        "molecule_hashes",
        lambda piece: np.zeros(len(piece.rows), np.uint64),
    )
    assert find(dataset).count == 0


def test_hashes_of_many_molecules_differ(make_dataset):
    dataset = PackedDataset.open(make_dataset([2] * 5000, labels=["energy"]))
    hashes = np.concatenate(
        [
            molecule_hashes(piece)
            for piece in dataset.batches(read_for_audit(dataset), check=False)
        ]
    )
    assert len(np.unique(hashes)) == 5000
    # every bit is set in about half of them
    bits = (hashes[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.05


@settings(deadline=None, max_examples=20)
@given(
    copies=st.lists(st.integers(0, 4), min_size=1, max_size=30),
    buckets=st.integers(1, 5),
)
def test_any_arrangement(tmp_path_factory, make_molecules, copies, buckets):
    """Compared with a dictionary; also when hashes are spread over several files."""
    kinds = [make_molecules([2 + kind % 3], ["energy"], seed=kind) for kind in range(5)]
    folder = tmp_path_factory.mktemp("copies") / "set"
    with PackedWriter(folder) as writer:
        for kind in copies:
            writer.append(batch(kinds[kind]))
    first, expected = {}, []
    for row, kind in enumerate(copies):
        if kind in first:
            expected.append((row, first[kind]))
        first.setdefault(kind, row)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            physnet_training.audit.duplicates, "_PER_BUCKET", -(-len(copies) // buckets)
        )
        patch.setattr(physnet_training.audit.duplicates, "_CONFIRM", 4)
        found = find(PackedDataset.open(folder))
    assert found.count == len(expected)
    assert found.rows.tolist() == [list(pair) for pair in expected]
