"""XYZ files as people have them: ensembles, encodings, labels, packed, empty lines."""

import bz2
import gzip
import lzma

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset

from physnet_ase.units import HARTREE

WATER = "O 0 0 0.119\nH 0 0.763 -0.477\nH 0 -0.763 -0.477\n"


def frame(comment="energy=-2077.0 charge=0 spin=1", rows=WATER):
    return f"3\n{comment}\n{rows}"


def converted(path, target, **options):
    report = convert(path, target, **options)
    return report, PackedDataset.open(target)


@pytest.mark.parametrize("gap", ["\n", "\n\n", "   \n", "\t\n\n"])
def test_frames_behind_empty_lines_are_read(tmp_path, gap):
    (tmp_path / "a.xyz").write_text(gap + gap.join([frame()] * 6) + gap)
    assert converted(tmp_path / "a.xyz", tmp_path / "set")[0].num_molecules == 6


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (frame() + "\ntext\n" + frame(), 7),
        (frame() + frame().replace("H 0 0.763 -0.477\n", "\n"), 6),
        (frame() + "4\nenergy=-1.0\n" + WATER, 6),
        ("\n\n" + frame() + "end\n", 8),
        (frame() + "3\nenergy=-1.0\nO 0 0 0\nH 0 0\nH 1 0 0\n", 6),
    ],
)
def test_damage_names_the_line(tmp_path, text, line):
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.xyz .*molecule 1 .*line {line}: "):
        convert(tmp_path / "a.xyz", tmp_path / "set")


@pytest.mark.parametrize(
    "comment",
    [
        "-76.4",
        "      -76.40000000",
        "  -76.40000000  !CONF1",
        "Coordinates from ORCA-job water E -76.4",
        "Coordinates from ORCA-job a b c E      -76.40000000",
        " energy: -76.4 gnorm: 0.000342 xtb: 6.6.1 (8d0f1dd)",
        "energy: -76.4",
    ],
)
def test_energies_of_ensembles_are_in_hartree(tmp_path, comment):
    (tmp_path / "a.xyz").write_text(frame(comment) * 2)
    report, dataset = converted(tmp_path / "a.xyz", tmp_path / "set")
    energies = dataset.take("energy", np.arange(2))
    np.testing.assert_allclose(energies, -76.4 * HARTREE, rtol=1e-14)
    assert "energy in hartree from the comment line" in report.sources[0].notes[0]


@pytest.mark.parametrize("comment", ["water", "", "0 1", "step 3 of 7", "12.5"])
def test_comments_without_an_energy(tmp_path, comment):
    (tmp_path / "a.xyz").write_text(frame(comment))
    named = rf".*such as '{comment}'" if comment else ""
    message = rf"a\.xyz: neither energies nor forces found{named}"
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "a.xyz", tmp_path / "set")


@pytest.mark.parametrize("unit", ["Eh", "hartree", "kcal/mol", "Ha"])
def test_a_unit_behind_the_number_is_not_overlooked(tmp_path, unit):
    (tmp_path / "a.xyz").write_text(frame(f"energy=-76.4 {unit} charge=0"))
    with pytest.raises(ValueError, match=rf"word '{unit}', a unit; say --energy-unit"):
        convert(tmp_path / "a.xyz", tmp_path / "set")
    convert(tmp_path / "a.xyz", tmp_path / "set", energy_unit=unit)
    (tmp_path / "b.xyz").write_text(frame("energy=-2077 eV charge=0"))
    convert(tmp_path / "b.xyz", tmp_path / "other")


@pytest.mark.parametrize(
    "content",
    [
        frame().encode("utf-8-sig"),
        frame().encode("utf-16"),
        "\ufeff".encode("utf-16-be") + frame().encode("utf-16-be"),
        frame("energy=-2077.0 charge=0 spin=1 author=J\xf6rg").encode("latin-1"),
        frame("energy=-2077.0 charge=0 spin=1 author=J\xf6rg").encode("utf-8"),
        frame().replace("\n", "\r\n").encode(),
    ],
    ids=["bom", "utf-16", "utf-16-be", "latin-1", "utf-8", "crlf"],
)
def test_encodings(tmp_path, content):
    (tmp_path / "a.xyz").write_bytes(content)
    _, dataset = converted(tmp_path / "a.xyz", tmp_path / "set")
    assert dataset.states == {(0, 1): 1}


@pytest.mark.parametrize(
    ("packing", "pack"),
    [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)],
)
def test_packed_text(tmp_path, packing, pack):
    path = tmp_path / f"a@1.extxyz.{packing}"
    path.write_bytes(pack((frame() * 50).encode()))
    assert converted(path, tmp_path / "set")[0].num_molecules == 50
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"a@1\.extxyz\.{packing} cannot be read"):
        convert(path, tmp_path / "cut")


def test_zstandard_is_read_or_says_what_it_needs(tmp_path):
    zstandard = pytest.importorskip("zstandard") if has("zstandard") else None
    path = tmp_path / "a.xyz.zst"
    if zstandard is None:
        path.write_bytes(b"(\xb5/\xfd")
        with pytest.raises(ValueError, match=r"a\.xyz\.zst: .*zstandard; .*zstd -d"):
            convert(path, tmp_path / "set")
        return
    path.write_bytes(zstandard.compress(frame().encode()))
    assert converted(path, tmp_path / "set")[0].num_molecules == 1


def has(name):
    from importlib.util import find_spec

    return find_spec(name) is not None


@pytest.mark.parametrize("suffix", ["xyz", "traj", "db", "npz"])
def test_a_name_with_an_at_sign(tmp_path, suffix):
    path = tmp_path / f"run@2.{suffix}"
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-2077.0)
    if suffix == "npz":
        np.savez(path, R=atoms.positions[None], Z=atoms.numbers, E=[-2077.0])
    elif suffix == "db":
        connect(path).write(atoms)
    else:
        with path.open("wb" if suffix == "traj" else "w") as file:
            ase.io.write(file, atoms, format={"xyz": "extxyz"}.get(suffix, suffix))
    assert converted(path, tmp_path / "set")[0].num_molecules == 1


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        ("D O D", [1, 8, 1]),
        ("H1 O2 H3", [1, 8, 1]),
        ("C_3 O_2 Cl_b", [6, 8, 17]),
        ("8 1 1", [8, 1, 1]),
        ("cl CL Br12", [17, 17, 35]),
        ("T C12 N_R", [1, 6, 7]),
    ],
)
def test_labels_and_isotopes_in_place_of_symbols(tmp_path, names, numbers):
    words = names.split()
    rows = "".join(f"{w} {2 * i} 0 0\n" for i, w in enumerate(words))
    (tmp_path / "a.xyz").write_text(frame("energy=-1.0 charge=0", rows))
    report, dataset = converted(tmp_path / "a.xyz", tmp_path / "set")
    assert dataset.take("atomic_numbers", np.arange(3)).tolist() == numbers
    assert any("atoms named" in note for note in report.sources[0].notes)


@pytest.mark.parametrize("name", ["Xx", "CA", "Gh", "HW", "119", "Q"])
def test_symbols_that_are_none_are_named(tmp_path, name):
    text = frame() + frame(rows=WATER.replace("O ", f"{name} "))
    (tmp_path / "a.xyz").write_text(text)
    if name == "CA":  # calcium, as ASE reads it
        assert converted(tmp_path / "a.xyz", tmp_path / "set")[0].num_molecules == 2
        return
    with pytest.raises(
        ValueError, match=rf"molecule 1 .*line 6: '{name}' is no element"
    ):
        convert(tmp_path / "a.xyz", tmp_path / "set")


def test_columns_without_a_name_are_refused(tmp_path):
    rows = WATER.replace("\n", " 0.1 0.2 0.3\n")
    (tmp_path / "a.xyz").write_text(frame("-76.4", rows))
    with pytest.raises(ValueError, match="7 columns, of which plain XYZ has 4"):
        convert(tmp_path / "a.xyz", tmp_path / "set")
    named = "Properties=species:S:1:pos:R:3 energy=-2077.0"
    (tmp_path / "a.xyz").write_text(frame(named, rows))
    with pytest.raises(ValueError, match="7 columns, of which Properties names 4"):
        convert(tmp_path / "a.xyz", tmp_path / "set")


@pytest.mark.parametrize("pbc", ["", 'pbc="T T T"', 'pbc="T F F"'])
def test_a_lattice_of_zeros_is_not_periodic(tmp_path, pbc):
    comment = f'energy=-2077.0 charge=0 spin=1 Lattice="0 0 0 0 0 0 0 0 0" {pbc}'
    (tmp_path / "a.xyz").write_text(frame() + frame(comment))
    report, dataset = converted(tmp_path / "a.xyz", tmp_path / "set")
    assert report.num_molecules == 2
    assert not dataset.take("pbc", np.arange(2)).any()
    assert "1 molecules: a cell of zeros, not periodic" in report.sources[0].notes


@pytest.mark.parametrize(
    ("lattice", "message"),
    [
        ("4 0 0 0 4 0 0 0 0", "periodic in 3 directions, but its cell"),
        ("4 0 0 4 0 0 0 0 4", "periodic in 3 directions, but its cell"),
        ("1 0 0 0 1 0 0 0 1", "periodic cell is 1 Å thin"),
        ("9 0 0 0 9 0 0 0 0.5", "periodic cell is 0.5 Å thin"),
        ("9 0 0 8.9 1 0 0 0 9", "periodic cell is 1 Å thin"),
    ],
)
def test_cells_that_are_none(tmp_path, lattice, message):
    comment = f'energy=-2077.0 charge=0 spin=1 Lattice="{lattice}"'
    (tmp_path / "a.xyz").write_text(frame() + frame(comment))
    with pytest.raises(ValueError, match=rf"a\.xyz: molecule 1 .*{message}"):
        convert(tmp_path / "a.xyz", tmp_path / "set")
    report = convert(tmp_path / "a.xyz", tmp_path / "set", on_invalid="skip")
    assert report.sources[0].num_skipped == 1


def test_cells_of_arrays(tmp_path):
    """A cell without pbc is periodic as in ASE, one of zeros is not."""
    cells = np.stack([np.zeros((3, 3)), 12 * np.eye(3)])
    np.savez(
        tmp_path / "a.npz", R=np.zeros((2, 1, 3)), Z=[2], E=[-1.0, -2.0], cell=cells,
        charge=[0, 0],
    )  # fmt: skip
    _, dataset = converted(tmp_path / "a.npz", tmp_path / "set")
    assert dataset.take("pbc", np.arange(2)).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_small_primitive_cells_are_fine(tmp_path):
    frames = []
    for atoms in (bulk("C", "diamond", a=3.57), bulk("Cu"), bulk("Li")):
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
        atoms.info["charge"] = 0
        frames.append(atoms)
    frames.append(Atoms("C", cell=[1.28, 9, 9], pbc=[1, 0, 0], info={"energy": -1.0}))
    ase.io.write(tmp_path / "a.xyz", frames, format="extxyz")
    assert converted(tmp_path / "a.xyz", tmp_path / "set")[0].num_molecules == 4
