"""What relaxing many molecules together saves: adiabatic ionization energies.

    python benchmarks/relaxation.py

The same molecules in a list and one after another, in one process, everything compiled
before: two relaxations each, of the molecule and of its lowest cation. Seconds are
those of the processor, which other work on the machine does not change.
"""

import argparse
import json
import os
import platform
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.collections import g2

from physnet_ase import PhysNetCalculator, ionization_energy, load_potential
from physnet_ase.observables.relaxation import Relaxation

LARGEST = 14
"""Atoms, at most."""
LEFT_OUT = ("CH4",)
"""Its cation is a Jahn-Teller case, of which some never converge in either way."""


def start(count: int, calculator: PhysNetCalculator, size: float) -> list[Atoms]:
    """Molecules of ASE's G2 set that the model knows, again and again, shaken anew."""
    rng = np.random.default_rng(0)
    elements = set(calculator.potential.elements)
    kinds = [molecule(name) for name in g2.names if name not in LEFT_OUT]
    kinds = [
        atoms
        for atoms in kinds
        if 3 <= len(atoms) <= LARGEST
        and set(atoms.numbers) <= elements
        and not atoms.get_initial_magnetic_moments().any()
    ]
    known = calculator.potential.familiarity(kinds)
    kinds = [atoms for atoms, one in zip(kinds, known, strict=True) if one.score <= 1.0]
    found = [kinds[index % len(kinds)].copy() for index in range(count)]
    for atoms in found:
        atoms.positions += rng.normal(scale=size, size=atoms.positions.shape)
    return found


def measured(function: Any) -> tuple[float, float, Any]:
    """Processor and wall time of a call, and what it returns."""
    processor, wall = time.process_time(), time.perf_counter()
    result = function()
    return time.process_time() - processor, time.perf_counter() - wall, result


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="states-dft-small", help="path or name")
    parser.add_argument("--molecules", type=int, default=100)
    parser.add_argument("--shaken", type=float, default=0.05, help="Å")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    calculator = PhysNetCalculator(load_potential(options.model))
    molecules = start(options.molecules, calculator, options.shaken)
    relaxation = Relaxation(fmax=0.02, steps=300)

    def each(some: list[Atoms]) -> list[float]:
        return [
            ionization_energy(one, calculator, "adiabatic", relaxation=relaxation).value
            for one in some
        ]

    def together(some: list[Atoms]) -> list[float]:
        found = ionization_energy(some, calculator, "adiabatic", relaxation=relaxation)
        return [one.value for one in found]

    sizes = {len(one): one for one in molecules}
    first = measured(lambda: together(molecules))
    each(list(sizes.values()))  # compiles
    batched = measured(lambda: together(molecules))
    print(f"together: {batched[0]:.2f} s of the processor", flush=True)
    single = measured(lambda: each(molecules))
    apart = np.abs(np.array(batched[2]) - np.array(single[2]))
    report = {
        "command": "python " + " ".join(["benchmarks/relaxation.py", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "load_at_end": os.getloadavg()[0],
        "model": options.model,
        "molecules": f"{options.molecules}, 3 to {max(map(len, molecules))} atoms",
        "first_call_s": first[1],
        "together_processor_s": batched[0],
        "together_s": batched[1],
        "one_by_one_processor_s": single[0],
        "one_by_one_s": single[1],
        "times_faster_processor": single[0] / batched[0],
        "times_faster": single[1] / batched[1],
        "same_within_1_meV": f"{int((apart < 1e-3).sum())} of {len(apart)}",
    }
    for name, value in report.items():
        print(f"{name:<28} {value if isinstance(value, str) else f'{value:.4g}'}")
    content = json.dumps(report, indent=2) + "\n"
    Path(__file__).with_suffix(".json").write_text(content)


if __name__ == "__main__":
    main()
