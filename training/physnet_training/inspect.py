"""What a packed dataset holds, as plain values and as a table for the terminal."""

from typing import Any

import numpy as np
from ase.data import chemical_symbols
from rich.markup import escape
from rich.table import Table

from physnet_training.layout import UNITS
from physnet_training.packed import PackedDataset


def describe(dataset: PackedDataset) -> dict[str, Any]:
    """Counts, elements, states, labels, levels and sizes; JSON-serialisable."""
    sizes = dataset.n_atoms
    notes = [note for m in dataset.manifests for note in m.get("notes", [])]
    if not dataset.spin_known:
        notes.append(
            "some molecules have no multiplicity: training a spin-conditioned model "
            "needs --assume-multiplicity lowest"
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
        "units": UNITS,
        "sources": [
            entry for m in dataset.manifests for entry in m.get("provenance", [])
        ],
        "notes": notes,
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
    grid.add_row("elements", " ".join(description["elements"]))
    states = [
        f"charge {state['charge']:+d}, multiplicity {state['multiplicity']}: "
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
    return grid
