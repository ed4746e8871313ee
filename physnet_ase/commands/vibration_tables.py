"""What the command ``vibrations`` prints and writes: modes, thermochemistry, frames."""

from pathlib import Path
from typing import Any

from ase import Atoms
from rich.console import Console
from rich.table import Table

from physnet_ase.observables.harmonic import Vibrations
from physnet_ase.observables.thermodynamics import thermochemistry_of
from physnet_ase.state import signed
from physnet_ase.units import TO_EV


def vibrations_report(
    found: Vibrations, temperature: float, pressure: float, symmetry_number: int
) -> dict[str, Any]:
    """Modes and thermodynamic functions, ready for JSON.

    Raises:
        ValueError: A condition is not positive.
    """
    [state], [geometry] = found.states, found.geometries
    modes: list[dict[str, Any]] = []
    for index, frequency in enumerate(found.frequencies):
        intensity = None if found.intensities is None else found.intensities[index]
        modes.append(
            {
                "wavenumber_per_cm": float(abs(frequency)),
                "imaginary": bool(found.imaginary[index]),
                "intensity_km_per_mol": None if intensity is None else float(intensity),
                "reduced_mass_amu": float(found.reduced_masses[index]),
            }
        )
    report: dict[str, Any] = {
        "formula": geometry.get_chemical_formula(),
        "charge": state.charge,
        "multiplicity": state.multiplicity,
        "shape": found.shape,
        "energy_eV": found.energies[0],
        "zero_point_energy_eV": found.value,
        "modes": modes,
        "symbols": geometry.get_chemical_symbols(),
        "positions_A": geometry.positions.tolist(),
    }
    try:
        gas = thermochemistry_of(
            found, temperature, pressure, symmetry_number=symmetry_number
        )
    except RuntimeError as error:  # a saddle point has modes but no thermochemistry
        return report | {"thermochemistry": None, "reason": str(error)}
    return report | {
        "thermochemistry": {
            "temperature_K": gas.temperature,
            "pressure_Pa": gas.pressure,
            "symmetry_number": gas.symmetry_number,
            "enthalpy_eV": gas.enthalpy,
            "entropy_eV_per_K": gas.entropy,
            "gibbs_energy_eV": gas.gibbs_energy,
        }
    }


def print_vibrations(report: dict[str, Any]) -> None:
    """Print a report of ``vibrations_report``."""
    console = Console()
    console.print(
        f"[bold]{report['formula']}[/bold], charge {signed(report['charge'])}, "
        f"multiplicity {report['multiplicity']}, {report['shape']}"
    )
    table = Table()
    columns = ("mode", "wavenumber / cm⁻¹", "IR intensity / km/mol", "red. mass / amu")
    for name in columns:
        table.add_column(name, justify="right")
    for number, mode in enumerate(report["modes"], start=1):
        intensity = mode["intensity_km_per_mol"]
        table.add_row(
            str(number),
            f"{mode['wavenumber_per_cm']:.1f}{'i' if mode['imaginary'] else ' '}",
            "–" if intensity is None else f"{intensity:.1f}",
            f"{mode['reduced_mass_amu']:.3f}",
            style="red" if mode["imaginary"] else None,
        )
    console.print(table)
    unstable = sum(mode["imaginary"] for mode in report["modes"])
    if unstable:
        console.print(f"imaginary modes (i): {unstable}")
    facts = Table(show_header=False, box=None)
    facts.add_row("energy", f"{report['energy_eV']:.6f} eV")
    facts.add_row("zero-point energy", f"{report['zero_point_energy_eV']:.4f} eV")
    gas = report["thermochemistry"]
    if gas is not None:
        joule = gas["entropy_eV_per_K"] / TO_EV["kJ/mol"] * 1e3
        facts.add_row("enthalpy", f"{gas['enthalpy_eV']:.6f} eV")
        facts.add_row("entropy", f"{joule:.2f} J/(mol K)")
        facts.add_row("Gibbs energy", f"{gas['gibbs_energy_eV']:.6f} eV")
    console.print(facts)
    if gas is None:
        console.print(f"no thermochemistry: {report['reason']}", markup=False)
        return
    console.print(
        f"at {gas['temperature_K']:g} K and {gas['pressure_Pa']:g} Pa, symmetry number "
        f"{gas['symmetry_number']}"
    )


def check_modes_file(path: Path | None) -> None:
    """Raise unless modes can be written to ``path``.

    Raises:
        ValueError: Another ending than .xyz or .extxyz, whose formats hold no modes.
    """
    if path is not None and path.suffix not in (".xyz", ".extxyz"):
        raise ValueError(f"{path}: modes are written as .xyz or .extxyz")


def mode_frames(found: Vibrations) -> list[Atoms]:
    """The geometry once per mode, with its displacements as the array ``mode``.

    In an xyz file they are the three columns after the positions, which viewers show
    as arrows or as a motion.
    """
    frames = []
    for index, frequency in enumerate(found.frequencies):
        frame = found.geometries[0].copy()
        frame.set_constraint()
        frame.set_array("mode", found.modes[index])
        frame.info["mode_index"] = index + 1
        frame.info["wavenumber_per_cm"] = float(abs(frequency))
        frame.info["imaginary"] = bool(found.imaginary[index])
        if found.intensities is not None:
            frame.info["intensity_km_per_mol"] = float(found.intensities[index])
        frames.append(frame)
    return frames
