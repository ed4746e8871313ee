"""Invalid molecules: refused, left out or kept, and listed with their rows."""

import csv

import numpy as np
import pytest
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset

LABELS = ("energy", "forces", "dipole")


@pytest.fixture
def damaged(make_molecules, write_source, tmp_path):
    """Ten molecules of three atoms, several of them invalid, and what they hold."""
    molecules = make_molecules([3] * 10, LABELS)
    values = molecules["values"]
    values["energy"][2] = np.nan
    values["forces"][3 * 4 + 1, 2] = np.inf
    values["dipole"][4, 0] = 1e39  # not finite in float32
    values["spin_multiplicity"][6] += 1
    values["positions"][3 * 8 + 1] = values["positions"][3 * 8]
    write_source(tmp_path / "a.npz", molecules=molecules)
    return values


def listed(folder):
    with (folder / "invalid_rows.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_skipped_rows_are_left_out_and_listed(damaged, tmp_path):
    report = convert(tmp_path / "a.npz", tmp_path / "set", on_invalid="skip")
    dataset = PackedDataset.open(tmp_path / "set")
    kept = [0, 1, 3, 5, 7, 9]
    np.testing.assert_array_equal(
        dataset.take("energy", np.arange(6)), damaged["energy"][kept]
    )
    rows = listed(tmp_path / "set")
    assert [int(row["row"]) for row in rows] == [2, 4, 6, 8]
    assert {row["action"] for row in rows} == {"skipped"}
    assert {row["source"] for row in rows} == {str(tmp_path / "a.npz")}
    assert "energy is nan" in rows[0]["reason"]
    assert dataset.manifests[0]["invalid_rows"] == {"skipped": 4}
    assert report.sources[0].num_skipped == 4
    assert report.sources[0].num_kept == 0
    assert report.num_molecules == 6
    assert "invalid_rows.csv" in dataset.manifests[0]["sha256"]
    dataset.verify()


def test_kept_rows_lose_only_their_broken_labels(damaged, tmp_path):
    report = convert(tmp_path / "a.npz", tmp_path / "set", on_invalid="keep")
    dataset = PackedDataset.open(tmp_path / "set")
    assert dataset.labels == {"energy": 9, "forces": 9, "dipole": 9}
    rows = np.arange(10)
    expected = np.where(rows == 2, np.nan, damaged["energy"])
    np.testing.assert_array_equal(dataset.take("energy", rows), expected)
    forces = dataset.take("forces", np.arange(30)).reshape(10, 9)
    np.testing.assert_array_equal(np.isnan(forces).all(axis=1), rows == 4)
    assert np.isfinite(forces[rows != 4]).all()
    dipole = dataset.take("dipole", rows)
    np.testing.assert_array_equal(np.isnan(dipole).all(axis=1), rows == 4)
    spin = dataset.take("spin_multiplicity", rows)
    np.testing.assert_array_equal(spin, damaged["spin_multiplicity"])
    assert [row["row"] for row in listed(tmp_path / "set")] == ["2", "4", "6", "8"]
    assert report.sources[0].num_kept == 4


def test_error_says_how_to_go_on(damaged, tmp_path):
    with pytest.raises(ValueError, match=r"molecule 2 .*energy is nan.*on-invalid sk"):
        convert(tmp_path / "a.npz", tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_what_no_dataset_can_hold_is_not_kept(make_molecules, write_source, tmp_path):
    molecules = make_molecules([2, 2, 2], ["energy"])
    molecules["values"]["energy"][1] = np.nan
    molecules["values"]["positions"][2] = np.inf
    write_source(tmp_path / "a.npz", molecules=molecules)
    with pytest.raises(ValueError, match=r"molecule 1.*positions is .*skip leaves it"):
        convert(tmp_path / "a.npz", tmp_path / "set", on_invalid="keep")
    convert(tmp_path / "a.npz", tmp_path / "set", on_invalid="skip")
    assert len(PackedDataset.open(tmp_path / "set")) == 2


def test_nothing_left_is_an_error(make_molecules, write_source, tmp_path):
    molecules = make_molecules([2, 2], ["energy"])
    molecules["values"]["energy"][:] = np.nan
    write_source(tmp_path / "a.npz", molecules=molecules)
    with pytest.raises(ValueError, match=r"zero molecules, all 2 were invalid"):
        convert(tmp_path / "a.npz", tmp_path / "set", on_invalid="skip")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_rows_are_listed_with_their_shard(damaged, tmp_path, write_source, size):
    write_source(tmp_path / "b.npz", [2])
    convert(
        [tmp_path / "a.npz", tmp_path / "b.npz"],
        tmp_path / "root",
        on_invalid="skip",
        shard_molecules=size,
    )
    dataset = PackedDataset.open(tmp_path / "root")
    assert len(dataset) == 7
    found = []
    for folder, manifest in zip(
        sorted((tmp_path / "root").glob("shard-*")), dataset.manifests, strict=True
    ):
        first, end = manifest["provenance"][0]["rows"]
        rows = listed(folder) if (folder / "invalid_rows.csv").exists() else []
        assert all(first <= int(row["row"]) < end for row in rows)
        assert manifest["invalid_rows"].get("skipped", 0) == len(rows)
        found += [int(row["row"]) for row in rows]
    assert found == [2, 4, 6, 8]
    dataset.verify()


def test_assumptions_count_only_what_was_taken(make_molecules, write_source, tmp_path):
    molecules = make_molecules([2, 2, 2], ["energy"])
    del molecules["values"]["spin_multiplicity"]
    molecules["values"]["energy"][1] = np.nan
    write_source(tmp_path / "a.npz", molecules=molecules)
    report = convert(
        tmp_path / "a.npz",
        tmp_path / "root",
        on_invalid="skip",
        assume_multiplicity="lowest",
        shard_molecules=1,
    )
    assert report.sources[0].notes == [
        "2 molecules: no multiplicity stored, the lowest possible taken"
    ]
