"""DeePMD systems: plain, mixed and several; damage named."""

import numpy as np
import pytest
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset
from physnet_training.sources.formats import find_format
from physnet_training.sources.keys import Reading, ReadOptions
from physnet_training.sources.read_deepmd import read_deepmd

from physnet_ase.molecules import concatenate

RNG = np.random.default_rng(0)
WATER = [0, 1, 1]


def system(folder, frames=(3, 2), types=WATER, box=True, **changes):
    """A system of several sets; returns the arrays of all sets together."""
    folder.mkdir(parents=True)
    (folder / "type.raw").write_text("\n".join(map(str, types)) + "\n")
    (folder / "type_map.raw").write_text("O\nH\n")
    if not box:
        (folder / "nopbc").touch()
    parts = []
    for number, count in enumerate(frames):
        arrays = {
            "coord": RNG.normal(size=(count, 3 * len(types))).astype("f4"),
            "energy": RNG.normal(size=(count, 1)),
            "force": RNG.normal(size=(count, 3 * len(types))).astype("f4"),
        }
        if box:
            arrays["box"] = np.tile((5.0 * np.eye(3)).reshape(9), (count, 1))
            arrays["virial"] = RNG.normal(size=(count, 9))
        arrays |= changes
        (folder / f"set.{number:03d}").mkdir()
        for name, array in arrays.items():
            np.save(folder / f"set.{number:03d}" / f"{name}.npy", array)
        parts.append(arrays)
    return {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}


def read(path, **options):
    reading = Reading()
    pieces = list(read_deepmd(path, ReadOptions(**options), reading))
    return concatenate(pieces), reading.units


def test_periodic_system(tmp_path):
    wanted = system(tmp_path / "water")
    report = convert(tmp_path / "water", tmp_path / "set", assume_multiplicity="lowest")
    assert "5 molecules: no charge stored, 0 taken" in report.sources[0].notes
    assert report.sources[0].units["virial"] == "eV (the file says so of virial)"
    dataset = PackedDataset.open(tmp_path / "set")
    rows, atoms = np.arange(5), np.arange(15)
    assert dataset.take("atomic_numbers", atoms).tolist() == [8, 1, 1] * 5
    energy = dataset.take("energy", rows)
    np.testing.assert_array_equal(energy, wanted["energy"][:, 0])
    for name, key in (("positions", "coord"), ("forces", "force")):
        found = dataset.take(name, atoms)
        np.testing.assert_array_equal(found, wanted[key].reshape(-1, 3))
    tensor = wanted["virial"].reshape(-1, 3, 3)
    stress = -(tensor[:, 0, 1] + tensor[:, 1, 0]) / 2 / 125
    np.testing.assert_allclose(dataset.take("stress", rows)[:, 5], stress, rtol=1e-6)
    assert dataset.take("pbc", rows).all()
    np.testing.assert_array_equal(dataset.take("cell", rows)[4], 5 * np.eye(3))


def test_several_systems_and_a_later_start(tmp_path):
    system(tmp_path / "root" / "a" / "water", frames=(2,))
    second = system(tmp_path / "root" / "b", types=[1, 1], frames=(1, 2), box=False)
    assert find_format(tmp_path / "root").name == "DeePMD system"
    assert find_format(tmp_path / "root").count(tmp_path / "root") == 5
    found, _ = read(tmp_path / "root")
    assert found.n_atoms.tolist() == [3, 3, 2, 2, 2]
    assert found.values["pbc"].any(axis=1).tolist() == [True, True, False, False, False]
    later, _ = read(tmp_path / "root", first_row=3)
    assert later.rows.tolist() == [3, 4]
    np.testing.assert_array_equal(
        later.values["positions"], second["coord"][1:].reshape(-1, 3)
    )
    assert "stress" not in later.values


def test_mixed_types(tmp_path):
    types = np.array([[0, 1, 1], [1, 1, -1]])
    wanted = system(
        tmp_path / "mixed", frames=(2,), types=[0, 0, 0], real_atom_types=types
    )
    found, _ = read(tmp_path / "mixed")
    assert found.values["atomic_numbers"].tolist() == [8, 1, 1, 1, 1]
    positions = wanted["coord"].reshape(-1, 3)[:5]
    np.testing.assert_array_equal(found.values["positions"], positions)


def test_another_energy_can_be_chosen(tmp_path):
    wanted = system(tmp_path / "a", frames=(2,), better=np.array([1.0, 2.0]))
    found, _ = read(tmp_path / "a", keys={"energy": "better"})
    np.testing.assert_array_equal(found.values["energy"], wanted["better"])
    with pytest.raises(
        ValueError, match="in eV by the file, in hartree by the options"
    ):
        read(tmp_path / "a", energy_unit="hartree")


BAD = [
    ({"force": np.zeros((2, 8))}, r"set\.000: forces have shape \(2, 8\), expected"),
    ({"energy": np.zeros(3)}, r"set\.000: energy has shape \(3,\), expected \(2,\)"),
    ({"coord": None}, r"coord\.npy cannot be read: .*; it is missing"),
    (
        {"energy": np.array([None, 1])},
        r"energy\.npy cannot be read: .*Python objects.*; it is missing, truncated or",
    ),
    (
        {"real_atom_types": np.array([[0, 1, 2]] * 2)},
        "real_atom_types holds 2, but type_map.raw names types 0 to 1",
    ),
    (
        {"real_atom_types": np.array([[0, -1, 1]] * 2)},
        r"molecule 0 .* says 2 atoms but",
    ),
    ({"box": np.zeros((2, 3))}, r"box has shape \(2, 3\), expected \(2, 3, 3\)"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_arrays(tmp_path, changes, message):
    system(tmp_path / "a", frames=(2,))
    for name, array in changes.items():
        file = tmp_path / "a" / "set.000" / f"{name}.npy"
        if array is None:
            file.unlink()
        else:
            np.save(file, array)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("type_map.raw", "O Xx", "type_map.raw holds 'Xx', which is no element symbol"),
        (
            "type_map.raw",
            None,
            r"type_map.raw is missing, so the elements of .*'0', '1'",
        ),
        (
            "type_map.raw",
            "O",
            "type.raw holds '1', but type_map.raw names types 0 to 0",
        ),
        ("type.raw", "0 H H", "type.raw holds 'H', but type_map.raw names"),
        (
            "set.000/force.npy",
            "",
            r"force\.npy cannot be read: .* truncated or damaged",
        ),
    ],
)
def test_bad_files(tmp_path, file, content, message):
    system(tmp_path / "a", frames=(2,))
    (tmp_path / "a" / file).unlink()
    if content is not None:
        (tmp_path / "a" / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a")


def test_system_without_data(tmp_path):
    (tmp_path / "type.raw").write_text("0")
    with pytest.raises(ValueError, match=r"no set\.\* directory beside type\.raw"):
        read(tmp_path)
