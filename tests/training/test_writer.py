"""The writer: optional arrays, names, and nothing half-written."""

import json

import numpy as np
import pytest
from data_files import batch, molecules_of
from physnet_training.packed import PackedDataset, PackedWriter
from physnet_training.packed import writer as writer_module


def test_label_that_comes_late_is_missing_before(make_molecules, tmp_path):
    first = make_molecules((2, 3), ["energy"])
    second = make_molecules((1, 4), ["energy", "dipole", "charges"])
    with PackedWriter(tmp_path / "set") as writer:
        for part in (first, second):
            writer.append(batch(part))
    dataset = PackedDataset.open(tmp_path / "set")
    dipole = dataset.take("dipole", np.arange(4))
    assert np.isnan(dipole[:2]).all()
    np.testing.assert_array_equal(
        dipole[2:], second["values"]["dipole"].astype(np.float32)
    )
    charges = dataset.take("charges", np.arange(10))
    np.testing.assert_array_equal(np.isnan(charges), np.arange(10) < 5)
    assert dataset.labels == {"energy": 4, "dipole": 2, "charges": 2}


def test_files_without_content_are_not_written(make_molecules, tmp_path):
    part = make_molecules((2, 3), ["energy"])
    part["values"]["dipole"] = np.full((2, 3), np.nan)
    part["values"]["pbc"] = np.zeros((2, 3))
    with PackedWriter(tmp_path / "set") as writer:
        writer.append(batch(part))
    names = {path.name for path in (tmp_path / "set").iterdir()}
    assert names == {
        "manifest.json",
        "offsets.npy",
        "n_atoms.npy",
        "Z_pack.int32",
        "R_pack.f32",
        "F_pack.f32",
        "E.f64",
        "total_charge.f32",
        "total_spin.f32",
    }


def test_names_and_levels(make_molecules, tmp_path):
    part = make_molecules((2, 3, 2))
    with PackedWriter(tmp_path / "set") as writer:
        writer.append(
            molecules_of(
                part["n_atoms"],
                part["values"],
                names=["water", "", "hydroxyl"],
                levels=["B3LYP", "B3LYP", "HF"],
            )
        )
    dataset = PackedDataset.open(tmp_path / "set")
    assert dataset.groups == ("water", "hydroxyl")
    assert dataset.levels == ("B3LYP", "HF")
    np.testing.assert_array_equal(dataset.take("group", np.arange(3)), [0, -1, 1])
    np.testing.assert_array_equal(dataset.take("level", np.arange(3)), [0, 0, 1])


def test_too_many_names_are_dropped_and_noted(make_molecules, tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "MAX_GROUPS", 2)
    part = make_molecules((2, 2, 2))
    with PackedWriter(tmp_path / "set") as writer:
        writer.append(batch(part, names=["a", "b", "c"]))
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["groups"] == []
    assert "more than 2 distinct names" in manifest["notes"][0]
    assert not (tmp_path / "set" / "group.i32").exists()


def test_more_levels_than_numbers_are_refused(make_molecules, tmp_path):
    part = make_molecules([1] * 40_000, ["energy"])
    levels = [str(number) for number in range(1, 40_001)]
    writer = PackedWriter(tmp_path / "set")
    with pytest.raises(ValueError, match=r"different levels .*'40000.*at most 32767"):
        writer.append(batch(part, levels=levels))
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_existing_target_is_refused_and_untouched(make_molecules, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "precious").write_text("data")
    with pytest.raises(ValueError, match="exists already; choose another"):
        PackedWriter(tmp_path / "set")
    assert (tmp_path / "set" / "precious").read_text() == "data"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def write(target, part, then=lambda writer: None):
    with PackedWriter(target) as writer:
        writer.append(batch(part))
        then(writer)


def test_nothing_remains_when_interrupted(make_molecules, tmp_path):
    def interrupt(writer):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "set", make_molecules((2, 3)), interrupt)
    assert list(tmp_path.iterdir()) == []


def test_target_that_appears_meanwhile_is_not_replaced(make_molecules, tmp_path):
    with pytest.raises(ValueError, match="appeared while it was being written"):
        write(
            tmp_path / "set",
            make_molecules((2, 3)),
            lambda writer: (tmp_path / "set").mkdir(),
        )
    assert list(tmp_path.rglob("*")) == [tmp_path / "set"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"forces": np.zeros((4, 3))}, r"forces has shape \(4, 3\), expected \(5, 3\)"),
        ({"energy": np.zeros(1)}, r"energy has shape \(1,\), expected \(2,\)"),
        ({"weights": np.zeros(2)}, "unknown quantity 'weights'"),
    ],
)
def test_wrong_arrays_are_named_and_leave_nothing(
    make_molecules, tmp_path, change, message
):
    part = make_molecules((2, 3))
    part["values"] |= change
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "set", part)
    assert list(tmp_path.iterdir()) == []


def test_missing_charge_is_named(make_molecules, tmp_path):
    part = make_molecules((2, 3))
    del part["values"]["total_charge"]
    with pytest.raises(ValueError, match=r"missing arrays \['total_charge'\]"):
        write(tmp_path / "set", part)


def test_zero_molecules_are_refused(tmp_path):
    with (
        pytest.raises(ValueError, match="zero molecules"),
        PackedWriter(tmp_path / "s"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
