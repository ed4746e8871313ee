"""An electron leaves in the middle of a trajectory, and later comes back.

    python md_examples/10_ionization_in_mid_run.py --out ionization-example

Runs formaldehyde as neutral, takes an electron away, lets the cation move, and gives
the electron back. The change compiles nothing; the energy it costs at that geometry is
the vertical ionization energy, and what the cation gains afterwards its relaxation.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
from ase.build import molecule
from ase.io import read

from physnet_ase import load_potential, simulate
from physnet_ase.simulate.analysis import state_gap


def main():
    """Run, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="states-dft-small", help="path or name")
    parser.add_argument("--out", type=Path, default=Path("ionization-example"))
    parser.add_argument("--smoke", action="store_true", help="40 fs instead of 1 ps")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    length = 40.0 if options.smoke else 1000.0  # fs

    potential = load_potential(options.model)
    run = simulate.run(
        molecule("H2CO"),
        potential,
        charge=0,
        multiplicity=1,
        events=[(0.25 * length, (1, 2)), (0.75 * length, (0, 1))],
        temperature_K=300.0,
        timestep_fs=0.25,
        steps=round(length / 0.25),
        save_every=4,
        trajectory=options.out / "run.extxyz",
        overwrite=True,
    )
    frames = read(run.path, ":")
    gap = state_gap(frames, potential, (0, 1), (1, 2))
    at = next(i for i, a in enumerate(frames) if a.info["charge"] == 1) - 1
    print(f"vertical ionization energy at {gap.x[at]:.3f} ps: {gap.values[at]:.3f} eV")
    print(f"drift, both changes accounted for: {run.drift:+.3f} meV/atom/ps")

    figure, (energy, difference) = plt.subplots(2, 1, sharex=True, layout="constrained")
    times = run.times_fs / 1000.0
    energy.plot(times, run.total_energies - run.total_energies[0], label="total")
    kept = run.conserved_energies - run.conserved_energies[0]
    energy.plot(times, kept, label="without the two changes")
    energy.set_ylabel("energy (eV)")
    energy.legend()
    difference.plot(gap.x, gap.values)
    difference.set(xlabel="time (ps)", ylabel="cation above neutral (eV)")
    figure.savefig(options.out / "energies.png", dpi=150)
    print(f"wrote {options.out}/run.extxyz and energies.png")


if __name__ == "__main__":
    main()
