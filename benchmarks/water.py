"""Liquid water: structure against the reference frames, and what size costs.

    physnet-train train training/recipes/water.toml --out runs/water --data FRAMES
    python benchmarks/water.py runs/water/model FRAMES --ps 20
    python benchmarks/water.py runs/water/model FRAMES --sizes
    python benchmarks/water.py runs/water/model FRAMES --mesh

FRAMES are the 400 frames of 64 molecules at PBE0+TS that the recipe trains on. The
first call runs dynamics at 300 K from the first frame and compares the pair
distributions of the later four fifths with those of the frames, in a picture and as the
mean difference of g(r); the second one measures seconds per step and memory of cells of
192 atoms and more, and fits the power with which the time grows; the third compares
forces and stress with those of a mesh three times as fine, which is exact to 1e-9 eV/Å.
"""

import argparse
import json
import os
import platform
import resource
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ase.io
import jax
import numpy as np
from ase import Atoms
from matplotlib.figure import Figure

from physnet_ase import load_potential, reciprocal, simulate
from physnet_ase.simulate.analysis import Curve, radial_distribution
from physnet_ase.state import ElectronicState

KINDS = ("OO", "OH", "HH")
COPIES = ((1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2), (4, 2, 2), (4, 4, 2), (6, 6, 3))
WINDOW = (2.0, 6.0)  # Å, between molecules
STEPS = 10
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "water.png"


def distributions(frames: list[Atoms]) -> dict[str, Curve]:
    """g(r) of each pair of elements."""
    return {kind: radial_distribution(frames, *kind) for kind in KINDS}


def first_peak(curve: Curve) -> tuple[float, float]:
    """Place (Å) and height of the first peak between molecules."""
    inside = (curve.x > WINDOW[0]) & (curve.x < WINDOW[1])
    top = int(np.argmax(curve.values[inside]))
    return float(curve.x[inside][top]), float(curve.values[inside][top])


def structure(model: str, frames: list[Atoms], options: Any) -> dict[str, Any]:
    """Dynamics, pair distributions, their picture."""
    timestep = 0.5
    run = simulate.run(
        frames[0],
        model,
        ensemble="nvt-csvr",
        temperature_K=options.temperature,
        timestep_fs=timestep,
        steps=int(1000.0 * options.ps / timestep),
        save_every=40,
        trajectory=options.trajectory,
        charge=0,
        multiplicity=1,
    )
    moved = ase.io.read(options.trajectory, ":")
    ours = distributions(moved[len(moved) // 5 :])
    theirs = distributions(frames)
    report: dict[str, Any] = {
        "ps": options.ps,
        "temperature_K": round(float(run.temperatures_K[-len(moved) // 2 :].mean()), 1),
        "drift_mev_per_atom_ps": round(float(run.drift), 4),
    }
    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 3), KINDS, strict=True):
        one, other = ours[kind], theirs[kind]
        inside = (one.x > WINDOW[0]) & (one.x < WINDOW[1])
        apart = np.abs(one.values - other.values)[inside].mean()
        report[f"g_{kind}"] = {
            "mean_difference": round(float(apart), 3),
            "first_peak": [round(x, 3) for x in first_peak(one)],
            "first_peak_reference": [round(x, 3) for x in first_peak(other)],
        }
        axes.plot(other.x, other.values, color="black", label="PBE0+TS frames")
        axes.plot(one.x, one.values, color="C1", label="dynamics")
        axes.set(xlabel="r / Å", title=f"g({kind[0]}{kind[1]})", ylim=(0, 3.5))
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(PICTURE, dpi=120)
    return report


def cost(model: str, frame: Atoms, most: int) -> dict[str, Any]:
    """Seconds per step and peak memory of ever larger cells."""
    potential, rows = load_potential(model), []
    for copies in COPIES:
        atoms = frame.repeat(copies)
        if len(atoms) > most:
            break

        def run(steps: int, atoms: Atoms = atoms) -> float:
            began = time.perf_counter()
            simulate.run(
                atoms, potential, steps=steps, timestep_fs=0.25, save_every=10**6
            )
            return time.perf_counter() - began

        try:
            run(1)  # compiles
        except jax.errors.JaxRuntimeError as error:
            print(f"{len(atoms)} atoms: {error}", flush=True)
            break  # out of memory: what was measured counts
        single = min(run(1) for _ in range(2))
        seconds = (min(run(1 + STEPS) for _ in range(2)) - single) / STEPS
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
        rows.append(
            {"atoms": len(atoms), "s_per_step": round(seconds, 4), "peak_mb": peak // 1}
        )
        print(rows[-1], flush=True)
    sizes, times = (np.log([row[k] for row in rows]) for k in ("atoms", "s_per_step"))
    return {"sizes": rows, "exponent": round(float(np.polyfit(sizes, times, 1)[0]), 3)}


def mesh_errors(model: str, frame: Atoms) -> dict[str, Any]:
    """What the mesh leaves of the exact sum, in float64."""
    potential = load_potential(model).astype("float64")
    names = ("energy", "forces", "stress", "charges")
    state = [ElectronicState(0, 1)]
    [found] = potential.evaluate(frame, state, names)
    with patch.object(reciprocal, "_SPACING", reciprocal._SPACING / 3.0):
        [exact] = potential.evaluate(frame, state, names)
    apart = found.forces - exact.forces
    return {
        "charge_of_oxygen": round(float(found.charges[frame.numbers == 8].mean()), 3),
        "energy_ev_per_atom": float(abs(found.energy - exact.energy) / len(frame)),
        "forces_rms_ev_per_angstrom": float(np.sqrt(np.mean(apart**2))),
        "forces_worst_ev_per_angstrom": float(np.abs(apart).max()),
        "stress_relative": float(
            np.abs(found.stress - exact.stress).max() / np.abs(exact.stress).max()
        ),
    }


def main() -> None:
    """Measure, print, add to what is written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="directory")
    parser.add_argument("frames", help="the 400 frames, extended XYZ")
    parser.add_argument("--ps", type=float, default=20.0)
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    parser.add_argument("--trajectory", default="water.extxyz")
    parser.add_argument("--sizes", action="store_true", help="what size costs")
    parser.add_argument("--mesh", action="store_true", help="errors of the mesh")
    parser.add_argument("--most", type=int, default=21_000, help="atoms")
    options = parser.parse_args()
    frames = ase.io.read(options.frames, ":")
    written = Path(__file__).with_suffix(".json")
    report = json.loads(written.read_text()) if written.exists() else {}
    report["machine"] = f"{os.cpu_count()} cores, {platform.machine()}"
    if options.mesh:
        report["mesh"] = mesh_errors(options.model, frames[0])
    elif options.sizes:
        report["cost"] = cost(options.model, frames[0], options.most)
    else:
        report["structure"] = structure(options.model, frames, options)
    print(json.dumps(report, indent=2))
    written.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
