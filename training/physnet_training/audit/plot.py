"""The picture of an audit: histograms of what a dataset holds."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from physnet_ase.state import signed

_MAX_BARS = 16
_DISTANCES = (0.1, 0.2, 0.5, 0.7, 1, 1.4, 2, 3, 5, 10, 20, 50)  # Å


def plot_audit(audit: dict[str, Any], picture: Path) -> Path:
    """Draw sizes, elements, states, energies, forces and shortest distances.

    Args:
        audit: What ``audit.audit_dataset`` returned.
        picture: File to write; the ending says the format.
    """
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.6), layout="constrained")
    sizes, elements, states, energies, forces, distances = axes.ravel()
    _histogram(sizes, audit["sizes"]["histogram"], "atoms per molecule")
    _bars(
        elements,
        [(entry["symbol"], entry["atoms"]) for entry in audit["elements"]],
        "atoms",
    )
    _bars(states, [(_state(s), s["count"]) for s in audit["states"]], "molecules")
    states.set_ylabel("charge, 2S+1")
    found = audit["energies"]
    _histogram(
        energies,
        None if found is None else found["deviation_per_atom"]["histogram"],
        "energy above the linear fit (eV/atom)",
    )
    for axis, name, label in (
        (forces, "forces", "force on an atom (eV/Å)"),
        (distances, "distances", "shortest distance of a molecule (Å)"),
    ):
        found = audit[name]
        content = None if found is None else found["histogram"]
        _histogram(axis, content, label)
        axis.set_xscale("log")
    forces.set_ylabel("atoms")
    for axis in (energies, forces, distances):
        axis.set_yscale("log")
    low, high = distances.get_xlim()
    ticks = [tick for tick in _DISTANCES if low <= tick <= high]
    distances.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    distances.set_xticks([], minor=True)
    figure.suptitle(
        f"{audit['num_molecules']:,} molecules, {audit['num_atoms']:,} atoms"
    )
    figure.savefig(picture, dpi=150)
    plt.close(figure)
    return picture


def _state(state: dict[str, Any]) -> str:
    spin = state["multiplicity"]
    charge = state["charge"]
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
