"""NPZ archives: in pieces, from any row, in bounded memory, damage named."""

import tracemalloc
import zipfile

import numpy as np
import pytest
from data_files import write_padded, write_ragged
from physnet_training.sources import arrays
from physnet_training.sources.formats import find_format
from physnet_training.sources.keys import Reading, ReadOptions
from physnet_training.sources.read_npz import read_npz

from physnet_ase.molecules import concatenate

WRITERS = {"ragged": write_ragged, "padded": write_padded}
SIZES = [3, 1, 4, 2, 5, 4, 1, 2]


def read(path, **options):
    return list(read_npz(path, ReadOptions(**options), Reading()))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("layout", WRITERS)
def test_pieces_are_the_whole(tmp_path, make_molecules, monkeypatch, layout, save):
    molecules = make_molecules(SIZES)
    WRITERS[layout](tmp_path / "a.npz", molecules, save=save)
    monkeypatch.setattr(arrays, "MAX_MOLECULES", 3)
    pieces = read(tmp_path / "a.npz")
    assert [piece.rows.tolist() for piece in pieces] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    found = concatenate(pieces)
    np.testing.assert_array_equal(found.n_atoms, SIZES)
    for name, wanted in molecules["values"].items():
        np.testing.assert_array_equal(found.values[name], wanted)
    assert find_format(tmp_path / "a.npz").count(tmp_path / "a.npz") == len(SIZES)


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("first", [0, 1, 5, 7, 8, 20])
def test_a_later_start_gives_the_same_rows(
    tmp_path, make_molecules, monkeypatch, layout, first
):
    WRITERS[layout](tmp_path / "a.npz", make_molecules(SIZES))
    whole = concatenate(read(tmp_path / "a.npz"))
    monkeypatch.setattr(arrays, "MAX_MOLECULES", 2)
    pieces = read(tmp_path / "a.npz", first_row=first)
    if first >= len(SIZES):
        assert pieces == []
        return
    found, wanted = concatenate(pieces), whole.keep(whole.rows >= first)
    np.testing.assert_array_equal(found.rows, wanted.rows)
    for name in wanted.values:
        np.testing.assert_array_equal(found.values[name], wanted.values[name])


def test_pieces_are_cut_by_bytes(tmp_path, make_molecules, monkeypatch):
    write_ragged(tmp_path / "a.npz", make_molecules(SIZES, ["energy"]))
    atom_bytes = 8 + 3 * 8  # int64 number and three coordinates
    monkeypatch.setattr(arrays, "MAX_BYTES", 4 * atom_bytes)
    sizes = [piece.n_atoms.tolist() for piece in read(tmp_path / "a.npz")]
    assert sizes == [[3, 1], [4], [2], [5], [4], [1, 2]]


@pytest.mark.parametrize("layout", WRITERS)
def test_memory_does_not_grow_with_the_file(
    tmp_path, make_molecules, monkeypatch, layout
):
    monkeypatch.setattr(arrays, "MAX_MOLECULES", 200)
    peaks = []
    for count in (2000, 8000):
        molecules = make_molecules([4] * count, ["energy", "forces"])
        WRITERS[layout](tmp_path / "a.npz", molecules)
        tracemalloc.start()
        for _ in read_npz(tmp_path / "a.npz", ReadOptions(), Reading()):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # an array of one number per molecule would already add 48 kB
    assert peaks[1] < peaks[0] + 20_000


def test_columnwise_arrays(tmp_path, make_molecules):
    molecules = make_molecules(SIZES)
    molecules["values"]["positions"] = np.asfortranarray(
        molecules["values"]["positions"]
    )
    write_ragged(tmp_path / "a.npz", molecules)
    found = concatenate(read(tmp_path / "a.npz", first_row=2))
    wanted = molecules["values"]["positions"][sum(SIZES[:2]) :]
    np.testing.assert_array_equal(found.values["positions"], wanted)


def test_conditions_on_numbers_and_words(tmp_path, make_molecules):
    molecules = make_molecules(SIZES, ["energy"])
    molecules["values"]["temperature"] = np.arange(8.0) % 3
    molecules["values"]["solvent"] = np.array([b"none", b"water"] * 4)
    write_ragged(tmp_path / "a.npz", molecules)
    where = {"temperature": "1", "solvent": "water"}
    rows = [piece.rows for piece in read(tmp_path / "a.npz", where=where)]
    assert np.concatenate(rows).tolist() == [1, 7]
    with pytest.raises(ValueError, match="no such key; similar: temperature"):
        read(tmp_path / "a.npz", where={"temprature": "1"})
    with pytest.raises(ValueError, match=r"positions has shape \(22, 3\), expected"):
        read(tmp_path / "a.npz", where={"positions": "1"})


def test_symbols_and_tensors(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        species=np.array([["O", "H", "H"], ["H", "H", ""]]),
        R=np.arange(18.0).reshape(2, 3, 3),
        E=np.zeros(2),
        cell=np.stack([2 * np.eye(3), 4 * np.eye(3)]).reshape(2, 9),
        virial=np.arange(18.0).reshape(2, 9),
    )
    (found,) = read(tmp_path / "a.npz", energy_unit="eV")
    assert found.values["atomic_numbers"].tolist() == [8, 1, 1, 1, 1]
    # the negative virial over the volume, xx yy zz yz xz xy, symmetrised
    wanted = [[0, 4, 8, 6, 4, 2], [9, 13, 17, 15, 13, 11]]
    np.testing.assert_allclose(
        found.values["stress"], -np.array(wanted) / [[8.0], [64.0]]
    )
    with pytest.raises(ValueError, match="units missing: virial"):
        read(tmp_path / "a.npz")


BAD = [
    ({"stress": np.zeros((2, 5))}, r"stress has shape \(2, 5\), expected \(2, 6\)"),
    ({"virial": np.zeros((2, 9))}, "virial is a virial, but without a cell the volume"),
    ({"E": np.array(["a", "b"])}, "E holds <U1, expected numbers"),
    ({"N": np.array([1.0, 1.0])}, r"N is float64 of shape \(2,\), expected one whole"),
    ({"Z": np.array(["He", "Xx"])[:, None]}, "Z holds 'Xx', which is no element"),
    ({"Z": np.array(["He", "D"])[:, None]}, "Z holds 'D', which is no .*; write H"),
    ({"Z": np.array(["He", "C_3"])[:, None]}, "Z holds 'C_3', .*; write C"),
    ({"gradient": np.zeros((2, 1, 3)), "F": np.zeros((2, 1, 3))}, "--key forces=F"),
    ({"name": np.array(["a"])}, r"name has shape \(1,\), expected \(2,\)"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_arrays(tmp_path, changes, message):
    arrays = {"R": np.zeros((2, 1, 3)), "Z": np.full((2, 1), 2), "E": np.zeros(2)}
    np.savez(tmp_path / "a.npz", **{**arrays, **changes})
    with pytest.raises(ValueError, match=r"a\.npz: " + ".*" + message):
        read(tmp_path / "a.npz", energy_unit="eV")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([3, 1, 4, 2, 5, 4, 1, 3], "n_atoms sums to 23, but .* of 22 atoms"),
        ([3, 1, 4, 2, 5, 4, 0, 3], r"molecule 6 \(0-based\) has n_atoms 0"),
    ],
)
def test_sizes_that_do_not_add_up(tmp_path, make_molecules, sizes, message):
    molecules = {**make_molecules(SIZES, []), "n_atoms": np.array(sizes)}
    write_ragged(tmp_path / "a.npz", molecules)
    with pytest.raises(ValueError, match=r"a\.npz: " + message):
        read(tmp_path / "a.npz")


def flipped(path, member):
    """Change one byte in the middle of the data of a member."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(member)
    content = bytearray(path.read_bytes())
    place = info.header_offset + 200 + info.compress_size // 2
    content[place] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_changed_byte_is_found(tmp_path, make_molecules, save):
    write_ragged(tmp_path / "a.npz", make_molecules([5] * 500), save=save)
    flipped(tmp_path / "a.npz", "forces.npy")
    with pytest.raises(
        ValueError, match=r"a\.npz cannot be read as NPZ: forces\.npy: .*; it is trunc"
    ):
        read(tmp_path / "a.npz")


def test_header_that_promises_more(tmp_path):
    np.savez(tmp_path / "a.npz", E=np.zeros(4), R=np.zeros((4, 1, 3)))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["E.npy"] = parts["E.npy"][:-8]
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"E\.npy holds 24 bytes, .* asks for 32"):
        read(tmp_path / "a.npz")


def test_a_single_array_is_no_archive(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"a\.npz cannot be read as NPZ: .*not a zip"):
        read(tmp_path / "a.npz")
    assert find_format(tmp_path / "a.npz").count(tmp_path / "a.npz") is None
