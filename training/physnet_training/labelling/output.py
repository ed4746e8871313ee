"""What labelling leaves behind: the packed dataset and the list of failures."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.quantities import QUANTITIES
from physnet_training.labelling.journal import Journal
from physnet_training.labelling.parts import Part, mark_written, part_folder
from physnet_training.labelling.plan import Job, Plan
from physnet_training.labelling.tasks import PROPERTIES
from physnet_training.packed import PackedWriter

Array = NDArray[Any]
_CHUNK = 2000  # molecules held in memory at once


class Residuals:
    """What methods are not exact in: noted, never corrected.

    Net force and torque of an isolated molecule should vanish, and do not on the
    integration grids of DFT; <S²> of an unrestricted state exceeds S(S+1) by its spin
    contamination.
    """

    def __init__(self) -> None:
        self._force = self._torque = self._seconds = 0.0
        self._contamination: dict[str, float] = defaultdict(float)

    def add(self, label: dict[str, Any], multiplicity: int, name: str) -> None:
        """Look at one label."""
        self._seconds += label.get("seconds", 0.0)
        if "forces" in label:
            forces = np.array(label["forces"])
            torque = np.cross(label["positions"], forces).sum(axis=0)
            self._force = max(self._force, float(np.linalg.norm(forces.sum(axis=0))))
            self._torque = max(self._torque, float(np.linalg.norm(torque)))
        if "s_squared" in label:
            spin = 0.5 * (multiplicity - 1)
            excess = label["s_squared"] - spin * (spin + 1.0)
            self._contamination[name] = max(self._contamination[name], excess)

    def summary(self) -> dict[str, Any]:
        """The largest of each; JSON-serialisable."""
        return {
            "largest_net_force_ev_per_angstrom": self._force,
            "largest_net_torque_ev": self._torque,
            "largest_spin_contamination": dict(self._contamination),
            "processor_seconds": round(self._seconds, 1),
        }


def write_part(
    plan: Plan, journal: Journal, jobs: Sequence[Job], *, folder: Path, part: Part
) -> None:
    """Write the finished ones of some labels as a packed dataset in the run's folder.

    Args:
        plan: Where labels belong.
        journal: Their values.
        jobs: In the order of the dataset.
        folder: The run's folder.
        part: Which share this is.
    """
    done = [job for job in jobs if job in journal.labels]
    residuals = Residuals()
    if done:
        with PackedWriter(part_folder(folder, part)) as writer:
            for start in range(0, len(done), _CHUNK):
                _append(writer, plan, journal, done[start : start + _CHUNK], residuals)
            failed = sum(job in journal.failures for job in jobs)
            writer.provenance.append(_provenance(plan, len(done), failed, residuals))
    mark_written(folder, part, {"labels": len(done), **residuals.summary()})


def list_failures(
    plan: Plan, journal: Journal, jobs: Sequence[Job], path: Path
) -> Path | None:
    """Write ``failures.csv``; return its path, or None where nothing failed."""
    failed = [job for job in jobs if job in journal.failures]
    if not failed:
        path.unlink(missing_ok=True)
        return None
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        header = "structure,name,sample,temperature_K,charge,multiplicity,reason"
        table.writerow(header.split(","))
        for job in failed:
            chain = plan.chains[job.chain]
            structure, state = plan.structures[chain.structure], plan.state(job)
            table.writerow(
                [
                    structure.source,
                    structure.name,
                    job.sample,
                    "" if chain.temperature is None else f"{chain.temperature:g}",
                    state.charge,
                    state.multiplicity,
                    journal.failures[job],
                ]
            )
    return path


def _append(
    writer: PackedWriter,
    plan: Plan,
    journal: Journal,
    jobs: Sequence[Job],
    residuals: Residuals,
) -> None:
    """Write some labels; what a label lacks is missing, never zero."""
    structures = [plan.structures[plan.chains[job.chain].structure] for job in jobs]
    states = [plan.state(job) for job in jobs]
    labels = [journal.label(job) for job in jobs]
    for label, state in zip(labels, states, strict=True):
        name = f"{state.charge},{state.multiplicity}"
        residuals.add(label, state.multiplicity, name)
    sizes = np.array([len(structure.atoms) for structure in structures])
    values: dict[str, Array] = {
        "atomic_numbers": np.concatenate([s.atoms.numbers for s in structures]),
        "positions": np.concatenate([label["positions"] for label in labels]),
        "total_charge": np.array([state.charge for state in states]),
        "spin_multiplicity": np.array([state.multiplicity for state in states]),
    }
    if any(structure.atoms.pbc.any() for structure in structures):
        values["pbc"] = np.stack([s.atoms.pbc for s in structures]).astype(np.uint8)
        values["cell"] = np.stack([s.atoms.cell.array for s in structures])
    for name in PROPERTIES.values():
        if any(name in label for label in labels):
            parts = [
                _rows(name, label.get(name), int(size))
                for label, size in zip(labels, sizes, strict=True)
            ]
            values[name] = np.concatenate(parts)
    writer.append(
        Molecules(
            sizes,
            values,
            np.arange(len(jobs)),
            np.array([structure.name for structure in structures]),
            np.full(len(jobs), plan.method.level),
        )
    )


def _rows(name: str, value: Any, num_atoms: int) -> Array:
    """One molecule's rows of a field, NaN where it has no such label."""
    field = QUANTITIES[name]
    shape = (num_atoms if field.per_atom else 1, *field.shape)
    return np.full(shape, np.nan) if value is None else np.reshape(value, shape)


def _provenance(
    plan: Plan, num_labels: int, num_failed: int, residuals: Residuals
) -> dict[str, Any]:
    return {
        "path": f"physnet-train label --method {plan.method.name}",
        "num_molecules": num_labels,
        "num_failed": num_failed,
        **plan.method.provenance(),
        "sampling": plan.sampling.model_dump(mode="json"),
        "sampling_method": plan.surface_method.provenance(),
        "structures": sorted({structure.source for structure in plan.structures}),
        "residuals": residuals.summary(),
    }
