"""One composition in several charges, energies alone: does the charge do its work?

    python benchmarks/charge_states.py C2H4 --folder FOLDER
    python benchmarks/charge_states.py CLiO3 --folder FOLDER
    python benchmarks/charge_states.py CLi2O3 --folder FOLDER
    python benchmarks/charge_states.py chains --folder FOLDER

``FOLDER`` holds ``C2H4_energies.extxyz.gz`` and ``lithium_carbonate_tasks_energies.
extxyz.gz`` (materialsproject/emmet; wB97X-V/def2-TZVPPD in SMD of dielectric constant
18.5; without the few frames of a higher multiplicity), or ``carbon_chain_128.extxyz``
(Ko et al. 2021; CompPhysVienna/n2p2). Charges -1, 0 and +1 are trained together, on
four fifths by ``default_rng(0).permutation``, and tested on the rest; the carbon
chains, C10H2 and C10H3+, in five folds. A second model of the same architecture and
training sees all of them as neutral.
"""

import argparse
import gzip
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read, write
from ase.units import Hartree
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset
from physnet_training.train.recipe import recipe_from
from physnet_training.train.split import Split
from physnet_training.train.trainer import prepare

from physnet_ase.potential import Potential, load_potential, unfamiliar_is_fine

RESULT = Path(__file__).with_name("charge_states.json")
FILES = {
    "C2H4": "C2H4_energies.extxyz.gz",
    "CLiO3": "lithium_carbonate_tasks_energies.extxyz.gz",
    "CLi2O3": "lithium_carbonate_tasks_energies.extxyz.gz",
    "chains": "carbon_chain_128.extxyz",
}
KINDS = ("conditioned", "charge-blind")
CHARGES = (-1, 0, 1)
SOLVENT = "smd_eps18.5"


def lowest(atoms: Atoms, charge: int) -> int:
    """The lowest multiplicity of a charge."""
    return 1 + int(atoms.numbers.sum() - charge) % 2


def frames_of(case: str, folder: Path) -> list[Atoms]:
    """Structures with charge and energy (eV) in ``info``."""
    file = folder / FILES[case]
    if case == "chains":
        found = read(file, ":")
        for atoms in found:
            atoms.info = {
                "energy": atoms.get_potential_energy(),
                "charge": int(atoms.info["charge"]),
                "multiplicity": 1,
            }
            atoms.arrays["charges"] = atoms.arrays.pop("hirshfeld_charges")
            atoms.arrays["forces"] = atoms.get_forces()
            atoms.calc = None
        return found
    text = io.StringIO(gzip.decompress(file.read_bytes()).decode())
    found = []
    for atoms in read(text, ":", format="extxyz"):
        info = atoms.info
        if (
            atoms.get_chemical_formula() == case
            and info["solvent_model"] == SOLVENT
            and info["charge"] in CHARGES
            and info["multiplicity"] == lowest(atoms, info["charge"])
        ):
            atoms.info = {
                "energy": float(info["energy_hartree"]) * Hartree,
                "charge": int(info["charge"]),
                "multiplicity": int(info["multiplicity"]),
            }
            found.append(atoms)
    return found


def blinded(frames: list[Atoms]) -> list[Atoms]:
    """The same structures, all of them neutral and of the lowest multiplicity."""
    found = [atoms.copy() for atoms in frames]
    for atoms in found:
        atoms.info |= {"charge": 0, "multiplicity": lowest(atoms, 0)}
    return found


def content(case: str, steps: int) -> dict[str, Any]:
    """The recipe of one training."""
    labels = {"energy": 10.0}
    if case == "chains":
        labels |= {"forces": 20.0, "charges": 1.0}
    return {
        "name": case,
        "model": {
            "preset": "small",
            "vector_features": True,
            "electrostatics": case == "chains",
        },
        "loss": labels,
        "optimizer": {
            "steps": steps,
            "batch_size": 32 if case != "chains" else 4,
            "learning_rate": 1e-3,
            "warmup_steps": 200,
            "validate_every": steps // 10,
        },
    }


def trained(
    case: str, frames: list[Atoms], train: np.ndarray, steps: int, folder: Path
) -> Potential:
    """A model of these structures; every twentieth validates."""
    source = folder / "frames.extxyz"
    write(source, frames, format="extxyz")
    convert(source, folder / "data", on_invalid="error")
    validation = train[::20]
    split = Split(np.setdiff1d(train, validation), validation, np.zeros(0, int))
    recipe = recipe_from(content(case, steps), case)
    dataset = PackedDataset.open(folder / "data")
    return load_potential(prepare(recipe, dataset, folder / "run", split).run())


def errors_of(potential: Potential, frames: list[Atoms]) -> dict[str, list[np.ndarray]]:
    """Predicted less label, by quantity, for each structure."""
    labels: dict[str, list[np.ndarray]] = {
        "energy": [np.array(atoms.info["energy"]) for atoms in frames]
    }
    for name in ("forces", "charges"):
        if name in frames[0].arrays:
            labels[name] = [atoms.arrays[name] for atoms in frames]
    with unfamiliar_is_fine():
        answers = potential.evaluate(frames, properties=tuple(labels))
    return {
        name: [getattr(a, name) - b for a, b in zip(answers, known, strict=True)]
        for name, known in labels.items()
    }


def folds_of(case: str, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Trained and tested structures: one split, or five that test all chains."""
    order = np.random.default_rng(0).permutation(number)
    if case == "chains":
        tests = np.array_split(order, 5)
    else:
        tests = [order[int(0.8 * number) :]]
    return [(np.setdiff1d(order, test), test) for test in tests]


def summary(
    found: dict[str, dict[str, list[np.ndarray]]],
) -> dict[str, dict[str, dict[str, float]]]:
    """Root mean square and median of errors by quantity and charge: meV, meV/Å, me."""
    measures = {
        "rmse": lambda errors: np.sqrt(np.mean(errors**2)),
        "median": lambda errors: np.median(np.abs(errors)),
    }
    return {
        measure: {
            name: {
                group: round(1000 * float(compute(np.concatenate(each, None))), 2)
                for group, each in groups.items()
            }
            for name, groups in found.items()
        }
        for measure, compute in measures.items()
    }


def main() -> None:
    """Train with and without the charge, print, and write next to this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=FILES)
    parser.add_argument("--folder", type=Path, required=True, help="of the files")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    known = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    labelled = frames_of(options.case, options.folder)
    charges = np.array([atoms.info["charge"] for atoms in labelled])
    for kind in options.kinds:
        frames = blinded(labelled) if kind == "charge-blind" else labelled
        found: dict[str, dict[str, list[np.ndarray]]] = {}
        started = time.monotonic()
        for train, test in folds_of(options.case, len(frames)):
            with tempfile.TemporaryDirectory() as folder:
                potential = trained(
                    options.case, frames, train, options.steps, Path(folder)
                )
            errors = errors_of(potential, [frames[i] for i in test])
            for name, values in errors.items():
                for charge, value in zip(charges[test], values, strict=True):
                    for group in (f"{charge:+d}", "all"):
                        found.setdefault(name, {}).setdefault(group, []).append(value)
        row = {
            "steps": options.steps,
            "tested": {group: len(each) for group, each in found["energy"].items()},
            **summary(found),
            "seconds": round(time.monotonic() - started),
        }
        print(options.case, kind, row, flush=True)
        known.setdefault(options.case, {})[kind] = row
        RESULT.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
