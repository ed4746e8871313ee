"""Infrared spectrum from the dipole along trajectories.

    python md_examples/11_spectrum_from_dynamics.py --out dynamics-spectrum-example

Constant-energy trajectories of formaldehyde, averaged, over the measured fundamentals
(Shimanouchi, Tables of Molecular Vibrational Frequencies I, NSRDS-NBS 39, 1972). Lines
shift and broaden as the real potential is no parabola; ``08_ir_spectrum.py`` gives the
harmonic ones. The absorption is absolute.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from ase.build import molecule

from physnet_ase import load_potential, simulate
from physnet_ase.simulate import analysis

MEASURED = (1167, 1249, 1500, 1746, 2783, 2843)  # cm⁻¹, neutral, in the gas phase


def main():
    """Run, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="states-dft-small", help="path or name")
    parser.add_argument("--out", type=Path, default=Path("dynamics-spectrum-example"))
    parser.add_argument("--replicas", type=int, default=16)
    parser.add_argument("--smoke", action="store_true", help="2 replicas, 0.1 ps")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    potential = load_potential(options.model)
    runs = simulate.run(
        molecule("H2CO"),
        potential,
        replicas=2 if options.smoke else options.replicas,
        temperature_K=300.0,
        timestep_fs=0.5,
        steps=200 if options.smoke else 10_000,
        save_every=4,
        trajectory=options.out / "run.traj",
        overwrite=True,
    )
    curve = analysis.average(
        [analysis.infrared_spectrum(analysis.read_frames(run.path)) for run in runs]
    )
    shown = (curve.x > 500) & (curve.x < 3500)
    peak = curve.x[shown][np.argmax(curve.values[shown])]
    print(f"{len(runs)} trajectories; strongest line at {peak:.0f} cm⁻¹")
    figure, axes = plt.subplots(layout="constrained")
    axes.plot(curve.x[shown], curve.values[shown], label="dynamics")
    for wavenumber in MEASURED:
        axes.axvline(wavenumber, color="grey", linewidth=0.8, linestyle="--")
    axes.plot([], [], "--", color="grey", label="measured")
    axes.set(xlabel="wavenumber (cm⁻¹)", ylabel="absorption (km cm/mol)")
    axes.legend()
    figure.savefig(options.out / "spectrum.png", dpi=150)
    print(f"wrote {options.out}/spectrum.png")


if __name__ == "__main__":
    main()
