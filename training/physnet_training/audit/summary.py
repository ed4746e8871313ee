"""What a packed dataset holds, as plain values and as a table for the terminal."""

from typing import Any

import numpy as np
from ase.data import chemical_symbols
from rich.markup import escape
from rich.table import Table

from physnet_ase.state import signed
from physnet_training.audit.report import audit_lines, element_text
from physnet_training.packed import PackedDataset
from physnet_training.packed.files import read_json
from physnet_training.packed.layout import REPORT, units


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
