"""Charges that structure files state: read, or said to be unreadable."""

import pytest

from physnet_ase.commands.structure_files import read_structure
from physnet_ase.state import ElectronicState, resolve_state
from physnet_ase.stated_charges import stated_charge

ATOM = "{:10.4f}{:10.4f}{:10.4f} {:<3}{:2d}{:3d}  0  0  0  0  0  0  0  0  0  0\n"


def molfile(*lines, codes=(0, 0)):
    """O and H, 0.97 Å apart."""
    atoms = [ATOM.format(0, 0, 0, "O", 0, codes[0])]
    atoms.append(ATOM.format(0, 0, 0.97, "H", 0, codes[1]))
    head = "hydroxide\n  made up\n\n  2  1  0  0  0  0  0  0  0  0999 V2000\n"
    tail = "".join(f"{line}\n" for line in lines)
    return f"{head}{''.join(atoms)}  1  2  1  0  0  0  0\n{tail}M  END\n"


GAUSSIAN = "%mem=4GB\n#p wB97XD/def2TZVP SP\n\nwater cation\n\n{}\n{}\n\n"
WATER = "O 0.0 0.0 0.119\nH 0.0 0.763 -0.477\nH 0.0 -0.763 -0.477"
PDB = (
    "HETATM    1  O   HOH A   1       0.000   0.000   0.000  1.00  0.00           O{}\n"
    "HETATM    2  H   HOH A   1       0.000   0.000   0.970  1.00  0.00           H  \n"
    "END\n"
)
MOL2 = (
    "@<TRIPOS>MOLECULE\nhydroxide\n 2 1 0 0 0\nSMALL\nUSER_CHARGES\n\n"
    "@<TRIPOS>ATOM\n 1 O1 0.0 0.0 0.0 O.3 1 LIG {}\n 2 H1 0.0 0.0 0.97 H 1 LIG {}\n"
    "@<TRIPOS>BOND\n 1 1 2 1\n"
)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.mol", molfile("M  CHG  1   1  -1"), {"charge": -1}),
        ("a.sdf", molfile("M  CHG  1   1  -1") + "$$$$\n", {"charge": -1}),
        ("a.mol", molfile("M  CHG  2   1   2   2  -1"), {"charge": 1}),
        ("a.mol", molfile(codes=(5, 0)), {"charge": -1}),
        ("a.mol", molfile(codes=(3, 3)), {"charge": 2}),
        ("a.mol", molfile("M  RAD  1   1   2"), {"charge": 0, "spin_multiplicity": 2}),
        ("a.mol", molfile("M  RAD  1   1   3"), {"charge": 0, "spin_multiplicity": 3}),
        ("a.mol", molfile(), {}),
        # a M  CHG line replaces every code of the atom block
        ("a.mol", molfile("M  CHG  1   2   1", codes=(5, 0)), {"charge": 1}),
        ("a.gjf", GAUSSIAN.format("1 2", WATER), {"charge": 1, "spin_multiplicity": 2}),
        (
            "a.com",
            GAUSSIAN.format("-1,2", WATER),
            {"charge": -1, "spin_multiplicity": 2},
        ),
        ("a.GJF", GAUSSIAN.format("0 3", WATER), {"charge": 0, "spin_multiplicity": 3}),
        ("a.pdb", PDB.format("1-"), {"charge": -1}),
        ("a.pdb", PDB.format("  "), {}),
        ("a.mol2", MOL2.format(-1.3, 0.3), {"charge": -1}),
        ("a.mol2", MOL2.format(-0.31, 0.31), {"charge": 0}),
        ("a.mol2", MOL2.format(0.0, 0.0), {}),
        ("a.xyz", "2\n\nO 0 0 0\nH 0 0 1\n", {}),
    ],
)
def test_what_the_file_states_is_read(tmp_path, name, text, expected):
    file = tmp_path / name
    file.write_text(text)
    assert stated_charge(file) == expected


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.mol", molfile("M  CHG  1   1  x"), "its charges cannot be read"),
        ("a.pdb", PDB.format("?!"), r"charge '\?!' in columns 79 and 80"),
        ("a.mol2", MOL2.format(-0.5, 0.1), r"sum to -0\.400, which is not whole"),
        ("a.gjf", GAUSSIAN.format("1 0", WATER), "multiplicity is 2S"),
    ],
)
def test_charges_that_mean_nothing_are_refused(tmp_path, name, text, words):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"{name}.*{words}"):
        stated_charge(file)


def test_commands_take_the_stated_state_and_options_go_first(tmp_path):
    mol, gaussian = tmp_path / "hydroxide.mol", tmp_path / "cation.gjf"
    mol.write_text(molfile("M  CHG  1   1  -1"))
    gaussian.write_text(GAUSSIAN.format("1 2", WATER))
    assert resolve_state(read_structure(str(mol), None, None)) == ElectronicState(-1, 1)
    cation = read_structure(str(gaussian), None, None)
    assert resolve_state(cation) == ElectronicState(1, 2)
    other = read_structure(str(gaussian), 0, 3)
    assert resolve_state(other) == ElectronicState(0, 3)


XYZ = "3\n{}\n" + WATER + "\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_text_of_any_encoding_is_read(tmp_path, encoding):
    file = tmp_path / "water.xyz"
    file.write_text(XYZ.format('charge=1 spin=2 note="größer"'), encoding=encoding)
    atoms = read_structure(str(file), None, None)
    assert resolve_state(atoms) == ElectronicState(1, 2)


def test_an_at_sign_may_belong_to_the_name(tmp_path):
    file = tmp_path / "water@300K.xyz"
    file.write_text(XYZ.format("charge=1") + XYZ.format("charge=-1"))
    assert read_structure(str(file), None, None).info["charge"] == -1
    assert read_structure(f"{file}@0", None, None).info["charge"] == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (XYZ.format("").replace("H ", "D ", 1), "'D' is no element; write deuterium"),
        (XYZ.format("").replace("H ", "H1 ", 1), "'H1' is no element; atoms need"),
        ("", "the file is empty"),
        ("3\n\nO 0 0\n", "ASE cannot read this file"),
    ],
)
def test_what_cannot_be_read_is_said_with_the_file_and_a_remedy(tmp_path, text, words):
    file = tmp_path / "odd.xyz"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"odd\.xyz: {words}"):
        read_structure(str(file), None, None)


def test_a_lattice_of_zeros_is_no_lattice(tmp_path):
    file = tmp_path / "zero.xyz"
    lattice = 'Lattice="0 0 0 0 0 0 0 0 0" Properties=species:S:1:pos:R:3 pbc="T T T"'
    file.write_text(XYZ.format(lattice))
    assert not read_structure(str(file), None, None).pbc.any()
