"""What is not recognised is named, and what looks like a label stops the conversion."""

import gzip

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import Trajectory
from physnet_training.cli import app
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset
from typer.testing import CliRunner

from physnet_ase.quantities import Quantity, added
from physnet_ase.units import BOHR, DEBYE, GIGAPASCAL, HARTREE, KCAL_PER_MOL

ROWS = ["O 0 0 0.119", "H 0 0.763 -0.477", "H 0 -0.763 -0.477"]


def frame(comment, columns="", extra=("", "", "")):
    rows = "\n".join(f"{a} {b}" for a, b in zip(ROWS, extra, strict=True))
    return f"3\nProperties=species:S:1:pos:R:3{columns} {comment}\n{rows}\n"


FORCES = ("0 0 -0.6", "0 -0.2 0.3", "0 0.2 0.3")


@pytest.mark.parametrize(
    ("key", "unit", "factor"),
    [
        ("Energy", "eV", 1.0),
        ("REF_energy", "eV", 1.0),
        ("dft_energy", "eV", 1.0),
        ("free_energy", "eV", 1.0),
        ("ENERGY", "eV", 1.0),
        ("energy_kcal", "kcal/mol", KCAL_PER_MOL),
        ("energy_ev", "eV", 1.0),
        ("Energy_Hartree", "hartree", HARTREE),
        ("REF_energy_kcal_mol", "kcal/mol", KCAL_PER_MOL),
        ("total_energy_ha", "hartree", HARTREE),
    ],
)
def test_names_of_energies(tmp_path, key, unit, factor):
    (tmp_path / "a.xyz").write_text(frame(f"{key}=-76.0 charge=0 spin=1"))
    convert(tmp_path / "a.xyz", tmp_path / "set")
    found = PackedDataset.open(tmp_path / "set").take("energy", np.array([0]))
    assert found[0] == pytest.approx(-76.0 * factor, rel=1e-14)


@pytest.mark.parametrize(
    ("key", "factor"),
    [
        ("force", 1.0),
        ("REF_forces", 1.0),
        ("DFT_Forces", 1.0),
        ("forces_hartree_bohr", HARTREE / BOHR),
        ("forces_kcal_mol_ang", KCAL_PER_MOL),
        ("grad_hartree_bohr", -HARTREE / BOHR),
    ],
)
def test_names_of_forces(tmp_path, key, factor):
    text = frame("energy=-2077.0 charge=0 spin=1", f":{key}:R:3", FORCES)
    (tmp_path / "a.xyz").write_text(text)
    convert(tmp_path / "a.xyz", tmp_path / "set")
    found = PackedDataset.open(tmp_path / "set").take("forces", np.arange(3))
    assert found[0, 2] == pytest.approx(-0.6 * factor, rel=1e-6)


@pytest.mark.parametrize(
    ("said", "name", "wanted"),
    [
        ('REF_dipole="0 0 0.4"', "dipole", 0.4),
        ('dipole_debye="0 0 2"', "dipole", 2 * DEBYE),
        ('ref_dipole_moment="0 0 0.4"', "dipole", 0.4),
        ('REF_stress="0 0 0.5 0 0 0"', "stress", 0.5),
        ('stress_GPa="0 0 3 0 0 0"', "stress", 3 * GIGAPASCAL),
        ('REF_virial="0 0 0 0 0 0 0 0 -32"', "stress", 0.5),
    ],
)
def test_names_of_dipoles_and_stresses(tmp_path, said, name, wanted):
    lattice = 'Lattice="4 0 0 0 4 0 0 0 4"'
    (tmp_path / "a.xyz").write_text(frame(f"energy=-2077 charge=0 {said} {lattice}"))
    convert(tmp_path / "a.xyz", tmp_path / "set")
    found = PackedDataset.open(tmp_path / "set").take(name, np.array([0]))
    assert found[0, 2] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    "said",
    [
        "formation_energy=-3.2",
        "energy_per_atom=-3.2",
        "corrected_Energy=-3.2",
        'my_dipole="0 0 1"',
        "cluster_charge=1",
        "multiplicity_of_state=3",
        "Spin2=3",
        'cauchy_stress="1 1 1 0 0 0"',
        'pressure_virial="1 1 1 0 0 0"',
    ],
)
def test_what_looks_like_a_label_stops(tmp_path, said):
    key = said.partition("=")[0]
    (tmp_path / "a.xyz").write_text(frame(f"energy=-2077.0 charge=0 spin=1 {said}"))
    with pytest.raises(ValueError, match=rf"molecule 0 .*{key} looks.*--ignore {key}"):
        convert(tmp_path / "a.xyz", tmp_path / "set")
    report = convert(tmp_path / "a.xyz", tmp_path / "set", ignore=(key,))
    assert report.sources[0].ignored == [key]


@pytest.mark.parametrize("key", ["G", "fxyz", "nac", "acceleration", "B"])
def test_three_numbers_per_atom_stop(tmp_path, key):
    text = frame("energy=-2077.0 charge=0 spin=1", f":{key}:R:3", FORCES)
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(ValueError, match=rf"{key} looks like forces.*--ignore {key}"):
        convert(tmp_path / "a.xyz", tmp_path / "set")
    np.savez(
        tmp_path / "a.npz", R=np.eye(3)[None], Z=[8, 1, 1], E=[-2077.0],
        charge=[0], **{key: np.ones((1, 3, 3))},
    )  # fmt: skip
    with pytest.raises(ValueError, match=rf"a\.npz: {key} looks like forces"):
        convert(tmp_path / "a.npz", tmp_path / "set")


def test_unused_keys_are_listed_and_options_reach_them(tmp_path):
    comment = "energy=-2077.0 charge=0 spin=1 config_type=md step=3 xc_energy=-9"
    (tmp_path / "a.xyz").write_text(frame(comment))
    source, target = str(tmp_path / "a.xyz"), str(tmp_path / "set")
    done = CliRunner().invoke(app, ["convert", source, target])
    assert done.exit_code == 2
    assert "xc_energy looks like energy" in done.stderr
    (tmp_path / "o.toml").write_text('ignore = ["xc_energy"]')
    options = ["--options", str(tmp_path / "o.toml")]
    done = CliRunner().invoke(app, ["convert", source, target, *options])
    assert "  not used: config_type, step" in done.stdout.splitlines()
    assert "  ignored: xc_energy" in done.stdout.splitlines()
    done = CliRunner().invoke(
        app, ["convert", source, f"{target}2", "--ignore", "xc_energy"]
    )
    assert done.exit_code == 0
    done = CliRunner().invoke(
        app, ["convert", source, f"{target}3", *options, "--ignore", "absent"]
    )
    assert "--ignore absent: no source holds such a key" in done.stderr


def test_several_keys_for_one_label(tmp_path):
    text = frame("energy=-2077.0 REF_energy=-2079.0 charge=0 spin=1")
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(ValueError, match=r"several keys .*energy, REF_energy; .*--key"):
        convert(tmp_path / "a.xyz", tmp_path / "set")
    convert(tmp_path / "a.xyz", tmp_path / "set", keys={"energy": "REF_energy"})
    found = PackedDataset.open(tmp_path / "set").take("energy", np.array([0]))
    assert found[0] == -2079.0
    # the same number twice is no question
    (tmp_path / "b.xyz").write_text(frame("energy=-2077 free_energy=-2077.0 charge=0"))
    convert(tmp_path / "b.xyz", tmp_path / "same")


def test_information_and_results_that_differ_are_refused(tmp_path):
    atoms = Atoms("He", info={"charge": 0, "energy": -77.0})
    atoms.calc = SinglePointCalculator(atoms, energy=-78.0)
    with Trajectory(tmp_path / "a.traj", "w") as file:
        file.write(atoms)
    with pytest.raises(ValueError, match=r"energy is -77.0 .* but -78.0 .*results"):
        convert(tmp_path / "a.traj", tmp_path / "set")


def test_levels_of_one_file_are_stored_per_molecule(tmp_path):
    words = [("wB97X", "vacuum"), ("wB97X", "smd"), ("HF", "smd"), ("wB97X", "vacuum")]
    text = "".join(
        frame(f"energy=-2077 charge=0 method={m} basis=sto-3g solvent_model={s}")
        for m, s in words
    )
    (tmp_path / "a.xyz").write_text(text)
    convert(tmp_path / "a.xyz", tmp_path / "set")
    dataset = PackedDataset.open(tmp_path / "set")
    assert [dataset.levels[i] for i in dataset.take("level", np.arange(4))] == [
        f"{m}/sto-3g, {s}" for m, s in words
    ]
    with pytest.raises(ValueError, match=r"--level 'DFT' .* --where method=VALUE"):
        convert(tmp_path / "a.xyz", tmp_path / "one", level="DFT")
    where = {"method": "wB97X", "solvent_model": "vacuum"}
    report = convert(tmp_path / "a.xyz", tmp_path / "one", where=where, level="DFT")
    assert report.num_molecules == 2


@pytest.mark.parametrize(
    ("columns", "levels"),
    [
        ({"functional": ["PBE", "B3LYP"]}, ("PBE", "B3LYP")),
        ({"theory": "PBE+TS"}, ("PBE+TS",)),
        ({"Method": ["MP2", "MP2"], "BASIS": ["a", "b"]}, ("MP2/a", "MP2/b")),
        ({"solvent": [b"thf", b"dmso"]}, ("thf", "dmso")),
        ({"level_of_theory": ["x", "y"], "basis": "dz"}, ("x, dz", "y, dz")),
    ],
)
def test_levels_of_arrays(tmp_path, columns, levels):
    np.savez(
        tmp_path / "a.npz", R=np.stack([np.eye(3)] * 2), Z=[8, 1, 1],
        E=[-2077.0, -2078.0], charge=[0, 0], **columns,
    )  # fmt: skip
    convert(tmp_path / "a.npz", tmp_path / "set")
    dataset = PackedDataset.open(tmp_path / "set")
    assert dataset.levels == levels
    if len(levels) == 2:
        with pytest.raises(ValueError, match="names one level of theory for all"):
            convert(tmp_path / "a.npz", tmp_path / "other", level="one")


def test_three_solvents_of_a_packed_file_stay_apart(tmp_path):
    text = "".join(
        frame(f"energy_hartree=-76.{i} charge=0 solvent_model=smd_eps{i}")
        for i in (1, 2, 3)
    )
    (tmp_path / "a.extxyz.gz").write_bytes(gzip.compress(text.encode()))
    convert(tmp_path / "a.extxyz.gz", tmp_path / "set")
    assert len(PackedDataset.open(tmp_path / "set").levels) == 3


@pytest.mark.parametrize("form", ["npz", "xyz"])
def test_labels_of_another_table_come_back(tmp_path, form):
    """One entry each makes a label per molecule and one per atom."""
    gap = Quantity(
        "gap", "label", "gap.f32", dimension="energy", unit="eV", aliases=("HOMO_LUMO",)
    )
    shifts = Quantity("shifts", "label", "shifts.f32", per_atom=True, shape=(2,))
    with added(gap), added(shifts):
        if form == "npz":
            np.savez(
                tmp_path / "a.npz", R=np.stack([np.eye(3)] * 2), Z=[8, 1, 1],
                E=[-2077.0, -2078.0], charge=[0, 0], homo_lumo_hartree=[0.5, 0.25],
                shifts=np.arange(12.0).reshape(2, 3, 2),
            )  # fmt: skip
        else:
            text = "".join(
                frame(
                    f"energy=-2077 charge=0 REF_homo_lumo_hartree={value}",
                    ":shifts:R:2",
                    [f"{first + 2 * i} {first + 2 * i + 1}" for i in range(3)],
                )
                for value, first in ((0.5, 0), (0.25, 6))
            )
            (tmp_path / "a.xyz").write_text(text)
        report = convert(tmp_path / f"a.{form}", tmp_path / "set")
        assert "gap is stored, but no loss trains it" in report.sources[0].notes
        dataset = PackedDataset.open(tmp_path / "set")
        assert dataset.labels == {"energy": 2, "gap": 2, "shifts": 2}
        molecules = dataset.molecules([1, 0])
        np.testing.assert_allclose(
            molecules.values["gap"], [0.25 * HARTREE, 0.5 * HARTREE], rtol=1e-6
        )
        found = molecules.values["shifts"]
        assert found.tolist() == [[6, 7], [8, 9], [10, 11], [0, 1], [2, 3], [4, 5]]
        assert dataset.manifests[0]["units"]["gap"] == "eV"
        convert(tmp_path / "set", tmp_path / "again")
        again = PackedDataset.open(tmp_path / "again").take("gap", np.arange(2))
        np.testing.assert_array_equal(again, dataset.take("gap", np.arange(2)))
    assert "gap" not in PackedDataset.open(tmp_path / "set").fields


def test_names_and_levels_by_chosen_keys(tmp_path):
    (tmp_path / "a.xyz").write_text(frame("energy=-2077 charge=0 mol=water code=HF/x"))
    keys = {"name": "mol", "level": "code"}
    convert(tmp_path / "a.xyz", tmp_path / "set", keys=keys)
    dataset = PackedDataset.open(tmp_path / "set")
    assert (dataset.groups, dataset.levels) == (("water",), ("HF/x",))
    with pytest.raises(ValueError, match="no key 'cod', asked for as level"):
        convert(tmp_path / "a.xyz", tmp_path / "other", keys={"level": "cod"})


def test_labels_of_a_packed_dataset_can_be_left_out(make_dataset, tmp_path):
    source = make_dataset([2, 3])
    report = convert(source, tmp_path / "set", ignore=("charges", "stress"))
    assert report.sources[0].ignored == ["charges", "stress"]
    labels = PackedDataset.open(tmp_path / "set").labels
    assert set(labels) == {"energy", "forces", "dipole", "spin_populations"}
