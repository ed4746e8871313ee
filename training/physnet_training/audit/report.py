"""What a dataset holds and what an audit found of it: values, words and tables."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from physnet_ase.quantities import labels
from physnet_ase.state import signed
from physnet_training.audit.distances import closest_pair
from physnet_training.packed import PackedDataset
from physnet_training.packed.files import read_json
from physnet_training.packed.layout import REPORT, units

Array = NDArray[Any]

_MARKS = {"plausible": "ok", "suspicious": "SUSPICIOUS", "unclear": "unclear"}
_SHOWN = 20
_SHOWN_ATOMS = 100


def stored_audit(dataset: PackedDataset) -> dict[str, Any] | None:
    """The audit that the conversion kept; None where there is none of this data."""
    found = _root_audit(dataset)
    if found is None and len(dataset.manifests) == 1:
        found = dataset.manifests[0].get("validation")
    if not found or found["num_molecules"] != dataset.num_molecules:
        return None
    return dict(found)


def _root_audit(dataset: PackedDataset) -> dict[str, Any] | None:
    """The audit in a root of shards, which may have changed since."""
    report = dataset.path / REPORT
    return read_json(report).get("validation") if report.exists() else None


def describe(
    dataset: PackedDataset, audit: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Counts, elements, states, labels, levels and sizes; JSON-serialisable.

    Args:
        dataset: The dataset.
        audit: What ``audit.audit_dataset`` returned, to be part of the description.
    """
    sizes = dataset.n_atoms
    notes = [note for m in dataset.manifests for note in m.get("notes", [])]
    if not dataset.spin_known:
        notes.append(
            "some molecules have no multiplicity: training a spin-conditioned model "
            "needs --assume-multiplicity lowest"
        )
    written = (_root_audit(dataset) or {}).get("num_molecules", dataset.num_molecules)
    if written != dataset.num_molecules:
        notes.append(
            f"{REPORT} is about {written} molecules, here are {dataset.num_molecules}: "
            "shards were added or lost since"
        )
    return {
        "path": str(dataset.path),
        "num_molecules": dataset.num_molecules,
        "num_atoms": dataset.num_atoms,
        "num_shards": len(dataset.manifests),
        "atoms_per_molecule": {
            "min": int(sizes.min()),
            "mean": float(np.mean(sizes)),
            "max": int(sizes.max()),
        },
        "elements": [chemical_symbols[z] for z in dataset.elements],
        "states": [
            {"charge": charge, "multiplicity": multiplicity, "count": count}
            for (charge, multiplicity), count in dataset.states.items()
        ],
        "spin_known": dataset.spin_known,
        "labels": dataset.labels,
        "levels": list(dataset.levels),
        "num_groups": len(dataset.groups),
        "units": units(),
        "sources": [
            entry for m in dataset.manifests for entry in m.get("provenance", [])
        ],
        "notes": notes,
        "validation": audit,
    }


def table(description: dict[str, Any]) -> Table:
    """A rich table of what ``describe`` returned."""
    grid = Table(
        title=escape(description["path"]), show_header=False, title_justify="left"
    )
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    sizes = description["atoms_per_molecule"]
    grid.add_row("molecules", f"{description['num_molecules']:,}")
    grid.add_row(
        "atoms",
        f"{description['num_atoms']:,} ({sizes['min']} to {sizes['max']} per molecule, "
        f"{sizes['mean']:.1f} on average)",
    )
    grid.add_row("shards", str(description["num_shards"]))
    audit = description["validation"]
    elements = " ".join(description["elements"])
    if audit is not None:
        elements = element_text(audit)
    grid.add_row("elements", elements)
    states = [
        f"charge {signed(state['charge'])}, multiplicity {state['multiplicity']}: "
        f"{state['count']:,}"
        for state in description["states"]
    ]
    grid.add_row("states", "\n".join(states) or "unknown")
    total = description["num_molecules"]
    labels = [
        f"{name}: {'all' if count == total else f'{count:,} molecules'}"
        for name, count in description["labels"].items()
    ]
    grid.add_row("labels", "\n".join(labels) or "none")
    grid.add_row(
        "levels of theory", escape("\n".join(description["levels"])) or "not stated"
    )
    grid.add_row("named molecules", f"{description['num_groups']:,}")
    units = ", ".join(f"{name} {unit}" for name, unit in description["units"].items())
    grid.add_row("units", units)
    sources = [
        f"{source.get('path', '?')}: {source.get('num_molecules', '?')} molecules"
        for source in description["sources"]
    ]
    grid.add_row("sources", escape("\n".join(sources)) or "not stated")
    if description["notes"]:
        grid.add_row("notes", escape("\n".join(description["notes"])))
    for topic, text in audit_lines(audit) if audit is not None else ():
        grid.add_row(topic, escape(text))
    return grid


def audit_lines(audit: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Topic and text of each thing that an audit found about the numbers.

    Args:
        audit: What ``audit.audit_dataset`` returned.
    """
    forces, distances = audit["forces"], audit["distances"]
    if forces is not None:
        yield (
            "forces",
            f"median {forces['p50']:.3g}, 99 % below {forces['p99']:.3g}, largest "
            f"{forces['largest']:.3g} eV/Å (row {forces['largest_row']})",
        )
    if distances is not None:
        yield (
            "shortest distance",
            f"median {distances['p50']:.3g}, 99 % above {distances['p1']:.3g}, least "
            f"{distances['shortest']:.3g} Å (row {distances['shortest_row']})",
        )
    if audit["energies"] is not None:
        away = audit["energies"]["deviation_per_atom"]
        yield (
            "energies",
            "away from the linear fit to elements and states: median "
            f"{away['median_absolute']:.3g}, 95 % below {away['p95_absolute']:.3g} "
            "eV per atom",
        )
    for verdict in audit["units"]:
        mark = _MARKS[verdict["verdict"]]
        yield "plausibility", f"{verdict['quantity']} {mark}: {verdict['text']}"
    yield "duplicates", _duplicates(audit["duplicates"])
    yield "suspicious rows", "\n".join(_suspicious(audit["suspicious"]))


def _duplicates(found: dict[str, Any]) -> str:
    if not found["count"]:
        return "none"
    row, first = found["rows"][0]
    text = (
        f"{found['count']:,} molecules stand in the data already, same geometry, state "
        f"and level (first: row {row} repeats row {first}); split by geometry to keep "
        "copies together"
    )
    if found["contradicting"]:
        text += (
            f"; {found['contradicting']:,} of them with ANOTHER ENERGY: data of "
            "several levels or solvents without saying so?"
        )
    return text


def _suspicious(found: dict[str, Any]) -> Iterator[str]:
    if not found["total"]:
        yield "none"
        return
    kinds = ", ".join(f"{kind}: {count:,}" for kind, count in found["by_kind"].items())
    yield f"{found['total']:,} ({kinds}); look at them with --rows"
    for row in found["rows"][:_SHOWN]:
        yield f"row {row['row']}: {row['reason']}"
    if found["total"] > _SHOWN:
        yield "…"


def element_text(audit: dict[str, Any]) -> str:
    """Elements with their atoms and the molecules that hold them."""
    return ", ".join(
        f"{entry['symbol']} {entry['atoms']:,} in {entry['molecules']:,} molecules"
        for entry in audit["elements"]
    )


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
        **{
            label.name: _plain(dataset.take(label.name, one)[0])
            for label in labels()
            if not label.per_atom
        },
        "shortest_distance": closest_pair(positions)[0] if len(numbers) > 1 else None,
        "largest_force": _plain(np.linalg.norm(forces, axis=1).max()),
        "net_force": _plain(np.linalg.norm(forces.sum(axis=0))),
        **_source(dataset, row),
        "symbols": symbols,
        "positions": _plain(positions),
        "forces": _plain(forces),
    }
    for label in labels():
        if label.per_atom and label.name != "forces":
            found[label.name] = _plain(dataset.take(label.name, atoms))
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
    units = {label.name: label.unit for label in labels()}
    units |= {"shortest_distance": "angstrom"}
    units |= dict.fromkeys(("largest_force", "net_force"), units["forces"])
    tables = ["symbols", "positions", *(q.name for q in labels() if q.per_atom)]
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
