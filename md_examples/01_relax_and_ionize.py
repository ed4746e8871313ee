"""Relax a molecule in ASE, neutral and as cation, and take an electron away from it.

    python md_examples/01_relax_and_ionize.py --molecule CH3OH --out relax-example

Prints the vertical and the adiabatic ionization energy (eV) and the bonds that change,
and draws the energies of both states along both relaxations.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
from ase.build import molecule
from ase.io import write
from ase.optimize import BFGS

from physnet_ase import PhysNetCalculator, ionization_energy, load_potential


def relax(atoms, potential, charge, multiplicity, steps):
    """Relax a copy in one electronic state; return it and the energy of each step."""
    atoms = atoms.copy()
    # The calculator reads the state from here, and notices when it changes.
    atoms.info["charge"] = charge
    atoms.info["spin_multiplicity"] = multiplicity  # 2S+1
    # A calculator keeps the results of one structure only: each gets its own, so that
    # both can be written to a file later. They share the compiled model.
    atoms.calc = PhysNetCalculator(potential)
    energies = []
    optimizer = BFGS(atoms, logfile=None)
    optimizer.attach(lambda: energies.append(atoms.get_potential_energy()))
    if not optimizer.run(fmax=0.02, steps=steps):
        print(f"  not below 0.02 eV/Å after {steps} steps")
    return atoms, energies


def print_bonds(neutral, cation):
    """Bonds of the neutral that lengthen or shorten by more than 0.01 Å."""
    before, after = neutral.get_all_distances(), cation.get_all_distances()
    for i in range(len(neutral)):
        for j in range(i):
            change = after[i, j] - before[i, j]
            if before[i, j] < 1.7 and abs(change) > 0.01:
                name = f"{neutral.symbols[j]}{j}-{neutral.symbols[i]}{i}"
                print(f"  {name:8s} {before[i, j]:.3f} Å, in the cation {change:+.3f}")


def main():
    """Relax both states, ionize, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="states-dft-small", help="path or name")
    parser.add_argument("--molecule", default="CH3OH", help="a name ase.build knows")
    parser.add_argument("--out", type=Path, default=Path("relax-example"))
    parser.add_argument("--smoke", action="store_true", help="at most five steps")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    steps = 5 if options.smoke else 300

    potential = load_potential(options.model)
    start = molecule(options.molecule)
    # A closed shell loses an electron and becomes a doublet.
    neutral, neutral_track = relax(start, potential, 0, 1, steps)
    cation, cation_track = relax(neutral, potential, 1, 2, steps)
    write(options.out / "relaxed.extxyz", [neutral, cation])

    # Vertical: both states at the neutral's geometry, in one batch.
    vertical = ionization_energy(neutral, neutral.calc, kind="vertical")
    # Adiabatic: each state at its own minimum. ionization_energy(kind="adiabatic") does
    # these two relaxations itself; here they are already there.
    adiabatic = cation.get_potential_energy() - neutral.get_potential_energy()
    print(f"{options.molecule}: neutral {neutral.get_potential_energy():.4f} eV")
    print(f"vertical ionization energy  {vertical.value:.3f} eV")
    print(f"adiabatic ionization energy {adiabatic:.3f} eV")
    print_bonds(neutral, cation)

    lowest = neutral_track[-1]
    plt.plot([e - lowest for e in neutral_track], "o-", label="neutral")
    plt.plot([e - lowest for e in cation_track], "s-", label="cation")
    plt.xlabel("relaxation step")
    plt.ylabel("energy above the neutral minimum / eV")
    plt.title(f"{options.molecule}: relaxation of both states")
    plt.legend()
    plt.savefig(options.out / "relaxation.png", dpi=150, bbox_inches="tight")
    print(f"wrote {options.out}/relaxed.extxyz and {options.out}/relaxation.png")


if __name__ == "__main__":
    main()
