"""A picture of an infrared spectrum: sticks from intensities, lines with a width."""

from pathlib import Path

import numpy as np

from physnet_ase.observables.harmonic import Vibrations

_WIDTH = 20.0
"""cm⁻¹; full width at half maximum of a line."""
_NAMED = 8
"""At most so many lines have their wavenumber written above them."""
_VISIBLE = 0.005
"""Share of the strongest line below which a line is not named."""


def broadened(wavenumbers: np.ndarray, found: Vibrations) -> np.ndarray:
    """Lorentzian lines whose peaks are the intensities, in km/mol, shape (points,).

    Args:
        wavenumbers: Where, in cm⁻¹, shape (points,).
        found: Vibrations with intensities; imaginary modes absorb nothing.
    """
    intensities = np.asarray(found.intensities)[~found.imaginary]
    centres = found.frequencies.real[~found.imaginary]
    offsets = (wavenumbers[:, None] - centres) / (0.5 * _WIDTH)
    curve: np.ndarray = (1.0 / (1.0 + offsets**2)) @ intensities
    return curve


def draw_spectrum(found: Vibrations, path: Path) -> None:
    """Write the infrared spectrum as a picture, wavenumbers falling to the right.

    Args:
        found: Vibrations of a molecule.
        path: Picture to write; its ending chooses the format.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: There are no intensities, or the ending names no picture format.
    """
    if found.intensities is None or not len(found.intensities):
        raise ValueError(
            f"{path}: there is nothing to draw; an infrared spectrum needs a molecule "
            "of two atoms or more, without periodic directions"
        )
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "a spectrum needs matplotlib; install it: pip install matplotlib"
        ) from error
    real = ~found.imaginary
    centres, heights = found.frequencies.real[real], found.intensities[real]
    highest = max(4000.0, 1.05 * float(np.max(centres, initial=0.0)))
    grid = np.linspace(0.0, highest, 8000)
    figure = Figure(figsize=(8.0, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.plot(grid, broadened(grid, found), color="C0", linewidth=1.2)
    axes.vlines(centres, 0.0, heights, colors="C3", linewidth=1.0)
    top = 1.25 * max(float(np.max(broadened(grid, found), initial=0.0)), 1e-3)
    for text, place, height in _labels(centres, broadened(centres, found)):
        axes.annotate(
            text,
            (place, height),
            xytext=(0, 4),
            textcoords="offset points",
            rotation=90,
            ha="center",
            va="bottom",
            size=8,
        )
    axes.set_xlim(highest, 0.0)
    axes.set_ylim(0.0, top)
    axes.set_xlabel("wavenumber / cm$^{-1}$")
    axes.set_ylabel("infrared intensity / km mol$^{-1}$")
    state = found.states[0]
    axes.set_title(
        f"{found.geometries[0].get_chemical_formula()}, {state}; harmonic, lines "
        f"{_WIDTH:.0f} cm$^{{-1}}$ wide",
        size=10,
    )
    figure.savefig(path, dpi=150)


def _labels(centres: np.ndarray, heights: np.ndarray) -> list[tuple[str, float, float]]:
    """Texts of the strongest lines; lines that would overlap share one."""
    chosen: list[tuple[str, float, float]] = []
    for index in np.argsort(-heights):
        place, height = float(centres[index]), float(heights[index])
        if len(chosen) == _NAMED or height < _VISIBLE * float(np.max(heights)):
            break
        # A letter's height at this size is some 50 cm⁻¹.
        if all(abs(place - other) > 50.0 for _, other, _ in chosen):
            chosen.append((f"{place:.0f}", place, height))
    return chosen
