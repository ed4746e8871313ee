"""Pictures of a training: learning curve and parity per state."""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from physnet_ase.state import ElectronicState
from physnet_training.train.calibration import errors_and_spreads
from physnet_training.train.evaluate import Predictions


def plot_history(history: Path, picture: Path) -> Path:
    """Draw losses, learning rate and validation errors over the steps of a run.

    Args:
        history: ``history.jsonl`` of a run.
        picture: PNG to write.
    """
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    steps = [line["step"] for line in lines]
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.6), layout="constrained")
    for axis, title, values in (
        (axes[0], "training loss", [line["train"]["loss"] for line in lines]),
        (axes[1], "learning rate", [line.get("learning_rate") for line in lines]),
    ):
        known = [np.nan if value is None else value for value in values]
        if np.any(np.array(known) > 0):
            axis.semilogy(steps, known, marker="o", markersize=3, color="0.3")
        axis.set(xlabel="training step", ylabel=title)
        axis.grid(alpha=0.3, which="both")
    for axis, key, title in (
        (axes[2], "energy_mae_ev", "validation energy MAE (meV)"),
        (axes[3], "forces_mae_ev_per_angstrom", "validation force MAE (meV/Å)"),
    ):
        values = [line["errors"][0][key] for line in lines]
        if any(value is not None for value in values):
            scaled = [np.nan if v is None else 1000 * v for v in values]
            axis.semilogy(steps, scaled, marker="o", markersize=3)
        axis.set(xlabel="training step", ylabel=title)
        axis.grid(alpha=0.3, which="both")
    for retreat in lines[-1].get("retreats", []):
        axes[0].axvline(retreat["step"], color="tab:red", linewidth=0.8)
    figure.savefig(picture, dpi=150)
    plt.close(figure)
    return picture


def plot_parity(predictions: Predictions, picture: Path) -> Path:
    """Draw predicted against reference energies and forces, one colour per state.

    Energies are those above the references, so that the axis shows what was learned. Of
    a model with several heads there are errors against spreads, too.

    Args:
        predictions: Of held-out molecules.
        picture: PNG to write.
    """
    values = predictions.values
    states = np.unique(values["state"], axis=0)
    colours = plt.get_cmap("tab20")(np.linspace(0, 1, max(len(states), 2)))
    spread = errors_and_spreads(values)
    rows = 2 if spread else 1
    figure, grid = plt.subplots(
        rows, 2, figsize=(10, 4.6 * rows), layout="constrained", squeeze=False
    )
    axes = grid[0]
    if spread:
        _draw_spreads(grid[1], spread)
    for state, colour in zip(states, colours, strict=False):
        molecules = (values["state"] == state).all(axis=1)
        atoms = (values["atom_state"] == state).all(axis=1)
        label = str(ElectronicState(int(state[0]), int(state[1])))
        _scatter(axes[0], values, "energy", molecules, (colour, label))
        _scatter(axes[1], values, "forces", atoms, (colour, label))
    for axis, kind, name, unit in (
        (axes[0], "energy", "energy above references", "eV"),
        (axes[1], "forces", "force component", "eV/Å"),
    ):
        if kind in values and np.isfinite(values[f"{kind}_label"]).any():
            error = np.nanmean(np.abs(values[kind] - values[f"{kind}_label"]))
            axis.set_title(f"MAE {1000 * error:.3g} m{unit}", fontsize=9)
        low, high = axis.get_xlim()
        axis.plot([low, high], [low, high], color="0.6", linewidth=0.8, zorder=0)
        axis.set(xlabel=f"reference {name} ({unit})", ylabel=f"predicted ({unit})")
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=7, markerscale=2, loc="upper left", frameon=False)
    figure.savefig(picture, dpi=150)
    plt.close(figure)
    return picture


def _draw_spreads(axes: Any, spread: dict[str, tuple[Any, Any]]) -> None:
    """Errors against spreads; those of a calibrated model lie around the line."""
    for axis, kind, name, unit in (
        (axes[0], "energy", "energy", "eV"),
        (axes[1], "forces", "force on an atom", "eV/Å"),
    ):
        error, size = spread.get(kind, (np.zeros(0), np.zeros(0)))
        shown = (error > 0) & (size > 0)
        axis.set(xlabel=f"spread of the {name} ({unit})", ylabel=f"error ({unit})")
        axis.grid(alpha=0.3)
        if shown.any():
            axis.loglog(size[shown], error[shown], ".", markersize=3, alpha=0.5)
            ends = np.array([size[shown].min(), size[shown].max()])
            axis.loglog(ends, ends, color="0.6", linewidth=0.8, zorder=0)


def _scatter(
    axis: Any, values: dict[str, Any], kind: str, rows: Any, style: tuple[Any, str]
) -> None:
    if kind not in values:  # no molecule has this label
        return
    reference, predicted = values[f"{kind}_label"][rows], values[kind][rows]
    axis.scatter(
        reference.reshape(-1),
        predicted.reshape(-1),
        s=6,
        color=style[0],
        label=style[1],
    )
