"""ASE trajectories and databases: results, states, constraints, damage."""

import sqlite3

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io.trajectory import Trajectory
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset
from physnet_training.sources import read_ase
from physnet_training.sources.formats import find_format
from physnet_training.sources.keys import Reading, ReadOptions

from physnet_ase.molecules import concatenate
from physnet_ase.units import HARTREE

COUNT = 5


def frame(row, info=True, **results):
    """Hydrogen fluoride with a fixed atom, stretched more in every row."""
    atoms = Atoms("HF", [[0, 0, 0], [0, 0, 0.9 + 0.01 * row]])
    if info:
        atoms.info.update(
            charge=row % 2, spin=1 + row % 2, kind="even odd".split()[row % 2]
        )
    atoms.set_constraint(FixAtoms([0]))
    results = {
        "energy": -100.0 - row,
        "forces": np.array([[0, 0, -1.0], [0, 0, 1.0]]) * row,
        "dipole": [0.0, 0.0, 0.4],
        "charges": [0.4 + row % 2, -0.4],
        "magmoms": [0.0, float(row % 2)],
    } | results
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def write_trajectory(path, frames):
    with Trajectory(path, "w") as file:
        for atoms in frames:
            file.write(atoms)


def write_database(path, frames):
    database = connect(path)
    for row, atoms in enumerate(frames):
        database.write(
            atoms,
            charge=row % 2,
            mult=1 + row % 2,
            kind="even odd".split()[row % 2],
            data={"note": np.arange(3)},
        )


WRITERS = {"a.traj": write_trajectory, "a.db": write_database, "a.json": write_database}


def read(path, **options):
    reading = Reading()
    pieces = find_format(path).read(path, ReadOptions(**options), reading)
    return concatenate(list(pieces)), reading.units


@pytest.mark.parametrize("file", WRITERS)
def test_everything_is_read(tmp_path, file):
    WRITERS[file](tmp_path / file, map(frame, range(COUNT)))
    convert(tmp_path / file, tmp_path / "set")
    dataset = PackedDataset.open(tmp_path / "set")
    rows = np.arange(COUNT)
    np.testing.assert_array_equal(dataset.take("energy", rows), -100.0 - rows)
    # the force on the fixed atom is the one computed, not the constrained zero
    np.testing.assert_array_equal(
        dataset.take("forces", np.arange(2 * COUNT))[::2, 2], -rows
    )
    assert dataset.labels == dict.fromkeys(
        ["energy", "forces", "dipole", "charges", "spin_populations"], COUNT
    )
    assert dataset.states == {(0, 1): 3, (1, 2): 2}
    assert find_format(tmp_path / file).count(tmp_path / file) == COUNT


@pytest.mark.parametrize("file", WRITERS)
def test_conditions_and_a_later_start(tmp_path, monkeypatch, file):
    WRITERS[file](tmp_path / file, map(frame, range(COUNT)))
    monkeypatch.setattr(read_ase, "_AT_ONCE", 2)
    found, _ = read(tmp_path / file, where={"kind": "odd", "charge": "1"})
    assert found.rows.tolist() == [1, 3]
    found, _ = read(tmp_path / file, first_row=3)
    assert found.rows.tolist() == [3, 4]
    assert list(found.values["energy"]) == [-103.0, -104.0]


def test_units_by_option(tmp_path):
    write_trajectory(tmp_path / "a.traj", [frame(0)])
    found, units = read(tmp_path / "a.traj", energy_unit="hartree")
    assert found.values["energy"][0] == -100.0 * HARTREE
    assert units["forces"] == "hartree/angstrom (by option)"
    assert units["dipole"] == "e*angstrom (dipole is so by the file's format)"


def test_rows_deleted_from_a_database_leave_no_gap(tmp_path):
    write_database(tmp_path / "a.db", map(frame, range(COUNT)))
    del connect(tmp_path / "a.db")[2]
    found, _ = read(tmp_path / "a.db")
    assert found.rows.tolist() == [0, 1, 2, 3]
    assert found.values["energy"].tolist() == [-100.0, -102.0, -103.0, -104.0]
    some, _ = read(tmp_path / "a.db", where={"id": "4"})
    assert some.values["energy"].tolist() == [-103.0]


def test_stress_and_cell(tmp_path):
    atoms = Atoms("Ar", cell=[4.0, 5.0, 6.0], pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, stress=np.arange(6.0))
    write_trajectory(tmp_path / "a.traj", [atoms])
    found, _ = read(tmp_path / "a.traj")
    assert found.values["stress"].tolist() == [[0, 1, 2, 3, 4, 5]]
    np.testing.assert_array_equal(found.values["cell"][0], np.diag([4.0, 5, 6]))


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"mult": 3}, r"contradicting .*\['mult'\] = 3, .*\['spin'\] = 1; keep one"),
        ({"charge": "high"}, ".*charge.* must be a single number, got 'high'"),
        ({"virial": np.eye(3)}, "virial is a virial, but there is no volume"),
        ({"gradient": np.zeros((2, 3))}, "there are forces .* --key forces=forces"),
        ({"F": np.zeros((2, 3))}, "several keys could be the forces: forces, F"),
        ({"REF_energy": 1.0}, "several keys could be the energy"),
    ],
)
def test_contradictions(tmp_path, info, message):
    atoms = frame(0)
    atoms.info.update(info)
    write_trajectory(tmp_path / "a.traj", [frame(0), atoms])
    with pytest.raises(
        ValueError, match=r"a\.traj: molecule 1 \(0-based\): " + message
    ):
        read(tmp_path / "a.traj")


def test_pairs_and_data_that_contradict(tmp_path):
    database = connect(tmp_path / "a.db")
    database.write(frame(0, info=False), mult=1, data={"mult": 3})
    with pytest.raises(
        ValueError, match="mult is 1 among the key-value pairs but 3 in"
    ):
        read(tmp_path / "a.db")


def test_forces_can_be_chosen_over_a_gradient(tmp_path):
    atoms = frame(1)
    atoms.info["gradient"] = np.zeros((2, 3))
    write_trajectory(tmp_path / "a.traj", [atoms])
    found, _ = read(tmp_path / "a.traj", keys={"forces": "forces"})
    assert found.values["forces"][1, 2] == 1.0


def cut(path, keep=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


@pytest.mark.parametrize("file", WRITERS)
def test_truncated_file(tmp_path, file):
    WRITERS[file](tmp_path / file, map(frame, range(200)))
    cut(tmp_path / file)
    with pytest.raises(ValueError, match=rf"{file} cannot be read as ASE .*damaged"):
        read(tmp_path / file)


@pytest.mark.parametrize("content", [b"", b"no file of ASE", b'[{"smiles": "C#N"}]'])
@pytest.mark.parametrize("file", WRITERS)
def test_foreign_file_is_refused_and_left_alone(tmp_path, file, content):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file} cannot be read as ASE"):
        read(tmp_path / file)
    assert (tmp_path / file).read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == [file]
    assert find_format(tmp_path / file).count(tmp_path / file) is None


def test_other_sqlite_database_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("CREATE TABLE plants (name TEXT)")
    database.close()
    before = (tmp_path / "a.db").read_bytes()
    with pytest.raises(ValueError, match="it holds no table of systems"):
        read(tmp_path / "a.db")
    assert (tmp_path / "a.db").read_bytes() == before
