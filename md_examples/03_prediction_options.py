"""Ask a potential for no more than you need, and see what each choice costs.

    python md_examples/03_prediction_options.py --out options-example

Energy alone runs no backward pass; forces cost one; several states or structures in one
call share a batch. Times are medians of repeats, after a first call that compiles.
"""

import argparse
import statistics
import time
from pathlib import Path

import matplotlib.pyplot as plt
from ase.build import molecule

from physnet_ase import load_potential

STATES = [(0, 1), (1, 2)]  # (charge in e, multiplicity 2S+1)


def median_ms(function, repeats):
    """Median wall time of a call in ms; the first call compiles and is not counted."""
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def show(potential, atoms):
    """What the results look like."""
    result = potential.evaluate(atoms, properties=("energy", "forces", "features"))
    print(f"energy   {result.energy:.4f} eV")
    print(f"forces   {result.forces.shape}, up to {abs(result.forces).max():.3f} eV/Å")
    print(f"features {result.features.shape}, one vector per atom")
    # A list of states: the same structure in each of them, in one batch.
    for state in potential.evaluate(atoms, STATES, ("energy", "charges")):
        total = state.charges.sum()
        print(f"{state.state}: {state.energy:.4f} eV, charges sum to {total:+.4f} e")


def main():
    """Show the options, time them, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="states-dft-small", help="path or name")
    parser.add_argument("--molecule", default="CH3OH", help="a name ase.build knows")
    parser.add_argument("--out", type=Path, default=Path("options-example"))
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--smoke", action="store_true", help="three repeats")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    repeats = 3 if options.smoke else options.repeats

    potential = load_potential(options.model)
    atoms = molecule(options.molecule)
    show(potential, atoms)

    many = [atoms.copy() for _ in range(16)]
    for shaken, seed in zip(many, range(16), strict=True):
        shaken.rattle(0.02, seed=seed)
    choices = {
        "energy": lambda: potential.evaluate(atoms, properties=("energy",)),
        "forces": lambda: potential.evaluate(atoms, properties=("forces",)),
        "energy, forces": lambda: potential.evaluate(atoms),
        "features": lambda: potential.evaluate(atoms, properties=("features",)),
        "energy, forces\nfloat64": lambda: potential.evaluate(atoms, dtype="float64"),
        "energy, forces\ntwo states": lambda: potential.evaluate(atoms, STATES),
        "energy, forces\n16 structures": lambda: potential.evaluate(many),
    }
    times = {name: median_ms(choice, repeats) for name, choice in choices.items()}
    print(f"\nmedian of {repeats} calls, {len(atoms)} atoms:")
    for name, milliseconds in times.items():
        print(f"  {name.replace(chr(10), ', '):30s} {milliseconds:8.2f} ms")

    figure, axis = plt.subplots(figsize=(7, 4))
    axis.barh(list(times), list(times.values()))
    axis.invert_yaxis()
    axis.set_xlabel("time per call / ms")
    axis.set_title(f"{options.molecule}, {len(atoms)} atoms")
    figure.savefig(options.out / "times.png", dpi=150, bbox_inches="tight")
    print(f"wrote {options.out}/times.png")


if __name__ == "__main__":
    main()
