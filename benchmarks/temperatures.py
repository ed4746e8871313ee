"""Whether baths keep their temperature, and energies their value.

    python benchmarks/temperatures.py

Replicas of one molecule: the mean temperature of each bath over the later four fifths
of the run with its standard error over the replicas; the drift of the conserved energy
in NVE in both precisions. Lengths are options, and stand in what is written.
"""

import argparse
import json
import os
import platform
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase.build import molecule

from physnet_ase import load_potential, simulate

BATHS = ("nvt-langevin", "nvt-nose-hoover", "nvt-csvr")


def temperature(found: list[Any]) -> tuple[float, float]:
    """Mean and its standard error, K."""
    means = [one.temperatures_K[len(one.times_fs) // 5 :].mean() for one in found]
    return float(np.mean(means)), float(np.std(means, ddof=1) / np.sqrt(len(means)))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="states-dft-small", help="path or name")
    parser.add_argument("--molecule", default="H2CO", help="that ASE knows")
    parser.add_argument("--replicas", type=int, default=16)
    parser.add_argument("--ps", type=float, default=100.0, help="of all replicas")
    parser.add_argument("--nve-ps", type=float, default=10.0, help="of one")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    potential, atoms = load_potential(options.model), molecule(options.molecule)
    timestep = 0.5
    steps = max(int(1000.0 * options.ps / options.replicas / timestep), 10)
    report: dict[str, Any] = {
        "command": "python " + " ".join(["benchmarks/temperatures.py", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "model": options.model,
        "molecule": options.molecule,
        "replicas": options.replicas,
        "ps_of_each": steps * timestep / 1000.0,
    }
    for bath in BATHS:
        found = simulate.run(
            atoms,
            potential,
            ensemble=bath,
            replicas=options.replicas,
            timestep_fs=timestep,
            steps=steps,
            save_every=5,
        )
        mean, error = temperature(found)
        report[bath] = f"{mean:.1f} ± {error:.1f} K at 300 K"
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
    content = json.dumps(report, indent=2) + "\n"
    Path(__file__).with_suffix(".json").write_text(content)


if __name__ == "__main__":
    main()
