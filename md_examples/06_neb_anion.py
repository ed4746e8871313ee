"""Minimum energy path of a charged reaction: the formaldehyde anion turns inside out.

    python md_examples/06_neb_anion.py --out neb-example

Formaldehyde is planar; with an electron more it is a pyramid that inverts through the
plane. The script relaxes the anion, mirrors it, and finds the path between the two with
ASE's nudged elastic band; every image carries charge −1 and multiplicity 2. The
pretrained model's barrier is 43 meV; wB97X/def2-SVPD, the level it was trained on,
gives 29 meV at the same two geometries, none of which it has seen.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from ase.build import molecule
from ase.io import write
from ase.mep import NEB
from ase.optimize import BFGS, FIRE

from physnet_ase import PhysNetCalculator, load_potential


def with_calculator(atoms, potential):
    """Attach a calculator of its own: images then keep their results side by side.

    They share the compiled model, so that this costs nothing.
    """
    atoms.calc = PhysNetCalculator(potential)
    return atoms


def pyramid(potential):
    """The relaxed anion, started from a bent geometry: the plane is a saddle point."""
    atoms = molecule("H2CO")
    atoms.positions[1, 0] += 0.25  # Å, the carbon out of the plane
    atoms.info["charge"], atoms.info["spin_multiplicity"] = -1, 2
    BFGS(with_calculator(atoms, potential), logfile=None).run(fmax=0.01, steps=200)
    return atoms


def mirrored(atoms):
    """The same pyramid, reflected in the plane through oxygen and the hydrogens."""
    result = atoms.copy()
    oxygen, _, first, second = atoms.positions
    normal = np.cross(first - oxygen, second - oxygen)
    normal /= np.linalg.norm(normal)
    height = (atoms.positions - oxygen) @ normal
    result.positions -= 2 * np.outer(height, normal)
    return result


def main():
    """Relax the ends, find the path, print and draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="states-dft-small", help="path or name")
    parser.add_argument("--out", type=Path, default=Path("neb-example"))
    parser.add_argument("--images", type=int, default=11)
    parser.add_argument("--smoke", action="store_true", help="five images")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    count = 5 if options.smoke else options.images

    potential = load_potential(options.model)
    start = pyramid(potential)
    end = with_calculator(mirrored(start), potential)
    between = [with_calculator(start.copy(), potential) for _ in range(count - 2)]
    images = [start, *between, end]
    band = NEB(images, k=1.0, climb=True, method="improvedtangent")
    band.interpolate()
    optimizer = FIRE(band, logfile=None)
    if not optimizer.run(fmax=0.02, steps=300):
        print("the path is not below 0.02 eV/Å after 300 steps")

    energies = np.array([image.get_potential_energy() for image in images])
    energies -= energies[0]
    top = int(np.argmax(energies))
    print(f"barrier {1e3 * energies[top]:.1f} meV at image {top} of {count}, ", end="")
    print(f"{optimizer.nsteps} steps")
    for name, image in (("minimum", start), ("top", images[top])):
        largest = image.get_angle(2, 1, 3) + sum(
            image.get_angle(0, 1, hydrogen) for hydrogen in (2, 3)
        )
        print(f"{name}: angles at carbon sum to {largest:.1f}° (360° is flat)")
    write(options.out / "path.extxyz", images)

    plt.plot(range(count), 1e3 * energies, "o-")
    plt.xlabel("image")
    plt.ylabel("energy above the minimum / meV")
    plt.title("Inversion of H2CO, charge −1, doublet")
    plt.savefig(options.out / "path.png", dpi=150, bbox_inches="tight")
    print(f"wrote {options.out}/path.extxyz and path.png")


if __name__ == "__main__":
    main()
