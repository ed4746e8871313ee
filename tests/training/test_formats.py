"""Which file is read by what."""

import numpy as np
import pytest
from physnet_training.sources.formats import ENDINGS, find_format


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("a.npz", "NPZ"),
        ("A.NPZ", "NPZ"),
        ("a.b.xyz", "extended XYZ"),
        ("a.extxyz.gz", "extended XYZ"),
        ("a.hdf5", "HDF5"),
        ("a.traj", "ASE trajectory"),
        ("a.db", "ASE database"),
        ("a.json", "ASE database"),
    ],
)
def test_files_by_their_ending(tmp_path, name, format_):
    (tmp_path / name).touch()
    assert find_format(tmp_path / name).name == format_


def test_directories_by_their_content(tmp_path):
    for folder, file, name in (
        ("packed", "n_atoms.npy", "packed dataset"),
        ("root", "shard-00000/n_atoms.npy", "packed dataset"),
        ("system", "type.raw", "DeePMD system"),
        ("tree", "a/b/type.raw", "DeePMD system"),
    ):
        path = tmp_path / folder / file
        path.parent.mkdir(parents=True)
        path.touch()
        assert find_format(tmp_path / folder).name == name


@pytest.mark.parametrize("name", ["a.csv", "a.npz.gz", "npz"])
def test_unknown_file_lists_the_known_ones(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match="no reader for this kind of file") as error:
        find_format(tmp_path / name)
    assert all(ending in str(error.value) for ending in ENDINGS)


def test_unknown_directory_and_absent_path(tmp_path):
    np.save(tmp_path / "other.npy", np.zeros(3))
    with pytest.raises(ValueError, match="no reader for this directory; known are pac"):
        find_format(tmp_path)
    with pytest.raises(ValueError, match=r"absent\.npz is no file; check the path"):
        find_format(tmp_path / "absent.npz")
