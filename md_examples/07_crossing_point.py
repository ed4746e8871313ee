"""Where singlet and triplet methylene meet: the minimum energy crossing point.

    python md_examples/07_crossing_point.py --out crossing-example

At the lowest point of the seam both states have the same energy; there spin–orbit
coupling lets a molecule change its spin. The script finds it, checks it by hand
(energies equal, no force left along the seam) and draws both states through it.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms
from ase.io import write

from physnet_ase import PhysNetCalculator, minimum_energy_crossing_point

SINGLET, TRIPLET = (0, 1), (0, 3)


def main():
    """Find the crossing, check it, draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="states-dft-small", help="path or name")
    parser.add_argument("--out", type=Path, default=Path("crossing-example"))
    parser.add_argument("--smoke", action="store_true", help="a coarse plot")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    calculator = PhysNetCalculator(options.model)
    start = Atoms("CH2", [[0, 0, 0], [0.85, 0.65, 0], [-0.85, 0.65, 0]])
    found = minimum_energy_crossing_point(start, calculator, SINGLET, TRIPLET)
    point = found.geometries[0]
    print(f"crossing at {found.value:.4f} eV after {found.num_steps} steps:")
    print(f"  {point.get_distance(0, 1):.3f} Å, {point.get_angle(1, 0, 2):.1f}°")
    print(f"  energies differ by {1e3 * found.gap:+.3f} meV")

    # By hand: the forces of both states, and what is left of their mean once the
    # direction that changes the gap is taken out.
    both = calculator.potential.evaluate(point, [SINGLET, TRIPLET])
    difference = (both[1].forces - both[0].forces).ravel()
    direction = difference / np.linalg.norm(difference)
    mean = 0.5 * (both[0].forces + both[1].forces).ravel()
    left = mean - (mean @ direction) * direction
    print(f"  force left along the seam: {np.abs(left).max():.4f} eV/Å")
    write(options.out / "crossing.xyz", point)

    # Along the direction in which the gap changes fastest, in Å.
    path = np.linspace(-0.2, 0.2, 9 if options.smoke else 81)
    frames = []
    for step in path:
        frame = point.copy()
        frame.positions += step * direction.reshape(-1, 3)
        frames.append(frame)
    rows = calculator.potential.evaluate(frames, [SINGLET, TRIPLET], ("energy",))
    energies = np.array([[result.energy for result in row] for row in rows])
    for index, name in enumerate(("singlet", "triplet")):
        plt.plot(path, energies[:, index] - found.value, label=name)
    plt.axvline(0, color="grey", linewidth=0.8)
    plt.xlabel("displacement along the gap's gradient / Å")
    plt.ylabel("energy above the crossing / eV")
    plt.title("CH2: singlet and triplet through their crossing point")
    plt.legend()
    plt.savefig(options.out / "crossing.png", dpi=150, bbox_inches="tight")
    print(f"wrote {options.out}/crossing.xyz and crossing.png")


if __name__ == "__main__":
    main()
