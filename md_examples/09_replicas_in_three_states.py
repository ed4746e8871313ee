"""Many replicas of one molecule, in three electronic states, in one program.

    python md_examples/09_replicas_in_three_states.py --out replicas-example

Runs formaldehyde as neutral, cation and triplet, a third of the replicas each, at 300 K
under stochastic velocity rescaling, and draws the distribution of the C=O bond in each
state. All replicas share one compiled program; each has its own file.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from ase.build import molecule
from ase.io import read

from physnet_ase import load_potential, simulate

STATES = {"neutral": (0, 1), "cation": (1, 2), "triplet": (0, 3)}


def main():
    """Run, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="states-dft-small", help="path or name")
    parser.add_argument("--out", type=Path, default=Path("replicas-example"))
    parser.add_argument("--replicas", type=int, default=21, help="of each state")
    parser.add_argument("--smoke", action="store_true", help="two replicas, 100 steps")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    count = 2 if options.smoke else options.replicas

    charges = [charge for charge, _ in STATES.values()]
    multiplicities = [multiplicity for _, multiplicity in STATES.values()]
    runs = simulate.run(
        molecule("H2CO"),
        load_potential(options.model),
        charge=charges,  # one entry for each state …
        multiplicity=multiplicities,
        replicas=count,  # … and each of them so many times, with seeds that count up
        ensemble="nvt-csvr",
        temperature_K=300.0,
        timestep_fs=0.5,
        steps=100 if options.smoke else 8000,
        save_every=20,
        trajectory=options.out / "run.traj",  # run-00.traj, run-01.traj, …
        overwrite=True,
    )
    figure, axes = plt.subplots(layout="constrained")
    for index, name in enumerate(STATES):
        mine = runs[index * count : (index + 1) * count]
        bonds = [a.get_distance(0, 1) for run in mine for a in read(run.path, "1:")]
        temperature = np.mean([run.temperatures_K.mean() for run in mine])
        print(
            f"{name}: {count} replicas, mean temperature {temperature:.0f} K, "
            f"C=O {np.mean(bonds):.3f} ± {np.std(bonds):.3f} Å"
        )
        axes.hist(bonds, bins=60, density=True, histtype="step", label=name)
    for index, run in enumerate(runs):
        if run.stopped:
            print(f"replica {index} stopped: {run.stopped}")
    axes.set(xlabel="C=O bond (Å)", ylabel="1/Å")
    axes.legend()
    figure.savefig(options.out / "bonds.png", dpi=150)
    seconds, steps = runs[0].seconds, len(runs) * runs[0].times_fs[-1] / 0.5
    print(f"{steps:.0f} steps of single molecules in {seconds:.1f} s")


if __name__ == "__main__":
    main()
