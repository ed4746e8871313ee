"""Single molecules of a dataset with all that is known about them."""

from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from physnet_training.audit.distances import closest_pair
from physnet_training.packed import PackedDataset

Array = NDArray[Any]
_SHOWN_ATOMS = 100


def parse_rows(text: str) -> list[int]:
    """Numbers and ranges, ``"12,500,7-9"``, in that order.

    Raises:
        ValueError: Something else is written there.
    """
    rows: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(
                f"--rows takes numbers and ranges such as 12,500,7-9, got {text!r}"
            )
        rows += range(int(first), int(last or first) + 1)
    return rows


def describe_row(dataset: PackedDataset, row: int) -> dict[str, Any]:
    """Everything stored about one molecule, and where it comes from.

    Args:
        dataset: The dataset.
        row: 0-based number of the molecule.

    Returns:
        JSON-serialisable, in eV, Å and e; a missing number is None.

    Raises:
        ValueError: There is no such molecule.
    """
    if not 0 <= row < dataset.num_molecules:
        raise ValueError(
            f"there is no molecule {row} in {dataset.path}: it holds 0 to "
            f"{dataset.num_molecules - 1}"
        )
    one = np.array([row])
    atoms = dataset.atom_rows(one)
    numbers = dataset.take("atomic_numbers", atoms)
    symbols = [chemical_symbols[z] if 1 <= z <= 118 else "X" for z in numbers]
    positions = dataset.take("positions", atoms)
    forces = dataset.take("forces", atoms)
    level, group = (int(dataset.take(name, one)[0]) for name in ("level", "group"))
    found: dict[str, Any] = {
        "row": row,
        "formula": Formula.from_list(symbols).format("hill"),
        "name": dataset.groups[group] if group >= 0 else None,
        "num_atoms": len(numbers),
        "charge": _plain(dataset.take("total_charge", one)[0]),
        "multiplicity": _plain(dataset.multiplicities(one)[0]),
        "level": dataset.levels[level] if level >= 0 else None,
        "energy": _plain(dataset.take("energy", one)[0]),
        "dipole": _plain(dataset.take("dipole", one)[0]),
        "stress": _plain(dataset.take("stress", one)[0]),
        "shortest_distance": closest_pair(positions)[0] if len(numbers) > 1 else None,
        "largest_force": _plain(np.linalg.norm(forces, axis=1).max()),
        "net_force": _plain(np.linalg.norm(forces.sum(axis=0))),
        **_source(dataset, row),
        "symbols": symbols,
        "positions": _plain(positions),
        "forces": _plain(forces),
    }
    for name in ("charges", "spin_populations"):
        found[name] = _plain(dataset.take(name, atoms))
    periodic = dataset.take("pbc", one)[0].astype(bool)
    if periodic.any():
        found["pbc"] = periodic.tolist()
        found["cell"] = _plain(dataset.take("cell", one)[0])
    return {
        key: value
        for key, value in found.items()
        if value is not None or key in ("energy", "multiplicity")
    }


def row_lines(found: dict[str, Any]) -> list[str]:
    """What ``describe_row`` returned, as text."""
    lines = [f"row {found['row']}: {found['formula']}, {found['num_atoms']} atoms"]
    units = {
        "energy": "eV",
        "shortest_distance": "Å",
        "largest_force": "eV/Å",
        "net_force": "eV/Å",
        "dipole": "e·Å",
        "stress": "eV/Å³",
    }
    tables = ("symbols", "positions", "forces", "charges", "spin_populations")
    for key, value in found.items():
        if key not in ("row", "formula", "num_atoms", *tables):
            shown = "missing" if value is None else f"{value} {units.get(key, '')}"
            lines.append(f"  {key.replace('_', ' ')}: {shown}".rstrip())
    columns = [name for name in tables[1:] if name in found]
    lines.append(f"  atoms: {', '.join(columns).replace('_', ' ')}")
    for index, symbol in enumerate(found["symbols"][:_SHOWN_ATOMS]):
        values = np.concatenate(
            [np.ravel(np.array(found[name][index], float)) for name in columns]
        )
        numbers = " ".join(f"{value:11.5f}" for value in values)
        lines.append(f"  {index:5d} {symbol:3s}{numbers}")
    if found["num_atoms"] > _SHOWN_ATOMS:
        lines.append(f"  … {found['num_atoms'] - _SHOWN_ATOMS} atoms more (see --json)")
    return lines


def _source(dataset: PackedDataset, row: int) -> dict[str, Any]:
    """The source of a molecule, and its row there or the rows it is among."""
    for manifest in dataset.manifests:
        inside = manifest.get("num_molecules", 0)
        if row >= inside:
            row -= inside
            continue
        for entry in manifest.get("provenance", []):
            count = entry.get("num_molecules", 0)
            if row >= count:
                row -= count
                continue
            found = {"source": entry.get("path")}
            if "rows" in entry:
                first, end = entry["rows"]
                exact = end - first == count  # none was left out
                found["source_row"] = first + row if exact else f"{first} to {end - 1}"
            return found
        return {}
    return {}


def _plain(values: Any) -> Any:
    """As Python numbers; None where nothing is finite."""
    array = np.asarray(values)
    if not np.isfinite(array).any():
        return None
    if array.ndim == 0:
        number = float(array)
        return int(number) if number == int(number) else _short(array)
    return [_plain(entry) for entry in array]


def _short(number: Array) -> float:
    """Float32 numbers with the digits they have."""
    return float(str(number)) if number.dtype == np.float32 else float(number)
