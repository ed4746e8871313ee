"""What labelling leaves behind: a packed dataset, and what methods are not exact in."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.quantities import QUANTITIES, labels
from physnet_training.label.journal import JOURNAL, read_labels
from physnet_training.packed import PackedWriter

Array = NDArray[Any]
Line = Mapping[str, Any]

CONTAMINATED = 0.1
"""ħ²; an <S²> further than this from S(S+1) belongs to no pure spin state."""
_CHUNK = 2000  # molecules held in memory at once


class Residuals:
    """What methods are not exact in: noted, never corrected.

    Net force and torque of an isolated molecule should vanish, and do not on the
    integration grids of DFT; <S²> of an unrestricted state exceeds S(S+1) by its spin
    contamination.
    """

    def __init__(self) -> None:
        self._force = self._torque = self._seconds = 0.0
        self._contaminated = 0
        self._contamination: dict[str, float] = defaultdict(float)

    def add(self, line: Line) -> None:
        """Look at one label."""
        self._seconds += line.get("seconds", 0.0)
        if "forces" in line:
            forces = np.array(line["forces"])
            torque = np.cross(line["positions"], forces).sum(axis=0)
            self._force = max(self._force, float(np.linalg.norm(forces.sum(axis=0))))
            self._torque = max(self._torque, float(np.linalg.norm(torque)))
        state = f"{line['charge']},{line['multiplicity']}"
        if "s_squared" in line:
            excess = contamination(line)
            self._contamination[state] = max(self._contamination[state], excess)
            self._contaminated += is_contaminated(line)

    def summary(self) -> dict[str, Any]:
        """The largest of each; JSON-serialisable."""
        return {
            "largest_net_force_ev_per_angstrom": self._force,
            "largest_net_torque_ev": self._torque,
            "largest_spin_contamination": dict(self._contamination),
            "num_contaminated": self._contaminated,
            "processor_seconds": round(self._seconds, 1),
        }


def contamination(line: Line) -> float:
    """<S²> - S(S+1) in ħ²; 0 where the method does not tell."""
    spin = 0.5 * (line["multiplicity"] - 1)
    return float(line.get("s_squared", spin * (spin + 1.0)) - spin * (spin + 1.0))


def is_contaminated(line: Line) -> bool:
    """Whether a label is of no pure spin state, see ``CONTAMINATED``."""
    return abs(contamination(line)) > CONTAMINATED


def write_labels(
    lines: Iterable[Line],
    target: Path,
    *,
    level: str,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Write labels of a journal as a packed dataset.

    Args:
        lines: Of labels, in the order of the dataset.
        target: The directory to make.
        level: Level of theory.
        provenance: Where they come from; residuals are added.

    Returns:
        The summary of ``Residuals``.
    """
    residuals = Residuals()

    def watched() -> Iterator[Line]:
        for line in lines:
            residuals.add(line)
            yield line

    with PackedWriter(target) as writer:
        remaining = watched()
        while chunk := list(islice(remaining, _CHUNK)):
            writer.append(as_molecules(chunk, level))
        writer.provenance.append({**provenance, "residuals": residuals.summary()})
    return residuals.summary()


def collect(
    run: Path, target: Path, *, max_contamination: float | None = None
) -> tuple[int, int]:
    """Write what a run has finished by now; the run may go on meanwhile.

    Args:
        run: The folder ``TARGET.labels`` of the run, or its journal.
        target: The directory to make.
        max_contamination: Leave out labels whose <S²> is further from S(S+1), in ħ².

    Returns:
        Labels written, and labels left out.

    Raises:
        ValueError: There is nothing to write.
    """
    path = run / JOURNAL if run.is_dir() else run
    if not path.exists():
        raise ValueError(f"{run} is no folder TARGET.labels of a run, and no journal")
    settings, lines = read_labels(path)
    bound = np.inf if max_contamination is None else max_contamination
    kept = [line for line in lines if abs(contamination(line)) <= bound]
    if not kept:
        raise ValueError(f"{path} holds no finished labels yet")
    method = settings["method"]
    provenance = {"path": str(path), "num_molecules": len(kept), **settings}
    write_labels(kept, target, level=method["level"], provenance=provenance)
    return len(kept), len(lines) - len(kept)


def as_molecules(lines: Sequence[Line], level: str) -> Molecules:
    """Labels of a journal as one batch; what a label lacks is missing, never zero."""
    sizes = np.array([len(line["atomic_numbers"]) for line in lines], np.int32)
    values: dict[str, Array] = {
        name: np.concatenate([np.asarray(line[name]) for line in lines])
        for name in ("atomic_numbers", "positions")
    }
    values["total_charge"] = np.array([line["charge"] for line in lines])
    values["spin_multiplicity"] = np.array([line["multiplicity"] for line in lines])
    names = [quantity.name for quantity in labels()]
    for name in (*names, "cell", "pbc"):
        if any(name in line for line in lines):
            parts = [
                _rows(name, line.get(name), int(size))
                for line, size in zip(lines, sizes, strict=True)
            ]
            values[name] = np.concatenate(parts)
    return Molecules(
        sizes,
        values,
        np.arange(len(lines)),
        np.array([line["name"] for line in lines]),
        np.full(len(lines), level),
    )


def _rows(name: str, value: Any, num_atoms: int) -> Array:
    """One molecule's rows of a quantity, its fill where there is no such label."""
    quantity = QUANTITIES[name]
    shape = quantity.row_shape(1, num_atoms)
    if value is None:
        fill = 0.0 if name == "cell" else quantity.fill
        return np.full(shape, fill)
    return np.reshape(value, shape)
