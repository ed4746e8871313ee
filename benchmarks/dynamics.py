"""What dynamics costs: a second start, one molecule, many replicas.

    python benchmarks/dynamics.py

Ratios of one run on one machine, written next to this script with the command: how long
a second ``simulate.run`` of the same shape takes to begin, in this process and in a new
one; steps per second against ASE's VelocityVerlet with our own calculator; atom-steps
per second of many replicas against one.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ase import units
from ase.build import molecule
from ase.md.verlet import VelocityVerlet

from physnet_ase import PhysNetCalculator, load_potential, simulate

MOLECULE = "isobutane"
"""14 atoms."""
SECOND_START = """
import sys, time
began = time.perf_counter()
from ase.build import molecule
from physnet_ase import simulate
imported = time.perf_counter()
simulate.run(molecule(sys.argv[2]), sys.argv[1], steps=1, block_steps=1)
print(imported - began, time.perf_counter() - imported)
"""


def seconds(function: Any) -> float:
    """Wall time of a call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def speed(run: Any, few: int, many: int) -> float:
    """Steps per second, without what every run costs."""
    run(few)  # compiles
    best = min(seconds(lambda: run(many)) - seconds(lambda: run(few)) for _ in range(3))
    return (many - few) / best


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="states-dft-small", help="path or name")
    parser.add_argument("--replicas", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2000, help="of one molecule")
    options = parser.parse_args()
    potential, atoms = load_potential(options.model), molecule(MOLECULE)

    def start(temperature: float = 300.0) -> None:
        simulate.run(
            atoms, potential, temperature_K=temperature, steps=1, block_steps=1
        )

    first = seconds(start)
    second = seconds(lambda: start(310.0))
    command = [sys.executable, "-c", SECOND_START, options.model, MOLECULE]
    subprocess.run(command, check=True, capture_output=True)
    printed = subprocess.run(command, check=True, capture_output=True, text=True)
    imports, process = map(float, printed.stdout.split())

    def ours(steps: int, count: int | None = None) -> None:
        simulate.run(
            atoms, potential, steps=steps, save_every=100, replicas=count, seed=1
        )

    def ase(steps: int) -> None:
        moving = atoms.copy()
        moving.calc = calculator
        VelocityVerlet(moving, 0.5 * units.fs).run(steps)

    calculator = PhysNetCalculator(potential)
    one = speed(ours, 100, options.steps)
    reference = speed(ase, 50, options.steps // 4)
    fewer = max(options.steps // options.replicas, 20)
    many = speed(lambda steps: ours(steps, options.replicas), 10, 10 + fewer)
    report = {
        "command": "python " + " ".join(["benchmarks/dynamics.py", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "load_at_end": os.getloadavg()[0],
        "molecule": f"{MOLECULE}, {len(atoms)} atoms",
        "model": options.model,
        "first_start_s": first,
        "second_start_s": second,
        "second_start_new_process_s": process,
        "imports_new_process_s": imports,
        "steps_per_second": one,
        "ase_steps_per_second": reference,
        "times_ase": one / reference,
        "replicas": options.replicas,
        "replica_steps_per_second": many * options.replicas,
        "times_one_replica": many * options.replicas / one,
    }
    for name, value in report.items():
        print(f"{name:<28} {value if isinstance(value, str) else f'{value:.4g}'}")
    content = json.dumps(report, indent=2) + "\n"
    Path(__file__).with_suffix(".json").write_text(content)


if __name__ == "__main__":
    main()
