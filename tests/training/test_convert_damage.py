"""Bad input: one error that names file, row, value and remedy; nothing remains."""

import gzip

import numpy as np
import pytest
from physnet_training.convert import convert


def arrays(**changes):
    """Two water molecules in PhysNet's layout, with changes."""
    water = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    base = {
        "R": np.stack([water, water + 0.01]),
        "Z": np.array([[8, 1, 1], [8, 1, 1]]),
        "N": np.array([3, 3]),
        "E": np.array([-10.0, -10.1]),
        "F": np.zeros((2, 3, 3)),
        "Q": np.array([0, 0]),
        "S": np.array([1, 3]),
    }
    base.update(changes)
    return {key: value for key, value in base.items() if value is not None}


def changed(key, place, value):
    """The same with one entry replaced."""
    array = arrays()[key].astype(float)
    array[place] = value
    return {key: array}


FRAME = (
    "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy={energy} charge={charge} "
    'spin={spin} pbc="F F F"\nH 0 0 0 0 0 0\nH 0 0 {z} 0 0 0\n'
)


def frame(energy="-1.0", charge="0", spin="1", z="0.74"):
    return FRAME.format(energy=energy, charge=charge, spin=spin, z=z)


NPZ = [
    (
        changed("R", (1, 2, 0), np.nan),
        r"molecule 1, atom 2 \(0-based\): positions is \[",
    ),
    (
        changed("E", 1, np.nan),
        r"molecule 1 \(0-based\): energy is nan.*--allow-missing",
    ),
    (changed("F", (0, 1, 1), np.inf), r"molecule 0, atom 1 .*: forces is .*inf"),
    (changed("E", 0, np.inf), r"molecule 0 .*: energy is inf; correct"),
    (changed("F", (0, 1, 1), 1e39), r"molecule 0, atom 1 .*: forces is .*1e\+39"),
    (changed("Z", (1, 0), 119), r"molecule 1, atom 0 .*atomic number 119.*1 to 118"),
    (changed("Z", (1, 0), -1), r"unknown element, atomic number -1"),
    (changed("Z", (1, 1), 0), r"molecule 1 .* says 3 atoms but its atomic numbers"),
    (changed("S", 0, 2), r"molecule 0 .*multiplicity 2 \(2S\+1\).*10 electrons"),
    (changed("S", 0, 13), r"molecule 0 .*multiplicity 13"),
    (changed("S", 0, 0), r"molecule 0 .*at least 1, got 0"),
    (changed("S", 1, 1.5), r"molecule 1 .*whole number, got .*1\.5"),
    (changed("Q", 1, 0.5), r"molecule 1 .*charge must be .* whole number, got .*0\.5"),
    (changed("Q", 0, 11), r"molecule 0 .*charge \+11 removes more electrons"),
    (changed("R", (1, 1), [0.01, 0.01, 0.05]), r"molecule 1, atom 0 .* 0\.0\d+ Å away"),
    ({"F": np.zeros((2, 4, 3))}, r"forces have shape \(2, 4, 3\), expected \(2, 3"),
    ({"E": np.zeros(3)}, r"E has shape \(3,\), expected \(2,\)"),
    ({"N": np.array([3, 2])}, r"molecule 1 .* says 2 atoms but"),
    ({"N": np.array([3, 0])}, r"molecule 1 .* n_atoms 0; .* at least 1"),
    ({"N": np.array([3])}, r"1 n_atoms for 2 molecules"),
    ({"Z": np.ones((2, 5), int)}, r"atomic numbers have shape \(2, 5\)"),
    ({"R": None}, r"no positions: expected one of positions, R"),
    ({"E": None, "F": None}, "neither energies nor forces found"),
    ({"energy": np.zeros(2)}, r"several keys could be the energy: energy, E"),
    ({"mult": np.array([1, 1])}, r"molecule 1 .*: mult is 1 but S is 3"),
    ({"units": np.array("[eV")}, "units must be a JSON object"),
    ({k: v[:0] for k, v in arrays().items()}, "zero molecules"),
]


@pytest.mark.parametrize(("changes", "message"), NPZ)
def test_bad_npz(tmp_path, changes, message):
    np.savez(tmp_path / "bad.npz", **arrays(**changes))
    with pytest.raises(ValueError, match=r"bad\.npz: .*" + message):
        convert(tmp_path / "bad.npz", tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.npz"]


XYZ = [
    (frame(spin="2"), r"molecule 1 .*multiplicity 2.*2 electrons"),
    (frame(charge="3"), r"molecule 1 .*charge \+3 removes more electrons"),
    (frame(charge="0.5"), r"molecule 1 .*charge must be .* got .*0\.5"),
    (frame(spin="high"), r"molecule 1 .*spin.* must be a single number, got 'high'"),
    (frame(energy="nan"), r"molecule 1 .*energy is nan"),
    (frame(z="0.01"), r"molecule 1, atom 0 .*0\.010 Å away"),
    ("0\nenergy=0.0\n", r"molecule 1 .*no atoms"),
    (frame(z="x"), r"cannot be read at molecule"),
    ("2\nbroken\nH 0 0 0\n", r"cannot be read at molecule"),
    (frame().replace("spin=1", "spin=1 mult=3"), "contradicting .*mult.* = 3, .*spin"),
]


@pytest.mark.parametrize(("second", "message"), XYZ)
def test_bad_frame(tmp_path, second, message):
    (tmp_path / "bad.xyz").write_text(frame() + second)
    with pytest.raises(ValueError, match=r"bad\.xyz.*" + message):
        convert(tmp_path / "bad.xyz", tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.xyz"]


def damaged(kind):
    """Bytes of a file that is not what its name says."""
    if kind == "cut.extxyz.gz":
        return gzip.compress((frame() * 200).encode())[:-30]
    if kind == "cut.xyz":
        return (frame() * 2)[:-20].encode()
    return {"text.npz": b"no archive", "empty.npz": b"", "text.h5": b"no HDF5"}[kind]


@pytest.mark.parametrize(
    "kind", ["text.npz", "empty.npz", "text.h5", "cut.extxyz.gz", "cut.xyz"]
)
def test_unreadable_file(tmp_path, kind):
    (tmp_path / kind).write_bytes(damaged(kind))
    with pytest.raises(ValueError, match=rf"{kind} cannot be read"):
        convert(tmp_path / kind, tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == [kind]


def test_truncated_archive_and_pickles(tmp_path):
    np.savez(tmp_path / "whole.npz", **arrays())
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    np.savez(tmp_path / "pickled.npz", **arrays(Z=np.array([None, 1], dtype=object)))
    for name in ("cut.npz", "pickled.npz"):
        with pytest.raises(ValueError, match=rf"{name} cannot be read as NPZ"):
            convert(tmp_path / name, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_error_in_the_second_source_leaves_nothing(tmp_path):
    np.savez(tmp_path / "good.npz", **arrays())
    np.savez(tmp_path / "bad.npz", **arrays(**changed("E", 1, np.nan)))
    with pytest.raises(ValueError, match=r"bad\.npz: molecule 1"):
        convert([tmp_path / "good.npz", tmp_path / "bad.npz"], tmp_path / "set")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.npz", "good.npz"]
    convert(
        [tmp_path / "good.npz", tmp_path / "bad.npz"],
        tmp_path / "set",
        allow_missing=True,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": {"energy": "Energy"}}, r"unknown key 'Energy' asked for as energy"),
        ({"keys": {"power": "E"}}, r"unknown quantities \['power'\]; known: atomic"),
        ({"keys": {"enrgy": "E"}}, r"unknown quantities \['enrgy'\]; similar: energy"),
        ({"energy_unit": "furlong"}, r"unknown unit 'furlong' of energy; known: eV"),
        ({"assume_multiplicity": "one"}, "must be 'lowest'"),
        ({"where": {"colour": "red"}}, "no such key"),
        ({"dipole_unit": "debye"}, "no source holds dipoles"),
    ],
)
def test_bad_options(tmp_path, options, message):
    np.savez(tmp_path / "good.npz", **arrays())
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "good.npz", tmp_path / "set", **options)
    assert not (tmp_path / "set").exists()


def test_missing_units_are_asked_for(tmp_path):
    np.savez(
        tmp_path / "a.npz", n_atoms=[1], numbers=[2], positions=np.zeros((1, 3)),
        energy=[-2.9], charge=[0], multiplicity=[1],
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"a\.npz: units missing: .*--energy-unit"):
        convert(tmp_path / "a.npz", tmp_path / "set")
    convert(tmp_path / "a.npz", tmp_path / "set", energy_unit="hartree")


def test_sources_that_are_no_files(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.npz is no file"):
        convert(tmp_path / "absent.npz", tmp_path / "set")
    (tmp_path / "a.csv").touch()
    with pytest.raises(ValueError, match=r"a\.csv: no reader .*\.npz, \.xyz"):
        convert(tmp_path / "a.csv", tmp_path / "set")
    with pytest.raises(ValueError, match="at least one source"):
        convert([], tmp_path / "set")
    with pytest.raises(TypeError, match="unknown options"):
        convert(tmp_path / "absent.npz", tmp_path / "set", unit="eV")
