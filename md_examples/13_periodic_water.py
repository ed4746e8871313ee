"""Liquid water in a periodic cell: structure, diffusion, and the charges' long reach.

    python md_examples/13_periodic_water.py --model runs/water/model --out water

The model is the one of ``training/recipes/water.toml``; the shipped ones were trained
on single molecules and warn that a liquid is unfamiliar. Water starts on a lattice at
its density, every molecule turned at random; the box is heated by CSVR, and the later
half of the trajectory gives the pair distribution g(OO) and the diffusion. Coulomb
energies of all periodic images come from Ewald's sum on a mesh.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms, units
from ase.build import molecule

from physnet_ase import simulate
from physnet_ase.simulate import analysis

DENSITY = 0.997  # g/cm³ at 25 °C


def box_of_water(per_side, rng):
    """``per_side``³ molecules on a cubic lattice, turned at random."""
    water = molecule("H2O")
    volume = water.get_masses().sum() / (DENSITY * units._Nav / 1e24)
    spacing = volume ** (1 / 3)
    box = Atoms(cell=per_side * spacing * np.eye(3), pbc=True)
    for place in np.ndindex(per_side, per_side, per_side):
        turned = water.copy()
        turned.rotate(rng.uniform(0, 360), rng.normal(size=3), center="COM")
        turned.rotate(rng.uniform(0, 360), rng.normal(size=3), center="COM")
        turned.positions += (np.array(place) + 0.5) * spacing - turned.positions[0]
        box += turned
    return box


def main():
    """Run, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="8 molecules, 20 fs")
    parser.add_argument("--model", default="states-dft-small")
    parser.add_argument("--out", type=Path, default=Path("water"))
    parser.add_argument("--ps", type=float, default=5.0, help="length")
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    timestep = 0.5
    length = 0.02 if options.smoke else options.ps
    start = box_of_water(2 if options.smoke else 4, np.random.default_rng(1))
    path = options.out / "water.extxyz"
    run = simulate.run(
        start,
        options.model,
        charge=0,
        multiplicity=1,
        ensemble="nvt-csvr",
        temperature_K=options.temperature,
        timestep_fs=timestep,
        steps=round(1000.0 * length / timestep),
        save_every=4 if options.smoke else 20,
        trajectory=path,
    )
    frames = analysis.read_frames(path)
    later = frames[len(frames) // 2 :]
    longest = min(8.0, float(start.cell.lengths().min()))
    oxygens = analysis.radial_distribution(later, "O", longest=longest)
    moved = analysis.mean_squared_displacement(later, "O")
    half = run.temperatures_K[len(run.temperatures_K) // 2 :]
    print(f"{len(start)} atoms in a cube of {start.cell.lengths()[0]:.2f} Å")
    print(f"temperature of the later half {half.mean():.0f} K")
    peak = oxygens.x[np.argmax(oxygens.values)]
    print(f"first peak of g(OO) at {peak:.2f} Å (measured: 2.80)")
    print(f"diffusion {moved.coefficient:.2f} 1e-5 cm²/s (measured: 2.30)")

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    axes[0].plot(oxygens.x, oxygens.values)
    axes[0].set(xlabel="r / Å", ylabel="g(OO)")
    axes[1].plot(moved.x, moved.values)
    axes[1].set(xlabel="time / ps", ylabel="mean squared displacement / Å²")
    figure.savefig(options.out / "water.png", dpi=150)


if __name__ == "__main__":
    main()
