"""The packed dataset: round trip, damage, shards, the origin's layout."""

import json
import shutil

import numpy as np
import pytest
from physnet_training.packed import PackedDataset
from physnet_training.packed.files import MANIFEST

from physnet_ase.quantities import QUANTITIES

SIZES = (3, 1, 4, 2, 3)


@pytest.fixture
def folder(make_dataset, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(make_dataset(SIZES), tmp_path / "set")


def test_reads_back_what_was_written(make_molecules, make_dataset):
    molecules = make_molecules(SIZES, seed=3)
    dataset = PackedDataset.open(make_dataset(molecules=molecules))
    assert (dataset.num_molecules, dataset.num_atoms) == (5, 13)
    np.testing.assert_array_equal(dataset.n_atoms, SIZES)
    for name, written in molecules["values"].items():
        rows = np.arange(13 if QUANTITIES[name].per_atom else 5)
        expected = written.astype(QUANTITIES[name].dtype)
        np.testing.assert_array_equal(dataset.take(name, rows), expected)
    assert dataset.labels == dict.fromkeys(
        ("energy", "forces", "dipole", "charges", "spin_populations", "stress"), 5
    )
    assert sum(dataset.states.values()) == 5
    assert dataset.spin_known


def test_energy_keeps_double_precision(make_molecules, make_dataset):
    molecules = make_molecules((2,), labels=["energy"])
    molecules["values"]["energy"] = np.array([-12345.678901234567])
    dataset = PackedDataset.open(make_dataset(molecules=molecules))
    assert dataset.take("energy", np.array([0]))[0] == -12345.678901234567


def test_shards_read_as_one(make_molecules, make_dataset, tmp_path):
    parts = [make_molecules((2, 3), seed=1), make_molecules((4,), ["energy"], seed=2)]
    for index, part in enumerate(parts):
        shard = tmp_path / f"shard-{index:05d}"
        shutil.copytree(make_dataset(molecules=part), shard)
    dataset = PackedDataset.open(tmp_path)
    np.testing.assert_array_equal(dataset.n_atoms, [2, 3, 4])
    np.testing.assert_array_equal(dataset.offsets, [0, 2, 5, 9])
    energies = dataset.take("energy", np.array([2, 0, 1]))
    first, second = (part["values"]["energy"] for part in parts)
    np.testing.assert_array_equal(energies, [second[0], first[0], first[1]])
    dipole = dataset.take("dipole", np.array([1, 2]))
    assert np.isfinite(dipole[0]).all()
    assert np.isnan(dipole[1]).all()
    assert dataset.labels["dipole"] == 2
    assert dataset.verify() > 10


def test_missing_shard_is_named(make_dataset, tmp_path):
    for index in (0, 2):
        shutil.copytree(make_dataset((2,)), tmp_path / f"shard-{index:05d}")
    with pytest.raises(ValueError, match=r"expected shard-00001, found shard-00002"):
        PackedDataset.open(tmp_path)


def test_origin_layout_without_manifest(folder):
    """No manifest, Qtot.f64 instead of total_charge, no spin, no checksums."""
    charge = np.fromfile(folder / "total_charge.f32", "<f4")
    charge.astype("<f8").tofile(folder / "Qtot.f64")
    for name in (MANIFEST, "total_charge.f32", "total_spin.f32"):
        (folder / name).unlink()
    dataset = PackedDataset.open(folder)
    np.testing.assert_array_equal(dataset.take("total_charge", np.arange(5)), charge)
    assert dataset.elements == (1, 8)
    assert dataset.labels["forces"] == 5
    assert not dataset.spin_known
    assert dataset.states == {}
    with pytest.raises(ValueError, match=r"no spin multiplicity for molecule 0"):
        dataset.states_of(np.arange(5))
    with pytest.raises(ValueError, match="no checksums"):
        dataset.verify()
    assumed = PackedDataset.open(folder, assume_multiplicity="lowest")
    numbers = np.fromfile(folder / "Z_pack.int32", "<i4")
    protons = np.add.reduceat(numbers, np.cumsum(SIZES) - SIZES)
    np.testing.assert_array_equal(
        assumed.states_of(np.arange(5))[1], 1 + (protons - charge) % 2
    )


@pytest.mark.parametrize(
    "name",
    [
        QUANTITIES[name].file
        for name in QUANTITIES
        if name
        not in (
            "cell",
            "pbc",
            "s_squared",
            "weight",
            "level",
            "group",
        )  # not in this one
    ],
)
def test_truncated_file_is_named_with_its_sizes(folder, name):
    path = folder / name
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    expected = rf"size mismatch: .*{name} has {size - 1} bytes, expected {size}"
    with pytest.raises(ValueError, match=expected):
        PackedDataset.open(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "R_pack.f32").unlink(), r"R_pack\.f32 is missing"),
        (lambda f: (f / "D.f32").unlink(), r"D\.f32 is missing"),
        (lambda f: (f / "n_atoms.npy").unlink(), r"n_atoms\.npy is missing"),
        (lambda f: (f / "n_atoms.npy").write_bytes(b"\x93NUMPY"), "cannot be read"),
        (lambda f: np.save(f / "offsets.npy", np.zeros(3, int)), "3 offsets, but 5"),
        (lambda f: np.save(f / "offsets.npy", np.arange(6)), "disagree at molecule 0"),
        (lambda f: np.save(f / "n_atoms.npy", np.zeros((2, 2))), "one-dimensional"),
        (lambda f: (f / MANIFEST).write_text("{"), "manifest.json cannot be read"),
        (lambda f: (f / MANIFEST).write_text("{}"), "no schema_version"),
        (lambda f: (f / "total_charge.f32").unlink(), r"charges are unknown"),
    ],
)
def test_damage_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        PackedDataset.open(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema_version", 99, "schema_version 99, this version reads up to 1"),
        ("num_molecules", 7, "says num_molecules = 7, the files hold 5"),
    ],
)
def test_manifest_that_disagrees_is_refused(folder, key, value, message):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {key: value}))
    with pytest.raises(ValueError, match=message):
        PackedDataset.open(folder)


def test_verify_finds_one_changed_byte(folder):
    assert PackedDataset.open(folder).verify() == 12
    content = bytearray((folder / "F_pack.f32").read_bytes())
    content[5] ^= 1
    (folder / "F_pack.f32").write_bytes(content)
    with pytest.raises(ValueError, match=r"F_pack\.f32 was changed"):
        PackedDataset.open(folder).verify()


def test_unknown_assumption_and_path_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="None or 'lowest'"):
        PackedDataset.open(folder, assume_multiplicity="highest")
    with pytest.raises(ValueError, match="is no directory"):
        PackedDataset.open(tmp_path / "nowhere")


def test_fractional_charge_is_refused(folder):
    np.full(5, 0.5, "<f4").tofile(folder / "total_charge.f32")
    with pytest.raises(ValueError, match=r"molecule 1 has charge 0\.5"):
        PackedDataset.open(folder).states_of(np.array([1]))
