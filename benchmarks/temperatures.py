"""Whether baths keep their temperature, and energies their value.

    python benchmarks/temperatures.py

Replicas of one molecule: the mean temperature of each bath over the later four fifths
of the run with its standard error over the replicas; how far the kinetic energy
of an atom is at most from its share, which equipartition gives it, and the standard
error of that; the drift of the conserved energy in NVE in both precisions. Lengths are
options, and stand in what is written. With ``--ps 0`` the drift alone.
"""

import argparse
import json
import os
import platform
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read

from physnet_ase import load_potential, simulate
from physnet_ase.commands.structure_files import read_structure
from physnet_ase.normal_modes import molecular_shape, rigid_motions
from physnet_ase.velocities import degrees_of_freedom

BATHS = ("nvt-langevin", "nvt-nose-hoover", "nvt-csvr")


def temperature(found: list[Any]) -> tuple[float, float]:
    """Mean and its standard error, K."""
    means = [one.temperatures_K[len(one.times_fs) // 5 :].mean() for one in found]
    return float(np.mean(means)), float(np.std(means, ddof=1) / np.sqrt(len(means)))


def shares(paths: list[Path], bath: str) -> tuple[float, float]:
    """Largest deviation of an atom's kinetic energy from its share, and its error.

    Both relative. Where a bath leaves the molecule without motion as a whole, an atom's
    share is not 3/2 kT: it is kT/2 times the trace of its block of the projector on the
    other motions, mass-weighted.
    """
    found = []
    for path in paths:
        start, *frames = read(path, ":")
        # Rounding lets a molecule at rest turn a little later.
        rigid = 3 * len(start) - degrees_of_freedom(start, bath, start.get_momenta())
        frames = frames[len(frames) // 5 :]
        momenta = np.array([atoms.get_momenta() for atoms in frames])
        kinetic = (momenta**2).sum(axis=2) / (2.0 * frames[0].get_masses())
        degrees = np.mean([moving_degrees(atoms, rigid) for atoms in frames], axis=0)
        ratio = kinetic.mean(axis=0) / degrees
        found.append(ratio / (kinetic.sum(axis=1).mean() / degrees.sum()))
    mean = np.mean(found, axis=0)
    error = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
    return float(np.abs(mean - 1.0).max()), float(error.max())


def moving_degrees(atoms: Atoms, count: int) -> np.ndarray:
    """Degrees of freedom of each atom without ``count`` rigid motions at rest."""
    if not count:
        return np.full(len(atoms), 3.0)
    rigid = rigid_motions(atoms, molecular_shape(atoms))[:count]  # translations first
    basis, sizes, _ = np.linalg.svd(
        rigid.reshape(len(rigid), -1).T, full_matrices=False
    )
    basis = basis[:, sizes > 1e-6 * sizes[0]]
    taken = (basis**2).sum(axis=1).reshape(-1, 3).sum(axis=1)
    return 3.0 - taken


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="states-dft-small", help="path or name")
    parser.add_argument("--molecule", default="H2CO", help="name, file, smiles:…")
    parser.add_argument("--replicas", type=int, default=16)
    parser.add_argument("--ps", type=float, default=100.0, help="of all replicas")
    parser.add_argument("--nve-ps", type=float, default=10.0, help="of one")
    parser.add_argument("--timestep-fs", type=float, default=0.5)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    potential = load_potential(options.model)
    atoms, timestep = read_structure(options.molecule, None, None), options.timestep_fs
    steps = max(int(1000.0 * options.ps / options.replicas / timestep), 10)
    report: dict[str, Any] = {
        "command": "python " + " ".join(["benchmarks/temperatures.py", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "model": options.model,
        "molecule": f"{options.molecule}, {len(atoms)} atoms",
        "timestep_fs": timestep,
    }
    if options.ps:
        report["replicas"] = options.replicas
        report["ps_of_each"] = steps * timestep / 1000.0
    for bath in BATHS if options.ps else ():
        with TemporaryDirectory() as folder:
            found = simulate.run(
                atoms,
                potential,
                ensemble=bath,
                replicas=options.replicas,
                timestep_fs=timestep,
                steps=steps,
                save_every=10,
                trajectory=Path(folder) / "replica.traj",
            )
            apart, noise = shares(sorted(Path(folder).glob("*.traj")), bath)
        mean, error = temperature(found)
        report[bath] = (
            f"{mean:.1f} ± {error:.1f} K at 300 K; of an atom at most {apart:.1%} "
            f"(± {noise:.1%}) from its share"
        )
    for dtype in ("float32", "float64"):
        run = simulate.run(
            atoms,
            potential.astype(dtype),
            timestep_fs=timestep,
            steps=max(int(1000.0 * options.nve_ps / timestep), 10),
            save_every=20,
        )
        name = f"drift_{dtype}_meV_per_atom_ps"
        report[name] = f"{run.drift:+.2g} over {options.nve_ps:g} ps"
    for key, value in report.items():
        print(f"{key:<32} {value}")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
