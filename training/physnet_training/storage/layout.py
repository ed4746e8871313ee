"""The files of a packed dataset: names, types and shapes, written once."""

import hashlib
from pathlib import Path
from typing import NamedTuple

SCHEMA_VERSION = 1
"""Version of the manifest written here; newer ones are refused."""
MANIFEST = "manifest.json"
OFFSETS = "offsets.npy"
N_ATOMS = "n_atoms.npy"
REPORT = "report.json"
"""In a root of shards: its conversions and the audit of the whole."""
INVALID_ROWS = "invalid_rows.csv"
"""Rows of the sources that were skipped or kept with a problem, where there are any."""
MAX_GROUPS = 65_536
"""Most distinct group names kept; beyond this a name no longer groups anything."""
UNITS = {
    "energy": "eV",
    "length": "angstrom",
    "forces": "eV/angstrom",
    "charge": "e",
    "dipole": "e*angstrom",
    "stress": "eV/angstrom^3",
}
"""The only units on disk."""


class Field(NamedTuple):
    """One raw array on disk."""

    file: str
    dtype: str  # little endian, as on every machine this runs on
    per_atom: bool
    shape: tuple[int, ...]  # of one row
    required: bool = False

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        size = int(self.dtype[2:])
        for length in self.shape:
            size *= length
        return size


FIELDS: dict[str, Field] = {
    "atomic_numbers": Field("Z_pack.int32", "<i4", True, (), True),
    "positions": Field("R_pack.f32", "<f4", True, (3,), True),
    "forces": Field("F_pack.f32", "<f4", True, (3,)),
    "charges": Field("q_pack.f32", "<f4", True, ()),
    "spin_populations": Field("s_pack.f32", "<f4", True, ()),
    "energy": Field("E.f64", "<f8", False, ()),
    "total_charge": Field("total_charge.f32", "<f4", False, ()),
    "spin_multiplicity": Field("total_spin.f32", "<f4", False, ()),
    "dipole": Field("D.f32", "<f4", False, (3,)),
    "cell": Field("cell.f32", "<f4", False, (3, 3)),
    "pbc": Field("pbc.u8", "|u1", False, (3,)),
    "stress": Field("stress.f32", "<f4", False, (6,)),
    "s_squared": Field("s_squared.f32", "<f4", False, ()),
    "level": Field("level.i16", "<i2", False, ()),
    "group": Field("group.i32", "<i4", False, ()),
}
"""Field name -> its file. Names are those of ``physnet_ase.graph``."""

OLD_CHARGE = Field("Qtot.f64", "<f8", False, ())
"""Read as total charge where ``total_charge.f32`` is missing."""

LABELS = (
    "energy",
    "forces",
    "dipole",
    "charges",
    "spin_populations",
    "stress",
)
"""Fields that a model can be trained on; NaN means missing."""


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
