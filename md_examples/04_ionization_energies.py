"""Ionization energies of many molecules against the reference values of ASE's G2 set.

    python md_examples/04_ionization_energies.py --out ionization-example

Takes every molecule of ``ase.data.g2`` that has a reference value and consists of
elements the model knows, computes all vertical energies in one batch and the adiabatic
ones by relaxation, prints a table and draws a parity plot. The pretrained model has
seen molecules with up to two heavy atoms: others are marked with a star. Ethylene is
left out: ASE lists acetylene's values for it (measured: 10.51 eV).
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from ase.build import molecule
from ase.data.g2 import data as g2

from physnet_ase import PhysNetCalculator, ionization_energy

VERTICAL, ADIABATIC = "vertical ionization energy", "ionization energy"


def references(potential, count):
    """Names of the molecules that have a reference and can be evaluated."""
    names = []
    for name, entry in sorted(g2.items()):
        elements = set(molecule(name).numbers.tolist())
        known = elements <= set(potential.elements) and name != "C2H4"
        if known and (entry.get(ADIABATIC) or entry.get(VERTICAL)):
            names.append(name)
    return names[:count]


def compute(names, calculator):
    """Vertical and adiabatic energies in eV; NaN where a relaxation failed."""
    atoms = [molecule(name) for name in names]
    for structure in atoms:
        # Multiplicity 2S+1 of the neutral from the magnetic moments of the data set.
        unpaired = round(structure.get_initial_magnetic_moments().sum())
        structure.info["spin_multiplicity"] = abs(unpaired) + 1
    # A list is evaluated in few batches: every molecule, neutral and in its cations.
    vertical = [result.value for result in ionization_energy(atoms, calculator)]
    adiabatic = []
    for name, structure in zip(names, atoms, strict=True):
        try:
            result = ionization_energy(structure, calculator, kind="adiabatic")
            adiabatic.append(result.value)
        except RuntimeError as error:  # not converged is an error, never a number
            print(f"{name}: {error}")
            adiabatic.append(np.nan)
    return {VERTICAL: np.array(vertical), ADIABATIC: np.array(adiabatic)}


def draw(names, found, path):
    """Model against reference; what lies on the diagonal agrees."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 5))
    for axis, (kind, values) in zip(axes, found.items(), strict=True):
        reference = np.array([g2[name].get(kind) or np.nan for name in names])
        few = np.array([heavy_atoms(name) <= 2 for name in names])
        for chosen, marker, label in (
            (few, "o", "up to two heavy atoms"),
            (~few, "x", "more: outside of the training"),
        ):
            axis.plot(reference[chosen], values[chosen], marker, label=label)
        for name, x, y in zip(names, reference, values, strict=True):
            if np.isfinite(x + y) and abs(x - y) > 1.0:
                axis.annotate(
                    name, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7
                )
        axis.axline((12, 12), slope=1, color="grey", linewidth=0.8)
        axis.set_title(kind)
        axis.set_xlabel("reference / eV")
        axis.set_aspect("equal", adjustable="datalim")
    axes[0].set_ylabel("model / eV")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=150, bbox_inches="tight")


def heavy_atoms(name):
    """Number of atoms other than hydrogen."""
    return int((molecule(name).numbers > 1).sum())


def main():
    """Compute, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="states-dft-small", help="path or name")
    parser.add_argument("--out", type=Path, default=Path("ionization-example"))
    parser.add_argument("--smoke", action="store_true", help="three molecules only")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    calculator = PhysNetCalculator(options.model)
    names = references(calculator.potential, 3 if options.smoke else None)
    found = compute(names, calculator)

    print(f"{'molecule':14s} {'vertical':>9s} {'reference':>9s}", end="")
    print(f" {'adiabatic':>9s} {'reference':>9s}   (eV)")
    for i, name in enumerate(names):
        star = "" if heavy_atoms(name) <= 2 else "*"
        print(f"{name + star:14s}", end="")
        for kind, values in found.items():
            reference = g2[name].get(kind)
            text = f"{reference:9.2f}" if reference else f"{'–':>9s}"
            print(f" {values[i]:9.2f} {text}", end="")
        print()
    for kind, values in found.items():
        reference = np.array([g2[name].get(kind) or np.nan for name in names])
        few = np.array([heavy_atoms(name) <= 2 for name in names])
        errors = np.abs(values - reference)[few]
        errors = errors[np.isfinite(errors)]
        print(f"{kind}: mean absolute error {errors.mean():.2f} eV, median ", end="")
        print(f"{np.median(errors):.2f} eV ({len(errors)} molecules without star)")
    draw(names, found, options.out / "parity.png")
    print(f"wrote {options.out}/parity.png")


if __name__ == "__main__":
    main()
