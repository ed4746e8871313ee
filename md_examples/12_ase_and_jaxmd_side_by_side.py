"""One trajectory twice: ASE's velocity Verlet, and ``simulate.run`` in jax-md.

    python md_examples/12_ase_and_jaxmd_side_by_side.py --out side-by-side

The same start, velocities, time step and integrator. Both follow each other until
rounding has grown to a visible distance, as it does in any chaotic motion; energies
are conserved in both. Prints how far they are apart and what a step costs, without the
compilation, and draws a bond and the total energy of both.
"""

import argparse
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from ase import units
from ase.build import molecule
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet

from physnet_ase import PhysNetCalculator, load_potential, simulate
from physnet_ase.simulate import analysis

BOND = (0, 1)


def with_ase(start, potential, steps, timestep):
    """Positions and total energies of every step, and seconds per step."""
    atoms = start.copy()
    atoms.calc = PhysNetCalculator(potential)
    atoms.get_forces()  # compiles
    positions, energies = [], []

    def note():
        positions.append(atoms.positions.copy())
        energies.append(atoms.get_total_energy())

    dynamics = VelocityVerlet(atoms, timestep * units.fs)
    dynamics.attach(note)
    began = time.perf_counter()
    dynamics.run(steps)
    return positions, energies, (time.perf_counter() - began) / steps


def with_jaxmd(start, potential, steps, timestep, path):
    """The same from one compiled program."""
    options = {"ensemble": "nve", "timestep_fs": timestep, "save_every": 1}
    simulate.run(start, potential, steps=1, **options)  # compiles
    began = time.perf_counter()
    run = simulate.run(start, potential, steps=steps, trajectory=path, **options)
    seconds = (time.perf_counter() - began) / steps
    frames = analysis.read_frames(path)
    return [atoms.positions for atoms in frames], run.total_energies, seconds


def main():
    """Run both, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a short run")
    parser.add_argument("--model", default="states-dft-small")
    parser.add_argument("--out", type=Path, default=Path("side-by-side"))
    parser.add_argument("--charge", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    steps, timestep = (200 if options.smoke else 2000), 0.5
    start = molecule("H2CO")
    start.info["charge"] = options.charge
    thermalize_momenta(start, 300.0, rng=np.random.default_rng(1))
    Stationary(start)
    potential = load_potential(options.model)
    runs = {"ASE": with_ase(start, potential, steps, timestep)}
    path = options.out / "jaxmd.traj"
    runs["jax-md"] = with_jaxmd(start, potential, steps, timestep, path)

    apart = np.array(runs["ASE"][0]) - np.array(runs["jax-md"][0])
    apart = np.linalg.norm(apart, axis=2).max(axis=1)
    fs = timestep * np.arange(steps + 1)
    figure, axes = plt.subplots(3, 1, figsize=(8, 8), sharex=True)
    for (name, (positions, energies, seconds)), style in zip(
        runs.items(), ("-", "--"), strict=True
    ):
        places = np.array(positions)
        bond = np.linalg.norm(places[:, BOND[0]] - places[:, BOND[1]], axis=1)
        axes[0].plot(fs, bond, style, label=name)
        axes[1].plot(fs, 1000.0 * (np.array(energies) - energies[0]), style)
        print(f"{name:<7} {1000.0 * seconds:.2f} ms per step, frames included")
    axes[0].set_ylabel("C–O / Å")
    axes[0].legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    axes[1].set_ylabel("total energy\nless the first / meV")
    axes[2].semilogy(fs[1:], np.maximum(apart[1:], 1e-9))
    axes[2].set(xlabel="time / fs", ylabel="largest distance / Å")
    figure.savefig(options.out / "side_by_side.png", dpi=150, bbox_inches="tight")
    print(f"after {fs[-1]:g} fs no atom is further than {apart[-1]:.6f} Å apart")


if __name__ == "__main__":
    main()
