"""Roots of shards: division, growth, names and levels across pieces, processes."""

import json
import os
import signal

import numpy as np
import pytest
from physnet_training.conversion import job as convert_job
from physnet_training.conversion import pipe
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset


def sizes_of(path):
    return [m["num_molecules"] for m in PackedDataset.open(path).manifests]


def energies(path):
    dataset = PackedDataset.open(path)
    return dataset.take("energy", np.arange(len(dataset)))


@pytest.fixture
def sources(tmp_path, write_source):
    return [
        write_source(tmp_path / f"{name}.npz", [2] * count, seed=count)
        for name, count in (("a", 25), ("b", 4), ("c", 3), ("d", 9))
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_sources_are_divided_and_small_pieces_joined(sources, tmp_path, workers):
    convert(sources, tmp_path / "whole")
    report = convert(sources, tmp_path / "root", shard_molecules=10, workers=workers)
    assert report.num_molecules == 41
    # 25 = 10 + 10 + 5; the pieces behind are joined as long as they fit
    assert sizes_of(tmp_path / "root") == [10, 10, 9, 3, 9]
    assert report.num_shards == 5
    assert [source.num_molecules for source in report.sources] == [25, 4, 3, 9]
    np.testing.assert_array_equal(
        energies(tmp_path / "root"), energies(tmp_path / "whole")
    )
    PackedDataset.open(tmp_path / "root").verify()
    rows = [
        (entry["path"], entry["rows"])
        for manifest in PackedDataset.open(tmp_path / "root").manifests
        for entry in manifest["provenance"]
    ]
    assert rows[:4] == [
        ("a.npz", [0, 10]),
        ("a.npz", [10, 20]),
        ("a.npz", [20, 25]),
        ("b.npz", [0, 4]),
    ]
    assert not list(tmp_path.glob(".*"))


def test_many_molecules_become_shards_unasked(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(convert_job, "SHARD_MOLECULES", 20)
    convert(sources[1:], tmp_path / "few")
    assert (tmp_path / "few" / "manifest.json").exists()
    convert(sources[:1], tmp_path / "many")
    assert sizes_of(tmp_path / "many") == [20, 5]


def test_names_levels_and_labels_across_pieces(tmp_path, make_molecules):
    for name, labels in (("a", ["energy"]), ("b", ["energy", "dipole"])):
        part = make_molecules([2, 3], labels)
        values = part["values"]
        np.savez(
            tmp_path / f"{name}.npz",
            n_atoms=part["n_atoms"],
            numbers=values.pop("atomic_numbers"),
            name=["water", f"only {name}"],
            level_of_theory=f"level {name}",
            **values,
        )
    paths = [tmp_path / "b.npz", tmp_path / "a.npz"]
    convert(paths, tmp_path / "set", energy_unit="eV")
    dataset = PackedDataset.open(tmp_path / "set")
    assert dataset.groups == ("water", "only b", "only a")
    assert dataset.take("group", np.arange(4)).tolist() == [0, 1, 0, 2]
    assert dataset.levels == ("level b", "level a")
    assert dataset.take("level", np.arange(4)).tolist() == [0, 0, 1, 1]
    assert dataset.labels == {"energy": 4, "dipole": 2}
    assert np.isnan(dataset.take("dipole", np.array([2, 3]))).all()


def test_appended_shards_follow(sources, tmp_path):
    root = tmp_path / "root"
    convert(sources[0], root, shard_molecules=10)
    before = energies(root)
    report = convert(sources[3], root, append=True, shard_molecules=10)
    assert (report.num_molecules, report.num_shards) == (9, 1)
    assert sizes_of(root) == [10, 10, 5, 9]
    np.testing.assert_array_equal(energies(root)[:25], before)
    written = json.loads((root / "report.json").read_text())
    assert [c["shards"] for c in written["conversions"]] == [
        ["shard-00000", "shard-00001", "shard-00002"],
        ["shard-00003"],
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"append": True}, r"single is no root of shards.*--shard-molecules"),
        ({}, r"single exists already; choose another target or remove it.*--append"),
    ],
)
def test_a_single_directory_does_not_grow(sources, tmp_path, options, message):
    convert(sources[1], tmp_path / "single")
    with pytest.raises(ValueError, match=message):
        convert(sources[2], tmp_path / "single", **options)
    assert len(PackedDataset.open(tmp_path / "single")) == 4


def test_a_single_directory_becomes_a_root_with_more(sources, tmp_path):
    convert(sources[1], tmp_path / "single")
    paths = [tmp_path / "single", sources[2]]
    convert(paths, tmp_path / "root", shard_molecules=100)
    assert sizes_of(tmp_path / "root") == [7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"append": True}, "absent does not exist, so nothing can be appended"),
        ({"shard_molecules": 0}, "shard_molecules must be at least 1, got 0"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"on_invalid": "ignore"}, "one of error, skip, keep, got 'ignore'"),
    ],
)
def test_wrong_requests(sources, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        convert(sources, tmp_path / "absent", **options)
    assert not (tmp_path / "absent").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_process_that_was_killed_is_reported(sources, tmp_path, monkeypatch):
    def die(task):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(pipe, "_work", die)
    with pytest.raises(RuntimeError, match=r"\.npz: a process .* was ended"):
        convert(sources, tmp_path / "set", workers=2)
    assert not list(tmp_path.glob(".*"))


def test_error_in_a_process_names_the_source(sources, tmp_path, write_source):
    (tmp_path / "e.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"e\.npz cannot be read as NPZ"):
        convert([*sources, tmp_path / "e.npz"], tmp_path / "set", workers=2)
    assert not list(tmp_path.glob(".*"))
