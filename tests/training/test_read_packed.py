"""Packed datasets as sources: ours, the origin's, sharded; nothing is lost."""

import shutil

import numpy as np
import pytest
from data_files import molecules_of
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset, PackedWriter, reader
from physnet_training.sources.formats import find_format
from physnet_training.sources.keys import Reading, ReadOptions
from physnet_training.sources.read_packed import read_packed

from physnet_ase.molecules import concatenate
from physnet_ase.quantities import QUANTITIES

SIZES = [3, 1, 4, 2, 5]
NAMES = ["water", "ion", "", "water", "other"]
LEVELS = ["low", "high", "low", "", "high"]


def read(path, **options):
    reading = Reading()
    return concatenate(
        list(read_packed(path, ReadOptions(**options), reading))
    ), reading.units


@pytest.fixture
def molecules(make_molecules):
    """Molecules of which some lack a label, and one its multiplicity."""
    found = make_molecules(SIZES, ["energy", "forces", "stress"])
    values = found["values"]
    values["energy"][1] = values["stress"][3] = np.nan
    values["forces"][:3] = np.nan
    values["spin_multiplicity"] = values["spin_multiplicity"].astype(float)
    values["spin_multiplicity"][4] = np.nan
    values["cell"] = np.full((5, 3, 3), np.nan)
    values["cell"][2] = 9 * np.eye(3)
    values["pbc"] = np.zeros((5, 3), np.uint8)
    values["pbc"][2] = 1
    return found


def write(path, molecules, rows=slice(None)):
    """Some of the molecules, with names and levels."""
    with PackedWriter(path) as writer:
        ends = np.cumsum(SIZES)
        for row in np.arange(len(SIZES))[rows]:
            own = slice(ends[row] - SIZES[row], ends[row])
            values = {
                name: array[own if QUANTITIES[name].per_atom else slice(row, row + 1)]
                for name, array in molecules["values"].items()
            }
            writer.append(
                molecules_of(
                    np.array(SIZES[row : row + 1]),
                    values,
                    names=NAMES[row : row + 1],
                    levels=LEVELS[row : row + 1],
                )
            )


def same(dataset, molecules):
    for name, wanted in molecules["values"].items():
        found = dataset.take(name, np.arange(len(wanted)))
        np.testing.assert_array_equal(found, wanted.astype(QUANTITIES[name].dtype))
    rows = np.arange(len(SIZES))
    for key, words in (("group", NAMES), ("level", LEVELS)):
        known = {"group": dataset.groups, "level": dataset.levels}[key]
        assert [(*known, "")[i] for i in dataset.take(key, rows)] == words


def test_everything_is_kept_without_being_asked_for(tmp_path, molecules, monkeypatch):
    write(tmp_path / "one", molecules)
    monkeypatch.setattr(reader, "_BATCH_MOLECULES", 2)
    report = convert(tmp_path / "one", tmp_path / "set")  # NaN needs no option
    same(PackedDataset.open(tmp_path / "set"), molecules)
    assert report.sources[0].units["energy"] == "eV (the file says so of energy)"
    assert find_format(tmp_path / "one").count(tmp_path / "one") == 5


def test_root_of_shards(tmp_path, molecules):
    write(tmp_path / "root" / "shard-00000", molecules, slice(0, 2))
    write(tmp_path / "root" / "shard-00001", molecules, slice(2, 5))
    assert find_format(tmp_path / "root").name == "packed dataset"
    convert(tmp_path / "root", tmp_path / "set")
    same(PackedDataset.open(tmp_path / "set"), molecules)


def test_pieces_are_cut_by_atoms(tmp_path, molecules, monkeypatch):
    write(tmp_path / "one", molecules)
    monkeypatch.setattr(reader, "_BATCH_ATOMS", 4)
    pieces = list(read_packed(tmp_path / "one", ReadOptions(first_row=1), Reading()))
    assert [piece.rows.tolist() for piece in pieces] == [[1], [2], [3], [4]]


def test_conditions(tmp_path, molecules):
    write(tmp_path / "one", molecules)
    assert read(tmp_path / "one", where={"name": "water"})[0].rows.tolist() == [0, 3]
    where = {"name": "water", "level": "low"}
    assert read(tmp_path / "one", where=where)[0].rows.tolist() == [0]
    charge = molecules["values"]["total_charge"]
    found, _ = read(tmp_path / "one", where={"total_charge": str(charge[1])})
    assert found.rows.tolist() == np.flatnonzero(charge == charge[1]).tolist()
    with pytest.raises(
        ValueError, match="--where forces=1: no such key; present: name"
    ):
        read(tmp_path / "one", where={"forces": "1"})


def test_origin_layout_without_a_manifest(tmp_path, molecules):
    del molecules["values"]["stress"]
    write(tmp_path / "one", molecules)
    folder = tmp_path / "one"
    for file in ("manifest.json", "level.i16", "group.i32", "total_charge.f32"):
        (folder / file).unlink()
    charge = molecules["values"]["total_charge"]
    charge.astype("<f8").tofile(folder / "Qtot.f64")
    convert(folder, tmp_path / "set")
    dataset = PackedDataset.open(tmp_path / "set")
    np.testing.assert_array_equal(dataset.take("total_charge", np.arange(5)), charge)
    assert dataset.labels == {"energy": 4, "forces": 4}
    assert (dataset.levels, dataset.groups) == ((), ())
    assert read(folder, level="HF")[0].levels.tolist() == ["HF"] * 5


def test_contradicting_unit_and_damage(tmp_path, molecules):
    write(tmp_path / "one", molecules)
    with pytest.raises(
        ValueError, match="one: .* in eV by the file, in hartree by the"
    ):
        read(tmp_path / "one", energy_unit="hartree")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    with (tmp_path / "two" / "F_pack.f32").open("ab") as file:
        file.write(b"1234")
    with pytest.raises(ValueError, match=r"file size mismatch: .*F_pack\.f32"):
        read(tmp_path / "two")
    assert find_format(tmp_path / "two").count(tmp_path / "two") is None
