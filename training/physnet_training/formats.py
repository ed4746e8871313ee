"""Which files and directories can be converted, and by which reader."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from physnet_training.molecules import Molecules, ReadOptions
from physnet_training.read_extxyz import read_extxyz
from physnet_training.read_hdf5 import count_hdf5, read_hdf5
from physnet_training.read_npz import count_npz, read_npz

Reader = Callable[[Path, ReadOptions, dict[str, str]], Iterator[Molecules]]
"""Yields the molecules of a source in pieces of bounded size, rows ascending, only
those from ``ReadOptions.first_row`` on; puts into the dictionary quantity -> the unit
taken and how it is known."""


@dataclass(frozen=True)
class Format:
    """A kind of source.

    Attributes:
        name: What people call it.
        read: Its reader.
        count: Number of rows of a source where that is cheap to know, else None.
    """

    name: str
    read: Reader
    count: Callable[[Path], int | None]


def _unknown(path: Path) -> int | None:
    """No count without reading the whole file."""
    return None


_NPZ = Format("NPZ", read_npz, count_npz)
_HDF5 = Format("HDF5", read_hdf5, count_hdf5)
_EXTXYZ = Format("extended XYZ", read_extxyz, _unknown)

ENDINGS: dict[str, Format] = {
    ".npz": _NPZ,
    ".xyz": _EXTXYZ,
    ".extxyz": _EXTXYZ,
    ".xyz.gz": _EXTXYZ,
    ".extxyz.gz": _EXTXYZ,
    ".h5": _HDF5,
    ".hdf5": _HDF5,
}
"""File ending -> format."""


def find_format(path: Path) -> Format:
    """The format of a source, by its ending or content.

    Raises:
        ValueError: There is nothing at this path, or nothing that can be read; the
            message lists what can.
    """
    if not path.exists():
        raise ValueError(f"{path} is no file; check the path")
    name = path.name.lower()
    for ending in sorted(ENDINGS, key=len, reverse=True):
        if path.is_file() and name.endswith(ending):
            return ENDINGS[ending]
    raise ValueError(
        f"{path}: no reader for this kind of file; known endings: {', '.join(ENDINGS)}"
    )
