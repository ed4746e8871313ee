"""Infrared spectrum of formaldehyde, and what taking an electron away does to it.

    python md_examples/08_ir_spectrum.py --out spectrum-example

Relaxes the neutral and the cation, prints wavenumbers, intensities, zero-point energy
and Gibbs energy, and draws both spectra over the measured fundamentals of the neutral
(Shimanouchi, Tables of Molecular Vibrational Frequencies I, NSRDS-NBS 39, 1972).
Harmonic wavenumbers lie some per cent above measured ones.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from ase.build import molecule

from physnet_ase import PhysNetCalculator, vibrations
from physnet_ase.observables import Relaxation, thermochemistry_of
from physnet_ase.observables.ir_spectrum import broadened

STATES = {"neutral": (0, 1), "cation": (1, 2)}  # (charge in e, multiplicity 2S+1)
MEASURED = (1167, 1249, 1500, 1746, 2783, 2843)  # cm⁻¹, the neutral in the gas phase


def main():
    """Both spectra, printed and drawn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="states-dft-small", help="path or name")
    parser.add_argument("--out", type=Path, default=Path("spectrum-example"))
    parser.add_argument("--smoke", action="store_true", help="a coarse plot")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    calculator = PhysNetCalculator(options.model)
    grid = np.linspace(500, 3500, 500 if options.smoke else 6000)
    figure, axes = plt.subplots(2, 1, figsize=(8, 6), sharex=True)
    for axis, (name, state) in zip(axes, STATES.items(), strict=True):
        # Frequencies belong to a minimum: tight forces before the second derivatives.
        found = vibrations(molecule("H2CO"), calculator, state, Relaxation(fmax=1e-3))
        found.check_minimum()  # an imaginary mode would be an error here
        gas = thermochemistry_of(found, temperature=298.15, symmetry_number=2)
        print(f"{name}: zero-point energy {found.value:.4f} eV, ", end="")
        print(f"Gibbs energy {gas.gibbs_energy:.4f} eV at 298 K and 1 bar")
        for wavenumber, intensity in zip(
            found.frequencies.real, found.intensities, strict=True
        ):
            print(f"  {wavenumber:7.1f} cm⁻¹ {intensity:8.1f} km/mol")
        axis.plot(grid, broadened(grid, found))
        axis.set_title(f"H2CO, {name}")
        axis.set_ylabel("intensity / km/mol")
    for wavenumber in MEASURED:
        axes[0].axvline(wavenumber, color="grey", linewidth=0.8, linestyle="--")
    axes[0].plot([], [], "--", color="grey", label="measured")
    axes[0].legend()
    axes[1].set_xlabel("wavenumber / cm⁻¹")
    axes[1].invert_xaxis()  # as spectra are read
    figure.tight_layout()
    figure.savefig(options.out / "spectrum.png", dpi=150)
    print(f"wrote {options.out}/spectrum.png")


if __name__ == "__main__":
    main()
