"""What labelling leaves behind: a journal of calculations, and a packed dataset.

Finished calculations are a line of JSON each, written in one call and synchronised. A
run that dies in the middle of one leaves a line without an end, which is dropped.
Labels say all about themselves, so that they can be collected without the plan, and
while others are written.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.quantities import QUANTITIES, labels
from physnet_training.packed import PackedWriter

_KINDS = ("label", "start", "geometry")
JOURNAL = "journal.jsonl"
"""Its name in the folder of a run."""


class Journal:
    """Results and failures by key; only one process writes at a time.

    Args:
        path: The file; made, with its folder, when it does not exist.
        settings: What must be equal for labels to belong together.

    Attributes:
        path: As given.
        failures: Key -> reason; a later success removes it.

    Raises:
        ValueError: It was begun with other settings, a line is damaged, or another
            process writes it now.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.failures: dict[str, str] = {}
        self._offsets: dict[str, int] = {}
        self._lock = FileLock(path.with_name(f"{path.name}.lock"), timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ValueError(
                f"{path} is being written by another process; wait for it or stop it"
            ) from error
        self._file = path.open("a+b")
        try:
            self._read(json.loads(json.dumps(settings)))  # as it was read
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __contains__(self, key: str) -> bool:
        return key in self._offsets

    def __getitem__(self, key: str) -> dict[str, Any]:
        self._file.seek(self._offsets[key])
        entry: dict[str, Any] = json.loads(self._file.readline())
        return entry

    def close(self) -> None:
        """Let the next process write."""
        self._file.close()
        self._lock.release()

    def add(self, kind: str, key: str, values: Mapping[str, Any]) -> None:
        """Keep a result.

        Args:
            kind: ``label``, ``start`` or ``geometry``.
            key: What it belongs to.
            values: JSON-serialisable and finite.
        """
        self._offsets[key] = self._append({kind: key, **values})
        self.failures.pop(key, None)

    def fail(self, key: str, reason: str) -> None:
        """Keep why there is no result."""
        self._append({"failure": key, "reason": reason})
        self.failures[key] = reason

    def _append(self, line: Mapping[str, Any]) -> int:
        # Python writes floats so that they come back bit by bit.
        data = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())
        return offset

    def _read(self, settings: dict[str, Any]) -> None:
        begun, whole = False, 0
        for offset, end, entry in _entries(self.path):
            whole = end
            if "settings" in entry:
                _compare(self.path, entry["settings"], settings)
                begun = True
            elif "failure" in entry:
                if entry["failure"] not in self._offsets:
                    self.failures[entry["failure"]] = str(entry["reason"])
            else:
                key = next(entry[kind] for kind in _KINDS if kind in entry)
                self._offsets[key] = offset
                self.failures.pop(key, None)
        self._file.truncate(whole)  # what follows is a line that was not finished
        if not begun:
            self._append({"settings": settings})


def read_labels(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Settings and finished labels of a journal, which may be written meanwhile.

    Raises:
        ValueError: It is no journal, or a line is damaged.
    """
    entries = [entry for *_, entry in _entries(path)]
    settings = [entry["settings"] for entry in entries if "settings" in entry]
    if not settings:
        raise ValueError(f"{path} is no journal of labels: it names no settings")
    return settings[0], [entry for entry in entries if "label" in entry]


def _entries(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Begin, end and content of each whole line."""
    with path.open("rb") as file:
        begin = 0
        for number, data in enumerate(file, start=1):
            if not data.endswith(b"\n"):
                return  # it is being written
            try:
                entry = json.loads(data)
                if not {"settings", "failure", *_KINDS} & {*entry}:
                    raise ValueError("neither a label nor a failure")
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: {error}; remove the line, its label is "
                    "then calculated again"
                ) from error
            end = begin + len(data)
            yield begin, end, entry
            begin = end


def _compare(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise where labels of two runs would be mixed."""
    for name in sorted({*old, *new}):
        before, now = old.get(name), new.get(name)
        if before != now:
            if isinstance(before, dict) and isinstance(now, dict):
                part = next(k for k in {**before, **now} if before.get(k) != now.get(k))
                name, before, now = f"{name} {part}", before.get(part), now.get(part)
            raise ValueError(
                f"{path.parent} was begun with {name} = {before}, asked is {now}; "
                "finish it with the same options, or choose another target"
            )


Array = NDArray[Any]
Line = Mapping[str, Any]

CONTAMINATED = 0.1
"""ħ²; an <S²> further than this from S(S+1) belongs to no pure spin state."""
_CHUNK = 2000  # molecules held in memory at once


class _Residuals:
    """What methods are not exact in: noted, never corrected.

    Net force and torque of an isolated molecule should vanish, and do not on the
    integration grids of DFT; <S²> of an unrestricted state exceeds S(S+1) by its spin
    contamination.
    """

    def __init__(self) -> None:
        self._force = self._torque = self._seconds = 0.0
        self._contaminated = 0
        self._contamination: dict[str, float] = defaultdict(float)

    def watch(self, lines: Iterable[Line]) -> Iterator[Line]:
        """Pass labels on, and look at each."""
        for line in lines:
            self._seconds += line.get("seconds", 0.0)
            if "forces" in line:
                forces = np.array(line["forces"])
                torque = np.linalg.norm(np.cross(line["positions"], forces).sum(axis=0))
                force = np.linalg.norm(forces.sum(axis=0))
                self._force = max(self._force, float(force))
                self._torque = max(self._torque, float(torque))
            if "s_squared" in line:
                state = f"{line['charge']},{line['multiplicity']}"
                worst = max(self._contamination[state], contamination(line))
                self._contamination[state] = worst
                self._contaminated += is_contaminated(line)
            yield line

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
    lines: Iterable[Line], target: Path, *, level: str, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Write labels of a journal as a packed dataset.

    Args:
        lines: Of labels, in the order of the dataset.
        target: The directory to make.
        level: Level of theory.
        provenance: Where they come from; residuals are added.

    Returns:
        The residuals: the largest net force, net torque and spin contamination.
    """
    residuals = _Residuals()
    with PackedWriter(target) as writer:
        remaining = residuals.watch(lines)
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
        "total_charge": np.array([line["charge"] for line in lines]),
        "spin_multiplicity": np.array([line["multiplicity"] for line in lines]),
    }
    names = [quantity.name for quantity in labels()]
    for name in ("atomic_numbers", "positions", *names, "cell", "pbc"):
        if any(name in line for line in lines):
            pairs = zip(lines, sizes.tolist(), strict=True)
            parts = [_rows(name, line.get(name), size) for line, size in pairs]
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
        return np.full(shape, 0.0 if name == "cell" else quantity.fill)
    return np.reshape(value, shape)
