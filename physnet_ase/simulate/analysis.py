"""What a trajectory says: structure, diffusion, spectra, gaps between states.

Every function takes the frames of one trajectory as ``simulate.run`` writes them, and
returns numbers that can be drawn; :func:`average` joins those of several replicas.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import ase.io
import numpy as np
import vesin
from ase import Atoms
from ase.data import atomic_numbers

from physnet_ase.potential import Potential
from physnet_ase.simulate.h5md import SUFFIX, read_h5md
from physnet_ase.state import as_state
from physnet_ase.units import (
    BOLTZMANN,
    FEMTOSECOND,
    HBAR,
    INFRARED_INTENSITY,
    INVERSE_CM,
)
from physnet_ase.velocities import degrees_of_freedom

_FIT = (0.1, 0.5)
"""Shares of the longest time lag between which the diffusion line is fitted."""
_UNEVEN = 1e-6
"""Share of a time step by which frames may be uneven."""


@dataclass(frozen=True)
class Curve:
    """Numbers over an axis."""

    x: np.ndarray
    values: np.ndarray
    x_label: str
    label: str

    def draw(self, path: str | Path) -> None:
        """Write a picture; its ending chooses the format."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.0, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.x, self.values, linewidth=1.2)
        axes.set(xlabel=self.x_label, ylabel=self.label)
        figure.savefig(path, dpi=150)


@dataclass(frozen=True)
class Diffusion(Curve):
    """Mean squared displacement (Å²) over time (ps)."""

    @property
    def coefficient(self) -> float:
        """Diffusion coefficient in 10⁻⁵ cm²/s: a sixth of the slope (Einstein)."""
        last = self.x[-1]
        used = (self.x >= _FIT[0] * last) & (self.x <= _FIT[1] * last)
        if used.sum() < 2:
            return float("nan")
        slope = np.polyfit(self.x[used], self.values[used], 1)[0]
        return float(slope) / 6.0 * 10.0  # 1 Å²/ps is 1e-4 cm²/s


@dataclass(frozen=True)
class Gap(Curve):
    """Energy of one state above another (eV) over time (ps), at one's geometries."""

    temperature_K: float

    @property
    def mean(self) -> float:
        """Mean gap, eV."""
        return float(self.values.mean())

    @property
    def spread(self) -> float:
        """Standard deviation of the gap, eV."""
        return float(self.values.std())

    @property
    def reorganization_energy(self) -> float:
        """σ²/2kT in eV: that of a linear response (Marcus)."""
        thermal = 2.0 * BOLTZMANN * self.temperature_K
        return self.spread**2 / thermal if thermal > 0 else float("nan")

    def draw(self, path: str | Path) -> None:
        """The gap in time beside its distribution."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.0, 4.0), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
        left.plot(self.x, self.values, linewidth=0.8)
        left.set(xlabel=self.x_label, ylabel=self.label)
        right.hist(self.values, bins=30, orientation="horizontal", density=True)
        right.set_xlabel("1/eV")
        right.axhline(self.mean, color="black", linewidth=0.8)
        figure.savefig(path, dpi=150)


AnyCurve = TypeVar("AnyCurve", bound=Curve)


def read_frames(path: str | Path, skip_ps: float = 0.0) -> list[Atoms]:
    """Frames of a trajectory, without those before ``skip_ps``.

    Raises:
        ValueError: None is left.
    """
    path = Path(path)
    found = read_h5md(path) if path.suffix == SUFFIX else ase.io.read(path, ":")
    frames = [
        atoms for atoms in found if atoms.info.get("time_fs", 0.0) >= 1000.0 * skip_ps
    ]
    if not frames:
        raise ValueError(f"{path}: no frame at {skip_ps} ps or later")
    return frames


def average(curves: Sequence[AnyCurve]) -> AnyCurve:
    """Mean of several replicas, as far as the shortest of them goes."""
    shortest = min(curves, key=lambda curve: len(curve.x))
    count = len(shortest.x)
    if any(not np.allclose(curve.x[:count], shortest.x) for curve in curves):
        raise ValueError(
            "the trajectories differ in length or spacing; analyze them one by one"
        )
    mean = np.mean([curve.values[:count] for curve in curves], axis=0)
    return replace(shortest, values=mean)


def radial_distribution(
    frames: Sequence[Atoms],
    first: str,
    second: str | None = None,
    *,
    longest: float = 8.0,
    bins: int = 160,
) -> Curve:
    """Pair distribution g(r) of two elements in periodic cells.

    Args:
        frames: With three periodic directions.
        first: Symbol of an element.
        second: Of the other; None: the same.
        longest: Largest distance, Å; images of any number count.
        bins: Points of the curve.

    Raises:
        ValueError: A frame is not periodic, or an element is missing.
    """
    second = first if second is None else second
    numbers = frames[0].numbers
    ours = numbers == _number(first)
    theirs = numbers == _number(second)
    if not ours.any() or not theirs.any():
        raise ValueError(f"the frames hold no pair {first}-{second}")
    finder = vesin.NeighborList(cutoff=longest, full_list=True)
    edges = np.linspace(0.0, longest, bins + 1)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    total = np.zeros(bins)
    for atoms in frames:
        if not atoms.pbc.all():
            raise ValueError("a radial distribution needs three periodic directions")
        one, other, distances = finder.compute(
            points=atoms.positions,
            box=atoms.cell.array,
            periodic=True,
            quantities="ijd",
        )
        used = ours[one] & theirs[other]
        counts = np.histogram(distances[used], edges)[0]
        partners = theirs.sum() - (1.0 if first == second else 0.0)
        ideal = ours.sum() * partners / atoms.get_volume() * shells
        total += counts / np.maximum(ideal, 1e-300)
    label = f"g({first}–{second})"
    middle = 0.5 * (edges[1:] + edges[:-1])
    return Curve(middle, total / len(frames), "distance (Å)", label)


def mean_squared_displacement(
    frames: Sequence[Atoms], element: str | None = None
) -> Diffusion:
    """Mean squared displacement, averaged over atoms and starting times.

    The drift of the centre of mass is taken out. Positions must not be wrapped, as
    those of ``simulate.run`` are not.

    Args:
        frames: At even spacing.
        element: Symbol of the atoms that count; None: all.
    """
    spacing = _spacing(frames)
    masses = frames[0].get_masses()[None, :, None]
    positions = np.array([atoms.positions for atoms in frames])
    positions = (
        positions - (masses * positions).sum(axis=1, keepdims=True) / masses.sum()
    )
    if element is not None:
        positions = positions[:, frames[0].numbers == _number(element)]
    if positions.shape[1] == 0:
        raise ValueError(f"the frames hold no {element}")
    return Diffusion(
        np.arange(len(frames)) * spacing / 1000.0,
        _displacements(positions),
        "time (ps)",
        "mean squared displacement (Å$^2$)",
    )


def _displacements(positions: np.ndarray) -> np.ndarray:
    """⟨|r(s + t) - r(s)|²⟩ over s and atoms, by Fourier transforms.

    Kneller et al., Comput. Phys. Commun. 1995, 91, 191.
    """
    count = len(positions)
    squares = np.sum(positions**2, axis=(1, 2))
    padded = np.fft.rfft(positions, 2 * count, axis=0)
    spectrum = np.sum(np.abs(padded) ** 2, axis=(1, 2))
    products = np.fft.irfft(spectrum, 2 * count)[:count]
    # Sum of both ends' squares over the pairs of frames that are t apart.
    heads, tails = np.cumsum(squares), np.cumsum(squares[::-1])
    both = (heads + tails)[::-1]
    pairs = np.arange(count, 0, -1) * positions.shape[1]
    found: np.ndarray = np.maximum((both - 2.0 * products) / pairs, 0.0)
    return found


def vibrational_density(frames: Sequence[Atoms], resolution: float = 10.0) -> Curve:
    """Vibrational density of states from the velocities; its integral is 1.

    Spectrum of the mass-weighted velocity autocorrelation.

    Args:
        frames: With momenta, at even spacing; a frame at least every 4 fs sees up to
            4,000 cm⁻¹.
        resolution: Width in cm⁻¹ that lines are broadened to.
    """
    spacing = _spacing(frames)
    masses = frames[0].get_masses()[None, :, None]
    velocities = np.array([atoms.get_momenta() for atoms in frames]) / np.sqrt(masses)
    if not velocities.any():
        raise ValueError("the frames hold no momenta")
    wavenumbers, density = _spectrum(
        velocities.reshape(len(frames), -1), spacing, resolution
    )
    total = float(np.sum(density) * (wavenumbers[1] - wavenumbers[0]))
    return Curve(
        wavenumbers, density / total, "wavenumber (cm$^{-1}$)", "density of states (cm)"
    )


def infrared_spectrum(frames: Sequence[Atoms], resolution: float = 10.0) -> Curve:
    """Infrared absorption from the dipole along the motion, km/mol per cm⁻¹.

    Spectrum of the autocorrelation of dμ/dt, with the harmonic quantum correction
    (Ramírez et al., J. Chem. Phys. 2004, 121, 3973): a harmonic mode gives a line whose
    integral is its N_A |∂μ/∂Q|² / 12 ε₀ c². Dipoles about the centre of mass.

    Args:
        frames: Of an open molecule with dipoles, at even spacing.
        resolution: Width in cm⁻¹ that lines are broadened to.

    Raises:
        ValueError: There are no dipoles, or no motion.
    """
    spacing = _spacing(frames)
    try:
        charges = np.array([atoms.get_charges() for atoms in frames])
    except Exception as error:
        raise ValueError(
            "an infrared spectrum needs frames with charges, as simulate.run writes"
        ) from error
    if frames[0].pbc.any() and "dipole" not in frames[0].calc.results:
        raise ValueError("an infrared spectrum needs an open molecule")
    arms = np.array([a.positions - a.get_center_of_mass() for a in frames])
    dipoles = np.einsum("ti,tix->tx", charges, arms)
    thermal = BOLTZMANN * _temperature(frames)
    if not thermal > 0:
        raise ValueError("the frames hold no momenta, and so no temperature")
    wavenumbers, density = _spectrum(
        dipoles - dipoles.mean(axis=0), spacing, resolution
    )
    rates = wavenumbers * INVERSE_CM / (HBAR * FEMTOSECOND)  # of the phase
    return Curve(
        wavenumbers,
        density * rates**2 * INFRARED_INTENSITY / thermal,
        "wavenumber (cm$^{-1}$)",
        "absorption (km mol$^{-1}$ cm)",
    )


def state_gap(
    frames: Sequence[Atoms],
    potential: Potential,
    lower: Any,
    upper: Any,
    *,
    allow_unseen_states: bool = False,
) -> Gap:
    """Energy of state ``upper`` above ``lower`` in every frame, eV.

    Of a trajectory that ran in ``lower``, the vertical excitation or ionization
    energies and their distribution.

    Args:
        frames: Geometries.
        potential: The model.
        lower: A state, or (charge, multiplicity).
        upper: The other.
        allow_unseen_states: As for ``Potential.evaluate``.
    """
    states = [as_state(lower), as_state(upper)]
    rows = potential.evaluate(
        list(frames),
        states,
        properties=("energy",),
        allow_unseen_states=allow_unseen_states,
    )
    gaps = np.array([two.energy - one.energy for one, two in rows])
    times = np.array([a.info.get("time_fs", np.nan) for a in frames]) / 1000.0
    if not np.isfinite(times).all():
        times = np.arange(len(frames), dtype=float)
    temperature = _temperature(frames)
    label = f"E({states[1].charge:+d}, {states[1].multiplicity}) − "
    label += f"E({states[0].charge:+d}, {states[0].multiplicity}) (eV)"
    return Gap(times, gaps, "time (ps)", label, temperature)


def _number(symbol: str) -> int:
    if symbol not in atomic_numbers:
        raise ValueError(f"{symbol!r} is no element's symbol")
    return int(atomic_numbers[symbol])


def _temperature(frames: Sequence[Atoms]) -> float:
    """Mean kinetic temperature in K over the degrees of freedom that move."""
    first = frames[0]
    degrees = degrees_of_freedom(first, "nve", first.get_momenta())
    kinetic = float(np.mean([atoms.get_kinetic_energy() for atoms in frames]))
    return 2.0 * kinetic / (degrees * BOLTZMANN) if degrees else 0.0


def _spacing(frames: Sequence[Atoms]) -> float:
    """Time between frames, fs.

    Raises:
        ValueError: There are too few, or they are uneven.
    """
    if len(frames) < 4:
        raise ValueError(f"{len(frames)} frames are too few; give at least 4")
    try:
        times = np.array([float(atoms.info["time_fs"]) for atoms in frames])
    except KeyError:
        raise ValueError(
            "frames need info['time_fs'], as simulate.run writes it"
        ) from None
    steps = np.diff(times)
    spacing = float(np.median(steps))
    uneven = np.abs(steps - spacing) > _UNEVEN * max(spacing, 1e-300)
    if spacing <= 0 or uneven[:-1].any():
        raise ValueError("frames must be evenly spaced in time")
    if uneven[-1]:
        raise ValueError(
            "the last frame is not spaced as the others are; leave it out, or choose "
            "steps as a multiple of save_every"
        )
    return spacing


def _spectrum(
    series: np.ndarray, spacing_fs: float, resolution: float
) -> tuple[np.ndarray, np.ndarray]:
    """One-sided spectral density of the sum of squares of a series [times, parts].

    Windows of a length that the resolution asks for, half overlapping, under Hann's
    window (Welch, IEEE Trans. Audio Electroacoust. 1967, 15, 70). Its integral over the
    wavenumber (cm⁻¹) is the mean of the sum of squares.
    """
    per_step = 2.0 * np.pi * HBAR / (spacing_fs * INVERSE_CM)  # cm⁻¹ of one cycle
    length = min(max(int(1.44 * per_step / resolution), 4), len(series))
    window = np.hanning(length + 2)[1:-1, None]
    weight = float(np.sum(window**2))
    starts = range(0, len(series) - length + 1, max(length // 2, 1))
    points = 2 ** int(np.ceil(np.log2(4 * length)))
    total = np.zeros(points // 2 + 1)
    for start in starts:
        part = np.fft.rfft(window * series[start : start + length], points, axis=0)
        total += np.sum(np.abs(part) ** 2, axis=1)
    width = per_step / points
    density = total / (len(starts) * weight * points * width)
    density[1:-1] *= 2.0
    return np.arange(len(density)) * width, density
