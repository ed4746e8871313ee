"""Which files and directories can be converted, and by which reader."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from physnet_ase.molecules import Molecules
from physnet_training.sources.keys import Reading, ReadOptions
from physnet_training.sources.read_ase import (
    count_database,
    count_trajectory,
    read_database,
    read_trajectory,
)
from physnet_training.sources.read_deepmd import count_deepmd, is_deepmd, read_deepmd
from physnet_training.sources.read_extxyz import COMPRESSIONS, read_extxyz
from physnet_training.sources.read_hdf5 import count_hdf5, read_hdf5
from physnet_training.sources.read_npz import count_npz, read_npz
from physnet_training.sources.read_packed import count_packed, is_packed, read_packed

Reader = Callable[[Path, ReadOptions, Reading], Iterator[Molecules]]
"""Called with the path of a source, what the user says of it, and where to note what
was taken and left. Yields molecules in batches of bounded size, rows ascending, only
those from ``ReadOptions.first_row`` on."""


@dataclass(frozen=True)
class Format:
    """A kind of source: its name, its reader, and its rows where cheap to know."""

    name: str
    read: Reader
    count: Callable[[Path], int | None]


_NPZ = Format("NPZ", read_npz, count_npz)
_HDF5 = Format("HDF5", read_hdf5, count_hdf5)
_EXTXYZ = Format("extended XYZ", read_extxyz, lambda path: None)
_TRAJECTORY = Format("ASE trajectory", read_trajectory, count_trajectory)
_DATABASE = Format("ASE database", read_database, count_database)
_DEEPMD = Format("DeePMD system", read_deepmd, count_deepmd)
_PACKED = Format("packed dataset", read_packed, count_packed)

ENDINGS: dict[str, Format] = {
    ".npz": _NPZ,
    ".xyz": _EXTXYZ,
    ".extxyz": _EXTXYZ,
    **{f".xyz{packing}": _EXTXYZ for packing in COMPRESSIONS},
    **{f".extxyz{packing}": _EXTXYZ for packing in COMPRESSIONS},
    ".traj": _TRAJECTORY,
    ".db": _DATABASE,
    ".json": _DATABASE,
    ".aselmdb": _DATABASE,
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
    if path.is_dir():
        if is_packed(path):
            return _PACKED
        if is_deepmd(path):
            return _DEEPMD
        raise ValueError(
            f"{path}: no reader for this directory; known are packed datasets "
            "(n_atoms.npy or shard-00000/) and DeePMD systems (type.raw)"
        )
    name = path.name.lower()
    for ending, format_ in ENDINGS.items():
        if name.endswith(ending):
            return format_
    raise ValueError(
        f"{path}: no reader for this kind of file; known endings: {', '.join(ENDINGS)}"
    )
