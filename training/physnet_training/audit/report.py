"""What a dataset holds and what an audit found of it: values, words, pictures."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula
from rich.markup import escape
from rich.table import Table

from physnet_ase.quantities import labels
from physnet_ase.state import signed
from physnet_training.audit.validate import closest_pair
from physnet_training.packed import PackedDataset
from physnet_training.packed.files import REPORT, read_json, units

_MARKS = {"plausible": "ok", "suspicious": "SUSPICIOUS", "unclear": "unclear"}
_SHOWN = 20
_SHOWN_ATOMS = 100
_MAX_BARS = 16
_DISTANCES = (0.1, 0.2, 0.5, 0.7, 1, 1.4, 2, 3, 5, 10, 20, 50)  # Å


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
        audit: What ``audit_dataset`` returned, to be part of the description.
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
    sizes, audit = description["atoms_per_molecule"], description["validation"]
    total = description["num_molecules"]
    elements = " ".join(description["elements"])
    rows = {
        "molecules": f"{total:,}",
        "atoms": f"{description['num_atoms']:,} ({sizes['min']} to {sizes['max']} per "
        f"molecule, {sizes['mean']:.1f} on average)",
        "shards": str(description["num_shards"]),
        "elements": elements if audit is None else element_text(audit),
        "states": "\n".join(
            f"charge {signed(state['charge'])}, multiplicity {state['multiplicity']}: "
            f"{state['count']:,}"
            for state in description["states"]
        )
        or "unknown",
        "labels": "\n".join(
            f"{name}: {'all' if count == total else f'{count:,} molecules'}"
            for name, count in description["labels"].items()
        )
        or "none",
        "levels of theory": "\n".join(description["levels"]) or "not stated",
        "named molecules": f"{description['num_groups']:,}",
        "units": ", ".join(f"{name} {u}" for name, u in description["units"].items()),
        "sources": "\n".join(
            f"{source.get('path', '?')}: {source.get('num_molecules', '?')} molecules"
            for source in description["sources"]
        )
        or "not stated",
        "notes": "\n".join(description["notes"]),
    }
    title = escape(description["path"])
    grid = Table(title=title, show_header=False, title_justify="left")
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for topic, text in (*rows.items(), *(audit_lines(audit) if audit else ())):
        if text:
            grid.add_row(topic, escape(text))
    return grid


def audit_lines(audit: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Topic and text of each thing that an audit found about the numbers.

    Args:
        audit: What ``audit_dataset`` returned.
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
    manifest, row = _holding(dataset.manifests, row)
    entry, row = _holding(manifest.get("provenance", []), row)
    if not entry:
        return {}
    found = {"source": entry.get("path")}
    if "rows" in entry:
        first, end = entry["rows"]
        exact = end - first == entry["num_molecules"]  # none was left out
        found["source_row"] = first + row if exact else f"{first} to {end - 1}"
    return found


def _holding(entries: Iterable[dict[str, Any]], row: int) -> tuple[dict[str, Any], int]:
    """The entry whose molecules a row is among, and its number there."""
    for entry in entries:
        if row < entry.get("num_molecules", 0):
            return entry, row
        row -= entry.get("num_molecules", 0)
    return {}, row


def _plain(values: Any) -> Any:
    """As Python numbers; None where nothing is finite."""
    array = np.asarray(values)
    if not np.isfinite(array).any():
        return None
    if array.ndim == 0:
        number = float(array)
        if number == int(number):
            return int(number)
        return float(str(array)) if array.dtype == np.float32 else number
    return [_plain(entry) for entry in array]


def plot_audit(audit: dict[str, Any], picture: Path) -> Path:
    """Draw sizes, elements, states, energies, forces and shortest distances.

    Args:
        audit: What ``audit_dataset`` returned.
        picture: File to write; the ending says the format.
    """
    from matplotlib.figure import Figure  # takes a second to import

    figure = Figure(figsize=(12, 6.6), layout="constrained")
    sizes, elements, states, energies, forces, distances = figure.subplots(2, 3).ravel()
    _histogram(sizes, audit["sizes"]["histogram"], "atoms per molecule")
    _bars(elements, [(e["symbol"], e["atoms"]) for e in audit["elements"]], "atoms")
    _bars(states, [(_state(s), s["count"]) for s in audit["states"]], "molecules")
    states.set_ylabel("charge, 2S+1")
    away = (audit["energies"] or {}).get("deviation_per_atom")
    for axis, counted, label in (
        (energies, away, "energy above the linear fit (eV/atom)"),
        (forces, audit["forces"], "force on an atom (eV/Å)"),
        (distances, audit["distances"], "shortest distance of a molecule (Å)"),
    ):
        _histogram(axis, None if counted is None else counted["histogram"], label)
        axis.set_yscale("log")
        if axis is not energies:
            axis.set_xscale("log")
    forces.set_ylabel("atoms")
    low, high = distances.get_xlim()
    ticks = [tick for tick in _DISTANCES if low <= tick <= high]
    distances.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    distances.set_xticks([], minor=True)
    figure.suptitle(
        f"{audit['num_molecules']:,} molecules, {audit['num_atoms']:,} atoms"
    )
    figure.savefig(picture, dpi=150)
    return picture


def _state(state: dict[str, Any]) -> str:
    charge, spin = state["charge"], state["multiplicity"]
    shown = signed(charge) if isinstance(charge, int) else f"{charge:+g}"
    return f"{shown}, {'?' if spin is None else spin}"


def _histogram(axis: Any, content: dict[str, Any] | None, label: str) -> None:
    axis.set(xlabel=label, ylabel="molecules")
    if content is None or not content["counts"]:
        axis.text(0.5, 0.5, "none", ha="center", va="center", transform=axis.transAxes)
        return
    axis.stairs(content["counts"], content["edges"], fill=True)
    axis.grid(alpha=0.3)


def _bars(axis: Any, counts: list[tuple[str, int]], label: str) -> None:
    """Horizontal bars, the most frequent ones, in their given order."""
    least = sorted((count for _, count in counts), reverse=True)[:_MAX_BARS][-1]
    shown = [entry for entry in counts if entry[1] >= least][:_MAX_BARS]
    places = np.arange(len(shown))
    axis.barh(places, [count for _, count in shown], log=True)
    axis.set_xlim(left=0.7)  # one alone is seen too
    axis.set_yticks(places, [name for name, _ in shown])
    axis.invert_yaxis()
    more = len(counts) - len(shown)
    axis.set_xlabel(f"{label} ({more} kinds more)" if more else label)
    axis.grid(alpha=0.3, axis="x")
