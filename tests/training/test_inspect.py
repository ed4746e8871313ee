"""The description of a dataset, its table, single rows, the picture, checksums."""

import json
import shutil
from io import StringIO

import matplotlib.image
import numpy as np
import pytest
from physnet_training.audit.audit import audit_dataset
from physnet_training.audit.report import (
    describe,
    describe_row,
    parse_rows,
    plot_audit,
    stored_audit,
    table,
)
from physnet_training.cli import app
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset
from physnet_training.packed.files import MANIFEST
from rich.console import Console
from typer.testing import CliRunner

from physnet_ase.quantities import QUANTITIES

ARRAYS = sorted(
    QUANTITIES[name].file
    for name in QUANTITIES
    if name not in ("cell", "pbc", "s_squared", "weight", "level", "group")
)
FILES = [*ARRAYS, "n_atoms.npy", "offsets.npy", MANIFEST]


def inspect(*arguments):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


@pytest.fixture
def folder(make_dataset, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(make_dataset((3, 1, 4, 2, 3)), tmp_path / "set")


@pytest.fixture
def converted(make_molecules, tmp_path):
    """Two files converted to shards of two molecules."""
    for index in range(2):
        made = make_molecules([2, 3, 2], ["energy", "forces"], seed=index)
        np.savez(
            tmp_path / f"{index}.npz",
            n_atoms=made["n_atoms"],
            numbers=made["values"].pop("atomic_numbers"),
            units=json.dumps({"energy": "eV", "forces": "eV/angstrom"}),
            **made["values"],
        )
    sources = [tmp_path / "0.npz", tmp_path / "1.npz"]
    convert(sources, tmp_path / "root", shard_molecules=2)
    return tmp_path / "root"


def test_description_counts_and_is_json(make_dataset):
    found = describe(PackedDataset.open(make_dataset([2, 3, 1], labels=["energy"])))
    assert json.loads(json.dumps(found)) == found
    assert (found["num_molecules"], found["num_atoms"]) == (3, 6)
    assert found["atoms_per_molecule"] == {"min": 1, "mean": 2.0, "max": 3}
    assert found["elements"] == ["H", "O"]
    assert found["labels"] == {"energy": 3}
    assert sum(state["count"] for state in found["states"]) == 3
    assert found["units"]["energy"] == "eV"
    assert found["notes"] == []
    assert found["validation"] is None


def test_table_shows_what_is_missing(make_molecules, make_dataset):
    molecules = make_molecules([2, 3], labels=["energy", "forces"])
    molecules["values"]["energy"][1] = np.nan
    del molecules["values"]["spin_multiplicity"]
    dataset = PackedDataset.open(make_dataset(molecules=molecules))
    console = Console(width=100, record=True, file=StringIO())
    console.print(table(describe(dataset)))
    text = console.export_text()
    assert "energy: 1 molecules" in text
    assert "forces: all" in text
    assert "--assume-multiplicity lowest" in text
    assert "5 (2 to 3 per molecule, 2.5 on average)" in text


def test_command_audits_what_has_no_manifest(folder):
    (folder / MANIFEST).unlink()
    result = inspect(folder)
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.replace("│", " ").split())
    numbers = np.fromfile(folder / "Z_pack.int32", "<i4")
    assert f"H {(numbers == 1).sum()} in" in words
    assert "plausibility" in words
    assert "duplicates none" in words
    assert "the forces sum up to" in words
    assert "look at them with --rows" in words


def test_stored_audit_is_used_unless_asked(converted):
    dataset = PackedDataset.open(converted)
    stored = stored_audit(dataset)
    assert stored["num_molecules"] == 6
    assert stored == audit_dataset(dataset)
    report = converted / "report.json"
    content = json.loads(report.read_text())
    content["validation"]["num_atoms"] = -1
    report.write_text(json.dumps(content))
    shown = [
        json.loads(inspect(converted, "--json", *more).stdout)
        for more in ([], ["--audit"])
    ]
    assert [found["validation"]["num_atoms"] for found in shown] == [-1, 14]
    result = inspect(converted, "--verify")
    assert result.exit_code == 2
    assert "report.json was changed" in result.output


def test_audit_of_another_number_of_molecules_is_not_used(converted):
    shutil.rmtree(converted / "shard-00003")
    dataset = PackedDataset.open(converted)
    assert dataset.num_molecules == 5
    assert stored_audit(dataset) is None
    found = json.loads(inspect(converted, "--json").stdout)
    assert found["validation"]["num_molecules"] == 5
    assert found["notes"] == [
        "report.json is about 6 molecules, here are 5: shards were added or lost since"
    ]


def test_rows_in_full(converted):
    dataset = PackedDataset.open(converted)
    found = describe_row(dataset, 4)
    assert (found["source"], found["source_row"]) == ("1.npz", 1)
    assert (found["num_atoms"], len(found["forces"])) == (3, 3)
    assert found["energy"] == dataset.take("energy", np.array([4]))[0]
    positions = np.array(found["positions"], "f4")
    np.testing.assert_array_equal(
        positions, dataset.take("positions", dataset.atom_rows(np.array([4])))
    )
    gaps = np.linalg.norm(positions[:, None] - positions, axis=-1)
    assert found["shortest_distance"] == pytest.approx(gaps[gaps > 0].min())
    result = inspect(converted, "--rows", "4,0-1")
    assert result.exit_code == 0, result.output
    assert "row 4: " in result.output
    assert "source: 1.npz" in result.output
    assert result.output.count("atoms: positions, forces") == 3
    listed = json.loads(inspect(converted, "--rows", "4", "--json").stdout)
    assert listed == [found]


def test_a_missing_energy_is_said_to_be_missing(make_molecules, make_dataset):
    molecules = make_molecules([2], labels=["energy", "forces"])
    molecules["values"]["energy"][0] = np.nan
    result = inspect(make_dataset(molecules=molecules), "--rows", "0")
    assert "energy: missing" in result.output


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("6", "there is no molecule 6 in .*: it holds 0 to 5"),
        ("a", "--rows takes numbers and ranges such as 12,500,7-9, got 'a'"),
        ("1-", "--rows takes numbers and ranges"),
        ("-1", "--rows takes numbers and ranges"),
    ],
)
def test_wrong_rows_are_refused(converted, rows, message):
    with pytest.raises(ValueError, match=message):
        [describe_row(PackedDataset.open(converted), r) for r in parse_rows(rows)]
    result = inspect(converted, f"--rows={rows}")
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("labels", [["energy", "forces"], []])
def test_picture(make_dataset, tmp_path, labels):
    path = make_dataset([3] * 40 + [1, 5], labels=labels)
    picture = tmp_path / "set.png"
    assert inspect(path, "--plot", picture).exit_code == 0
    image = matplotlib.image.imread(picture)
    assert image.shape[0] > 800
    # all six panels hold something blue, those without labels nothing
    blue = (image[..., 2] > 0.6) & (image[..., 0] < 0.3)
    height, width = blue.shape[0] // 2, blue.shape[1] // 3
    panels = [
        blue[r * height : (r + 1) * height, c * width : (c + 1) * width].sum() > 500
        for r in range(2)
        for c in range(3)
    ]
    assert panels == [True, True, True, bool(labels), bool(labels), True]
    assert plot_audit(audit_dataset(PackedDataset.open(path)), picture) == picture


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_is_found_in_every_file(folder, name):
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert inspect(folder, "--verify", "--json").exit_code == 0
    content = bytearray((folder / name).read_bytes())
    # behind the header of .npy files, in the text of a checksum in the manifest
    place = content.index(b'"sha256"') + 40 if name == MANIFEST else len(content) - 1
    content[place] ^= 1
    (folder / name).write_bytes(content)
    result = inspect(folder, "--verify")
    assert result.exit_code == 2, result.output
    assert name in result.output


def test_no_bit_of_a_manifest_goes_unnoticed(folder):
    content = (folder / MANIFEST).read_bytes()
    for place in range(0, len(content), 11):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 7
        (folder / MANIFEST).write_bytes(changed)
        with pytest.raises(ValueError, match=str(folder)):
            PackedDataset.open(folder).verify()


def test_exchanged_and_foreign_files_are_named(folder, make_dataset):
    forces, positions = folder / "F_pack.f32", folder / "R_pack.f32"
    content = forces.read_bytes()
    forces.write_bytes(positions.read_bytes())
    positions.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"pack\.f32 was .*; it holds what belongs into"
    ):
        PackedDataset.open(folder).verify()
    positions.write_bytes(forces.read_bytes())
    forces.write_bytes(content)
    PackedDataset.open(folder).verify()
    np.zeros((5, 9), "f4").tofile(folder / "cell.f32")
    with pytest.raises(ValueError, match=r"cell\.f32 does not belong to this dataset"):
        PackedDataset.open(folder).verify()
    (folder / "cell.f32").unlink()
    other = make_dataset((3, 1, 4, 2, 3), seed=9)
    shutil.copy(other / "E.f64", folder / "E.f64")
    result = inspect(folder, "--verify")
    assert "E.f64 was changed since it was written" in result.output
