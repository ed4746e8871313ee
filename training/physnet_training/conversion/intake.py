"""What molecules go through between a reader and the disk: states, then validation."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from physnet_training.auditing.validate import Problem, find_problems
from physnet_training.conversion.invalid_rows import InvalidRow
from physnet_training.sources.molecules import Molecules, ReadOptions
from physnet_training.storage.layout import FIELDS, LABELS

Array = NDArray[Any]
Policy = Literal["error", "skip", "keep"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
"""What happens to an invalid molecule: it stops the conversion, is left out, or stays
with its broken labels missing, as far as a dataset can hold it."""


@dataclass(frozen=True)
class Intake:
    """Molecules that may be written, and what had to be done about them."""

    molecules: Molecules
    invalid: list[InvalidRow]
    assumed: Counter[str]


def examine(
    piece: Molecules, options: ReadOptions, policy: Policy, origin: str
) -> Intake:
    """Fill in states, find invalid molecules and treat them as the user asked.

    Args:
        piece: What a reader gave, in internal units.
        options: What the user says about the source.
        policy: What to do with invalid molecules.
        origin: The source, as it is named in errors and lists.

    Raises:
        ValueError: A molecule is invalid and the policy has no place for it.
    """
    assumed: Counter[str] = Counter()
    molecules = _with_state(piece, options, assumed)
    problems = find_problems(molecules, allow_missing=options.allow_missing)
    for problem in problems:
        if policy == "error":
            raise ValueError(
                f"{origin}: {problem.reason} (--on-invalid skip leaves such molecules "
                "out and lists them)"
            )
        if policy == "keep" and not problem.keepable:
            raise ValueError(
                f"{origin}: {problem.reason} (no dataset can hold it, so --on-invalid "
                "keep does not apply; --on-invalid skip leaves it out)"
            )
    if not problems:
        return Intake(molecules, [], assumed)
    if policy == "skip":
        sound = np.ones(len(molecules.n_atoms), dtype=bool)
        sound[[problem.place for problem in problems]] = False
        assumed.clear()
        molecules = _with_state(piece.keep(sound), options, assumed)
    else:
        molecules = _without_broken_labels(molecules, problems)
    action: Literal["skipped", "kept"] = "skipped" if policy == "skip" else "kept"
    rows = [InvalidRow(origin, p.row, action, p.reason) for p in problems]
    return Intake(molecules, rows, assumed)


def _with_state(
    piece: Molecules, options: ReadOptions, assumed: Counter[str]
) -> Molecules:
    """Fill in charges, and multiplicities if the user says how; count both."""
    values = dict(piece.values)
    count = len(piece.n_atoms)
    if count == 0:
        return piece
    assumed.update(dict.fromkeys(piece.facts, count))
    nowhere = np.full(count, "total_charge" not in values)
    unknown = piece.absent.get("total_charge", nowhere)
    if unknown.any():
        assumed["no charge stored, 0 taken"] += int(unknown.sum())
    charge = np.asarray(values.get("total_charge", np.zeros(count)), float)
    values["total_charge"] = np.where(unknown, 0.0, charge)
    spin = np.asarray(values.get("spin_multiplicity", np.full(count, np.nan)), float)
    unknown = np.isnan(spin)
    if unknown.any() and options.assume_multiplicity == "lowest":
        first = np.cumsum(piece.n_atoms) - piece.n_atoms
        protons = np.add.reduceat(values["atomic_numbers"].astype(np.int64), first)
        electrons = protons - np.rint(values["total_charge"])
        spin = np.where(unknown, 1 + electrons % 2, spin)
        assumed["no multiplicity stored, the lowest possible taken"] += int(
            unknown.sum()
        )
    elif unknown.any():
        assumed["no multiplicity stored, it stays unknown"] += int(unknown.sum())
    values["spin_multiplicity"] = spin
    return replace(piece, values=values)


def _without_broken_labels(molecules: Molecules, problems: list[Problem]) -> Molecules:
    """A label with a number that no dataset can hold is missing for that molecule."""
    flagged = np.zeros(len(molecules.n_atoms), dtype=bool)
    flagged[[problem.place for problem in problems]] = True
    owners = np.repeat(np.arange(len(flagged)), molecules.n_atoms)
    values = dict(molecules.values)
    for name in set(LABELS) & set(values):
        field = FIELDS[name]
        array = np.array(values[name], dtype=np.float64)
        limit = np.finfo(np.dtype(field.dtype)).max
        broken = ~(np.abs(array.reshape(len(array), -1)) <= limit).all(axis=1)
        places = owners[broken] if field.per_atom else np.flatnonzero(broken)
        wrong = np.zeros(len(flagged), dtype=bool)
        wrong[places] = True
        wrong &= flagged
        array[wrong[owners] if field.per_atom else wrong] = np.nan
        values[name] = array
    return replace(molecules, values=values)
