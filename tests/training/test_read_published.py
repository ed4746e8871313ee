"""Published files that are neither PhysNet's nor anybody's convention."""

import sys

import numpy as np
import pytest
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset
from physnet_training.sources.formats import find_format

from physnet_ase.units import HARTREE, KCAL_PER_MOL

RNG = np.random.default_rng(0)
WATER = np.array([[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]])


def sgdml(path, **changes):
    """As sgdml's own scripts write it: E of shape (n, 1), scalars beside."""
    arrays = {
        "z": np.array([8, 1, 1], np.uint8), "R": np.stack([WATER] * 4),
        "E": -47900.0 * np.ones((4, 1)), "F": np.ones((4, 3, 3)), "type": "d",
        "name": "water", "theory": "PBE+vdW-TS", "md5": "0", "code_version": "1",
        "E_min": -1.0, "E_max": 1.0, "E_mean": 0.0, "E_var": 1.0, "F_min": 0.0,
    }  # fmt: skip
    arrays |= changes
    np.savez(path, **{key: a for key, a in arrays.items() if a is not None})


@pytest.mark.parametrize("text", ["kcal/mol", b"kcal/mol", "KCAL/MOL"])
def test_sgdml_names_its_units(tmp_path, text):
    sgdml(tmp_path / "a.npz", e_unit=text, r_unit="Ang")
    report = convert(tmp_path / "a.npz", tmp_path / "set")
    dataset = PackedDataset.open(tmp_path / "set")
    energy = dataset.take("energy", np.arange(4))
    np.testing.assert_allclose(energy, -47900.0 * KCAL_PER_MOL)
    forces = dataset.take("forces", np.arange(12))
    np.testing.assert_allclose(forces, KCAL_PER_MOL, rtol=1e-6)
    assert dataset.levels == ("PBE+vdW-TS",)
    assert dataset.groups == ("water",)
    assert {"md5", "type"} <= set(report.sources[0].unused)


def test_sgdml_without_units_asks_and_is_never_taken_as_ev(tmp_path):
    sgdml(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"units missing: E .*--energy-unit"):
        convert(tmp_path / "a.npz", tmp_path / "set")
    convert(tmp_path / "a.npz", tmp_path / "set", energy_unit="kcal/mol")
    dataset = PackedDataset.open(tmp_path / "set")
    energy = dataset.take("energy", np.array([0]))[0]
    assert energy == pytest.approx(-47900.0 * KCAL_PER_MOL)


def test_sgdml_in_bohr(tmp_path):
    sgdml(tmp_path / "a.npz", e_unit="hartree", r_unit="bohr")
    report = convert(tmp_path / "a.npz", tmp_path / "set")
    assert report.sources[0].units["forces"].startswith("hartree/bohr")
    with pytest.raises(ValueError, match="in hartree by the file, in eV by the opt"):
        convert(tmp_path / "a.npz", tmp_path / "other", energy_unit="eV")


def test_revised_md17(tmp_path):
    np.savez(
        tmp_path / "rmd17_water.npz", nuclear_charges=[8, 1, 1],
        coords=np.stack([WATER] * 3), energies=[-47900.0, -47901.0, -47902.0],
        forces=np.ones((3, 3, 3)), old_indices=[0, 1, 2],
        old_energies=[-1.0, -2.0, -3.0], old_forces=np.ones((3, 3, 3)),
    )  # fmt: skip
    report = convert(tmp_path / "rmd17_water.npz", tmp_path / "set")
    dataset = PackedDataset.open(tmp_path / "set")
    energy = dataset.take("energy", np.arange(3))
    np.testing.assert_allclose(energy[2], -47902.0 * KCAL_PER_MOL)
    assert dataset.levels == ("PBE/def2-SVP",)
    assert "old_energies" in report.sources[0].unused


def test_qm7x(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "1000.hdf5", "w") as file:
        for molecule, count in (("Geom-m1-i1", 2), ("Geom-m2-i1", 1)):
            for row in range(count):
                group = file.create_group(f"{molecule}/{molecule}-c1-d{row}")
                group["atNUM"] = np.array([8, 1, 1])
                group["atXYZ"] = WATER + 0.01 * row
                group["ePBE0+MBD"] = np.array([-2080.0 - row])
                group["ePBE0"] = np.array([-2079.0])
                group["eAT"] = np.array([-10.0])
                group["totFOR"] = RNG.normal(size=(3, 3))
                group["pbe0FOR"] = RNG.normal(size=(3, 3))
                group["hCHG"] = np.array([-0.3, 0.15, 0.15])
                group["vDIP"] = np.array([0.0, 0.0, 0.4])
    path = tmp_path / "1000.hdf5"
    assert find_format(path).count(path) == 3
    report = convert(path, tmp_path / "set")
    dataset = PackedDataset.open(tmp_path / "set")
    energies = dataset.take("energy", np.arange(3))
    np.testing.assert_array_equal(energies, [-2080.0, -2081.0, -2080.0])
    assert dataset.labels == dict.fromkeys(("energy", "forces", "dipole", "charges"), 3)
    assert dataset.states == {(0, 1): 3}
    assert dataset.groups == ("Geom-m1-i1", "Geom-m2-i1")
    assert dataset.levels == ("PBE0+MBD",)
    assert "pbe0FOR" in report.sources[0].unused


PROPERTIES = (
    "799.58812 437.90386 282.94545 1.8511 6.31 -0.2928 0.0687 0.3615 19.0002 0.021375 "
    "-76.404702 -76.401867 -76.400922 -76.422349 6.002"
)
QM9 = f"""3
gdb 3\t{PROPERTIES.replace(" ", chr(9))}\t
O\t-0.0343604951\t 0.9775395708\t 0.0076015923\t-0.589706
H\t 0.0647664923\t 0.0205721989\t 1.5346*^-6\t 0.294853
H\t 0.8717903737\t 1.3007924048\t 0.0006931336\t 0.294853
1671.4222\t3803.6305\t3907.698
O\tO\t
InChI=1S/H2O/h1H2\tInChI=1S/H2O/h1H2
"""


@pytest.mark.parametrize("times", [1, 3])
def test_raw_qm9(tmp_path, times):
    (tmp_path / "dsgdb9nsd_000003.xyz").write_text(QM9 * times)
    report = convert(tmp_path / "dsgdb9nsd_000003.xyz", tmp_path / "set")
    dataset = PackedDataset.open(tmp_path / "set")
    assert len(dataset) == times
    energy = dataset.take("energy", np.array([0]))[0]
    assert energy == pytest.approx(-76.404702 * HARTREE, rel=1e-14)
    assert dataset.take("positions", np.array([1]))[0, 2] == np.float32(1.5346e-6)
    charges = dataset.take("charges", np.arange(3))
    np.testing.assert_allclose(charges, [-0.589706, 0.294853, 0.294853], rtol=1e-6)
    assert dataset.states == {(0, 1): times}
    assert dataset.levels == ("B3LYP/6-31G(2df,p)",)
    assert "raw QM9" in report.sources[0].notes[0]


def test_aselmdb_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ase_db_backends", None)
    (tmp_path / "a.aselmdb").write_bytes(b"")
    message = r"a\.aselmdb .*ase-db-backends .*\.extxyz"
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "a.aselmdb", tmp_path / "set")
