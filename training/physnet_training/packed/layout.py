"""The files of a packed dataset; those of the quantities stand in the table of them."""

from dataclasses import replace

from physnet_ase.quantities import QUANTITIES, Quantity, labels

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
OLD_CHARGE: Quantity = replace(QUANTITIES["total_charge"], file="Qtot.f64", dtype="<f8")
"""Read as total charge where ``total_charge.f32`` is missing."""
ALWAYS = (
    "atomic_numbers",
    "positions",
    "forces",
    "energy",
    "total_charge",
    "spin_multiplicity",
)
"""What every dataset written here holds, NaN where there is nothing."""


def units() -> dict[str, str]:
    """The only units on disk: one for all lengths, one for all charges, and labels'."""
    found = {"energy": QUANTITIES["energy"].unit}
    found["length"] = QUANTITIES["positions"].unit
    for label in labels():
        if label.unit:
            found["charge" if label.dimension == "charge" else label.name] = label.unit
    return found
