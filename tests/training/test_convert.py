"""Conversion: the numbers of a file reach the batches, in eV, Å and e."""

import gzip
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from data_files import write_extxyz, write_ragged
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset

from physnet_ase.units import BOHR, HARTREE

SHIPPED = Path(__file__).parents[2] / "training" / "data" / "states_dft"
EVERY = ("energy", "forces", "dipole", "charges", "spin_populations")


def test_units_in_the_file_are_converted(tmp_path, make_molecules):
    molecules = make_molecules([2, 3], EVERY)
    units = {"energy": "hartree", "forces": "hartree/bohr", "dipole": "e*bohr"}
    units["positions"] = "bohr"
    write_ragged(tmp_path / "a.npz", molecules, units)
    report = convert(tmp_path / "a.npz", tmp_path / "set")
    assert report.sources[0].units["energy"].startswith("hartree (the file says so")
    dataset = PackedDataset.open(tmp_path / "set")
    values = molecules["values"]
    for name, rows, factor in (
        ("energy", 2, HARTREE),
        ("dipole", 2, BOHR),
        ("positions", 5, BOHR),
        ("forces", 5, HARTREE / BOHR),
        ("charges", 5, 1.0),
    ):
        found = dataset.take(name, np.arange(rows))
        np.testing.assert_allclose(found, factor * values[name], rtol=2e-7)


def test_option_and_file_that_disagree_are_refused(tmp_path, make_molecules):
    write_ragged(tmp_path / "a.npz", make_molecules([2], ["energy"]), {"energy": "eV"})
    with pytest.raises(ValueError, match="eV by the file, in hartree by the options"):
        convert(tmp_path / "a.npz", tmp_path / "set", energy_unit="hartree")


def test_gradient_key_with_units_is_negated(tmp_path):
    text = (
        "2\nProperties=species:S:1:pos:R:3:gradient_hartree_bohr:R:3 charge=1 "
        'mult=2 energy_hartree=-0.5 method=HF basis=sto-3g pbc="F F F"\n'
        "H 0 0 0 0.25 0 0\nH 0 0 1 -0.25 0 0\n"
    )
    (tmp_path / "a.xyz").write_text(text)
    convert(tmp_path / "a.xyz", tmp_path / "set")
    dataset = PackedDataset.open(tmp_path / "set")
    forces = dataset.take("forces", np.arange(2))
    np.testing.assert_allclose(forces[:, 0], [-12.8555168, 12.8555168], rtol=1e-7)
    assert dataset.take("energy", np.array([0]))[0] == pytest.approx(-13.605693122994)
    assert dataset.states == {(1, 2): 1}
    assert dataset.levels == ("HF/sto-3g",)


def test_gzip_and_filter(tmp_path, make_molecules):
    write_extxyz(tmp_path / "a.extxyz", make_molecules([2] * 30, ["energy"]))
    packed = gzip.compress((tmp_path / "a.extxyz").read_bytes())
    (tmp_path / "a.extxyz.gz").write_bytes(packed)
    convert(tmp_path / "a.extxyz.gz", tmp_path / "all")
    every = PackedDataset.open(tmp_path / "all").take("total_charge", np.arange(30))
    report = convert(
        tmp_path / "a.extxyz.gz", tmp_path / "some", where={"charge": "-1"}
    )
    assert report.num_molecules == (every == -1).sum() > 0
    with pytest.raises(ValueError, match=r"zero molecules with \{'charge': '9'\}"):
        convert(tmp_path / "a.extxyz.gz", tmp_path / "none", where={"charge": "9"})


def test_frames_may_lack_a_label(tmp_path):
    with_forces = Atoms("He", info={"charge": 0, "spin": 1})
    with_forces.calc = SinglePointCalculator(
        with_forces, energy=-2.0, forces=np.zeros((1, 3))
    )
    without = Atoms("He", info={"charge": 1, "spin": 2})
    without.calc = SinglePointCalculator(without, energy=-1.0)
    ase.io.write(tmp_path / "a.xyz", [with_forces, without], format="extxyz")
    convert(tmp_path / "a.xyz", tmp_path / "set")
    dataset = PackedDataset.open(tmp_path / "set")
    assert dataset.labels == {"energy": 2, "forces": 1}


def test_periodic_cells_are_kept(tmp_path):
    atoms = Atoms("Ar", cell=[4, 5, 6], pbc=[True, True, False], info={"charge": 0})
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, stress=np.arange(6.0))
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    convert(tmp_path / "a.xyz", tmp_path / "set", assume_multiplicity="lowest")
    dataset = PackedDataset.open(tmp_path / "set")
    one = np.array([0])
    assert dataset.take("pbc", one).tolist() == [[1, 1, 0]]
    np.testing.assert_allclose(dataset.take("cell", one)[0], np.diag([4, 5, 6]))
    np.testing.assert_allclose(dataset.take("stress", one)[0], np.arange(6))


def test_missing_multiplicity_stays_missing_unless_assumed(tmp_path, make_molecules):
    molecules = make_molecules([2, 3], ["energy"])
    spin = molecules["values"].pop("spin_multiplicity")
    write_ragged(tmp_path / "a.npz", molecules, {"energy": "eV"})
    report = convert(tmp_path / "a.npz", tmp_path / "unknown")
    assert "2 molecules: no multiplicity stored" in report.sources[0].notes[0]
    assert not PackedDataset.open(tmp_path / "unknown").spin_known
    convert(tmp_path / "a.npz", tmp_path / "set", assume_multiplicity="lowest")
    found = PackedDataset.open(tmp_path / "set").states_of(np.arange(2))[1]
    np.testing.assert_array_equal(found, spin)


def test_shipped_data_converts_with_everything(tmp_path):
    sources = [SHIPPED / "states_dft.npz", SHIPPED / "ladders.npz"]
    progress = []
    report = convert(
        sources, tmp_path / "set", on_progress=lambda path, n: progress.append(n)
    )
    dataset = PackedDataset.open(tmp_path / "set")
    assert report.num_molecules == dataset.num_molecules == 1892
    assert progress == [1401, 1892]
    assert dataset.labels == dict.fromkeys((*EVERY, "s_squared"), 1892)
    assert dataset.elements == (1, 6, 7, 8, 9)
    assert len(dataset.states) == 12
    assert len(dataset.groups) == 34
    assert dataset.levels[0].startswith("wB97X/def2-SVPD")
    with np.load(sources[1]) as file:
        energy = dataset.take("energy", np.arange(1401, 1892))
        np.testing.assert_array_equal(energy, file["energy"])
    assert dataset.verify() == 14
    provenance = dataset.manifests[0]["provenance"]
    assert [entry["path"] for entry in provenance] == ["states_dft.npz", "ladders.npz"]


def test_hdf5_groups(tmp_path, make_molecules):
    h5py = pytest.importorskip("h5py")
    molecules = make_molecules([3, 3], EVERY)
    values = molecules["values"]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("003")
        group["coord"] = values["positions"].reshape(2, 3, 3)
        group["numbers"] = values["atomic_numbers"].reshape(2, 3)
        group["charge"], group["mult"] = (
            values["total_charge"],
            values["spin_multiplicity"],
        )
        group["energy"] = values["energy"]
        group["energy"].attrs["units"] = "hartree"
        group["spin_charges"] = values["spin_populations"].reshape(2, 3)
    convert(tmp_path / "a.h5", tmp_path / "set")
    dataset = PackedDataset.open(tmp_path / "set")
    energy = dataset.take("energy", np.arange(2))
    np.testing.assert_allclose(energy, HARTREE * values["energy"], rtol=1e-12)
    found = dataset.take("spin_populations", np.arange(6))
    np.testing.assert_array_equal(found, values["spin_populations"].astype("f4"))
