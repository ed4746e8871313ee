"""HDF5 files: published layouts by their keys, generic groups, damage named."""

import numpy as np
import pytest
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset
from physnet_training.sources.formats import find_format
from physnet_training.sources.keys import Reading, ReadOptions
from physnet_training.sources.read_hdf5 import read_hdf5

from physnet_ase.molecules import concatenate
from physnet_ase.units import BOHR, HARTREE

h5py = pytest.importorskip("h5py")

RNG = np.random.default_rng(0)


def read(path, **options):
    reading = Reading()
    return concatenate(
        list(read_hdf5(path, ReadOptions(**options), reading))
    ), reading.units


def write(path, groups, units=None):
    """Nested dictionaries as groups of datasets."""
    with h5py.File(path, "w") as file:
        for name, arrays in groups.items():
            for key, value in arrays.items():
                file[f"{name}/{key}"] = value
                if units and key in units:
                    file[f"{name}/{key}"].attrs["units"] = units[key]
    return path


def spice(smiles, numbers, conformations):
    """A group as the SPICE set has it."""
    shape = (conformations, len(numbers))
    return {
        "subset": ["SPICE Water Clusters"],
        "smiles": [smiles],
        "atomic_numbers": np.array(numbers, np.int16),
        "conformations": RNG.normal(size=(*shape, 3)).astype("f4"),
        "dft_total_energy": RNG.normal(size=conformations),
        "dft_total_gradient": RNG.normal(size=(*shape, 3)).astype("f4"),
        "formation_energy": RNG.normal(size=conformations),
        "mbis_charges": RNG.normal(size=(*shape, 1)).astype("f4"),
        "scf_dipole": RNG.normal(size=(conformations, 3)).astype("f4"),
    }


HYDROXIDE = "[O-:1][H:2]"
WATER = "[H:2][O:1][H:3]"


@pytest.mark.parametrize("declared", [True, False])
def test_spice(tmp_path, declared):
    groups = {
        "hydroxide": spice(HYDROXIDE, [8, 1], 2),
        "none left": spice(WATER, [8, 1, 1], 0),
        "water": spice(WATER, [8, 1, 1], 3),
    }
    units = {"conformations": "bohr", "dft_total_energy": "hartree"}
    units |= {
        "dft_total_gradient": "hartree/bohr",
        "scf_dipole": "elementary_charge*bohr",
    }
    path = write(tmp_path / "a.hdf5", groups, units if declared else None)
    assert find_format(path).count(path) == 5
    found, taken = read(path)
    assert found.n_atoms.tolist() == [2, 2, 3, 3, 3]
    assert found.names.tolist() == ["hydroxide"] * 2 + ["water"] * 3
    assert found.values["total_charge"].tolist() == [-1, -1, 0, 0, 0]
    assert set(found.levels) == {"wB97M-D3BJ/def2-TZVPPD"}
    assert "formal charges of the mapped SMILES" in found.facts[0]
    assert taken["gradient"].startswith("hartree/bohr (the file says so")
    # no multiplicity is stored, and none is invented
    assert "spin_multiplicity" not in found.values
    water, atoms = groups["water"], slice(4, None)
    for name, key, factor in (
        ("positions", "conformations", BOHR),
        ("forces", "dft_total_gradient", -HARTREE / BOHR),
        ("charges", "mbis_charges", 1.0),
    ):
        wanted = factor * water[key].reshape(found.values[name][atoms].shape)
        np.testing.assert_allclose(found.values[name][atoms], wanted, rtol=1e-6)
    for name, wanted in (
        ("energy", water["dft_total_energy"] * HARTREE),
        ("dipole", water["scf_dipole"] * BOHR),
    ):
        np.testing.assert_allclose(found.values[name][2:], wanted, rtol=1e-6)
    some, _ = read(path, where={"subset": "SPICE Water Clusters"}, first_row=3)
    assert some.rows.tolist() == [3, 4]


def test_smiles_of_other_atoms_is_refused(tmp_path):
    path = write(tmp_path / "a.h5", {"x": spice(WATER, [8, 1], 1)})
    with pytest.raises(
        ValueError, match=r"a\.h5, group /x: the SMILES .* charge is un"
    ):
        read(path)


def ani1x():
    """Two formulas at two levels, the better one for some geometries only."""
    shape = (3, 2)
    return {
        "F1H1": {
            "atomic_numbers": np.array([9, 1], np.uint8),
            "coordinates": RNG.normal(size=(*shape, 3)).astype("f4"),
            "wb97x_dz.energy": RNG.normal(size=3),
            "wb97x_dz.forces": RNG.normal(size=(*shape, 3)).astype("f4"),
            "wb97x_dz.dipole": RNG.normal(size=(3, 3)),
            "ccsd(t)_cbs.energy": np.array([np.nan, -1.5, np.nan]),
        },
        "H2": {
            "atomic_numbers": np.array([1, 1], np.uint8),
            "coordinates": RNG.normal(size=(1, 2, 3)).astype("f4"),
            "wb97x_dz.energy": RNG.normal(size=1),
            "wb97x_dz.forces": np.full((1, 2, 3), np.nan, "f4"),
            "ccsd(t)_cbs.energy": np.array([-2.5]),
        },
    }


def test_ani1x(tmp_path):
    groups = ani1x()
    path = write(tmp_path / "a.h5", groups)
    report = convert(path, tmp_path / "dz")
    assert any("neutral singlets" in note for note in report.sources[0].notes)
    dataset = PackedDataset.open(tmp_path / "dz")
    assert dataset.labels == {"energy": 4, "forces": 3}
    assert dataset.states == {(0, 1): 4}
    assert dataset.levels == ("wB97X/6-31G*",)
    assert dataset.groups == ("F1H1", "H2")
    forces = groups["F1H1"]["wb97x_dz.forces"].reshape(6, 3) * HARTREE
    np.testing.assert_allclose(dataset.take("forces", np.arange(6)), forces, rtol=1e-6)


def test_ani1ccx_is_chosen_by_its_energy(tmp_path):
    path = write(tmp_path / "a.h5", ani1x())
    found, _ = read(path, keys={"energy": "ccsd(t)_cbs.energy"})
    assert found.rows.tolist() == [1, 3]
    assert "forces" not in found.values  # those of another level
    np.testing.assert_allclose(found.values["energy"], HARTREE * np.array([-1.5, -2.5]))
    assert set(found.levels) == {"CCSD(T)*/CBS"}
    with pytest.raises(
        ValueError, match="in hartree by the file, in eV by the options"
    ):
        read(path, energy_unit="eV")


def test_torchani_layout_flat_and_nested(tmp_path):
    group = {
        "coordinates": RNG.normal(size=(2, 3, 3)).astype("f4"),
        "energies": RNG.normal(size=2),
    }
    sized = {"species": np.array([[8, 1, 1], [16, 1, 1]]), "forces": np.ones((2, 3, 3))}
    path = write(tmp_path / "2x.h5", {"3": group | sized})
    found, _ = read(path)
    assert found.values["atomic_numbers"].tolist() == [8, 1, 1, 16, 1, 1]
    np.testing.assert_allclose(found.values["forces"], HARTREE)
    assert found.values["spin_multiplicity"].tolist() == [1, 1]
    symbols = {"species": np.array([b"O", b"H", b"H"]), "smiles": [b"O"]}
    path = write(tmp_path / "1.h5", {"gdb11_s01/gdb11_s01-2": group | symbols})
    found, _ = read(path)
    assert found.values["atomic_numbers"].tolist() == [8, 1, 1] * 2
    np.testing.assert_allclose(found.values["energy"], group["energies"] * HARTREE)
    assert found.names.tolist() == ["gdb11_s01-2"] * 2


def aimnet():
    return {
        "coord": RNG.normal(size=(2, 2, 3)).astype("f4"),
        "numbers": np.array([[9, 1], [17, 1]]),
        "energy": np.array([-1.0, -2.0]),
        "forces": RNG.normal(size=(2, 2, 3)).astype("f4"),
        "charges": RNG.normal(size=(2, 2)).astype("f4"),
        "spin_charges": RNG.normal(size=(2, 2)).astype("f4"),
        "charge": np.array([0, 1], np.int8),
        "mult": np.array([1, 2], np.int8),
        "dipole": RNG.normal(size=(2, 3)).astype("f4"),
        "_id": np.array([b"a", b"b"]),
    }


def test_aimnet(tmp_path):
    path = write(tmp_path / "a.h5", {"002": aimnet()})
    found, units = read(path)
    assert found.values["energy"].tolist() == [-1.0, -2.0]
    assert found.values["spin_multiplicity"].tolist() == [1, 2]
    assert units["dipole"] == "e*angstrom (dipole is so by the file's format)"
    assert read(path, where={"_id": "b"})[0].rows.tolist() == [1]
    found, _ = read(path, energy_unit="hartree", force_unit="hartree/bohr")
    assert found.values["energy"][0] == -HARTREE


def test_arrays_at_the_top_and_other_groups(tmp_path):
    groups = {"": aimnet(), "info": {"history": np.arange(3)}}
    path = write(tmp_path / "a.h5", groups)
    assert read(path)[0].n_atoms.tolist() == [2, 2]
    assert read(path, keys={"positions": "coord"})[0].n_atoms.tolist() == [2, 2]
    with pytest.raises(
        ValueError, match="group /: unknown key 'cord' .* similar: coord"
    ):
        read(path, keys={"positions": "cord"})


BAD = [
    ({"x": {"numbers": [[1]]}}, "group /x: no positions: expected one of positions, R"),
    ({"x": {"history": [1]}}, "no group holds atomic numbers and positions"),
    (
        {"x": aimnet(), "y": aimnet() | {"energy": np.zeros(3)}},
        r"group /y: energy has shape \(3,\), expected \(2,\)",
    ),
    ({"x": aimnet() | {"coord": np.zeros((0, 2, 3))}}, None),
]


@pytest.mark.parametrize(("groups", "message"), BAD)
def test_bad_groups(tmp_path, groups, message):
    path = write(tmp_path / "a.h5", groups)
    with pytest.raises(ValueError, match=message or "zero molecules"):
        convert(path, tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("damage", ["cut", "checksum"])
def test_damaged_file(tmp_path, damage):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for key, value in aimnet().items():
            checked = {"fletcher32": True} if key == "coord" else {}
            file.require_group("002").create_dataset(key, data=value, **checked)
            if checked:
                place = file["002/coord"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content if damage == "checksum" else content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a\.h5 cannot be read as HDF5: .*damaged"):
        read(path)
