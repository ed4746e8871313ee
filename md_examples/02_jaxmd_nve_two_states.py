"""Constant-energy dynamics of a molecule and its cation; the energy in jax-md.

    python md_examples/02_jaxmd_nve_two_states.py --out nve-example

Both runs start from the same geometry and the same velocities. Prints the drift of the
total energy (slope of a straight line through it, meV/atom/ps) and draws the energies
along the trajectories. The last part, for readers who write their own loops, shows the
energy function and the neighbour list in jax-md.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from ase.build import molecule
from jax_md import space

from physnet_ase import load_potential, simulate
from physnet_ase.jaxmd import physnet_neighbor_list

STATES = {"neutral": (0, 1), "cation": (1, 2)}  # charge in e, multiplicity 2S+1


def draw(runs, path):
    """Potential energy and total energy of each run, relative to its start."""
    figure, axes = plt.subplots(1, len(runs), figsize=(10, 4), sharey=True)
    for axis, (name, run) in zip(axes, runs.items(), strict=True):
        zero = run.total_energies[0]
        axis.plot(run.times_fs, run.potential_energies - zero, label="potential")
        axis.plot(run.times_fs, run.total_energies - zero, label="total")
        axis.set_title(f"{name}: drift {run.drift:+.3f} meV/atom/ps")
        axis.set_xlabel("time / fs")
    axes[0].set_ylabel("energy relative to the start / eV")
    axes[0].legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")


def by_hand(atoms, potential):
    """Energies of both states from one compiled function."""
    displacement_fn, _ = space.free()  # no periodic box
    neighbor_fn, energy_fn = physnet_neighbor_list(
        displacement_fn, None, potential, atoms.numbers
    )
    positions = jnp.asarray(atoms.positions, potential.dtype)
    neighbor = neighbor_fn.allocate(positions)
    compiled = jax.jit(energy_fn)
    for name, (charge, multiplicity) in STATES.items():
        energy = compiled(
            positions, neighbor, total_charge=charge, spin_multiplicity=multiplicity
        )
        # jax-md works without the constant that separates states and elements.
        constant = potential.reference_energy(atoms.numbers, (charge, multiplicity))
        print(f"{name}: {float(energy) + constant:.4f} eV at the starting geometry")


def main():
    """Run both states, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="states-dft-small", help="path or name")
    parser.add_argument("--molecule", default="CH3OH", help="a name ase.build knows")
    parser.add_argument("--out", type=Path, default=Path("nve-example"))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--timestep", type=float, default=0.25, help="fs")
    parser.add_argument("--temperature", type=float, default=300.0, help="K, at start")
    parser.add_argument("--smoke", action="store_true", help="200 steps")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    potential = load_potential(options.model)
    atoms = molecule(options.molecule)
    runs = {}
    for name, (charge, multiplicity) in STATES.items():
        runs[name] = run = simulate.run(
            atoms,
            potential,
            ensemble="nve",  # or "nvt-langevin", "nvt-nose-hoover", "npt"
            charge=charge,
            multiplicity=multiplicity,
            temperature_K=options.temperature,
            timestep_fs=options.timestep,
            steps=200 if options.smoke else options.steps,
            seed=0,  # the same velocities for both states
            trajectory=options.out / f"{name}.extxyz",
            checkpoint=options.out / f"{name}.npz",  # resume=True continues from it
        )
        print(
            f"{name}: {run.times_fs[-1]:.0f} fs in {run.seconds:.1f} s, "
            f"mean temperature {run.temperatures_K.mean():.0f} K, "
            f"drift {run.drift:+.3f} meV/atom/ps"
        )
    draw(runs, options.out / "energies.png")
    by_hand(atoms, potential)
    print(f"wrote trajectories and energies.png to {options.out}")


if __name__ == "__main__":
    main()
