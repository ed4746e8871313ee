"""What molecules go through between a reader and the disk: states, then validation."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.quantities import QUANTITIES
from physnet_training.audit.validate import Problem, charge_sums, find_problems
from physnet_training.distinct_states import lowest_multiplicities
from physnet_training.packed.files import InvalidRow
from physnet_training.sources.keys import ReadOptions

Array = NDArray[Any]
Policy = Literal["error", "skip", "keep"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
"""What happens to an invalid molecule: it stops the conversion, is left out, or stays
with its broken labels missing, as far as a dataset can hold it."""


@dataclass(frozen=True)
class Checked:
    """Molecules that may be written, and what had to be done about them."""

    molecules: Molecules
    invalid: list[InvalidRow]
    assumed: Counter[str]


def check(
    batch: Molecules, options: ReadOptions, policy: Policy, origin: str
) -> Checked:
    """Fill in states, find invalid molecules and treat them as the user asked.

    Args:
        batch: What a reader gave, in internal units.
        options: What the user says about the source.
        policy: What to do with invalid molecules.
        origin: The source, as it is named in errors and lists.

    Raises:
        ValueError: A molecule is invalid and the policy has no place for it.
    """
    assumed: Counter[str] = Counter()
    try:
        molecules = _complete(batch, options, assumed)
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from error
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
        return Checked(molecules, [], assumed)
    if policy == "skip":
        sound = np.ones(len(molecules), dtype=bool)
        sound[[problem.place for problem in problems]] = False
        assumed.clear()
        molecules = _complete(batch.keep(sound), options, assumed)
    else:
        molecules = _without_broken_labels(molecules, problems)
    action: Literal["skipped", "kept"] = "skipped" if policy == "skip" else "kept"
    rows = [InvalidRow(origin, p.row, action, p.reason) for p in problems]
    return Checked(molecules, rows, assumed)


def _complete(
    batch: Molecules, options: ReadOptions, assumed: Counter[str]
) -> Molecules:
    """Open boxes of zeros, fill in charges and multiplicities; count what was done."""
    if len(batch) == 0:
        return batch
    count, values = len(batch), dict(batch.values)
    assumed.update(dict.fromkeys(batch.facts, count))
    if "cell" in values and "pbc" in values:
        periodic = np.asarray(values["pbc"]).astype(bool)
        empty = periodic.any(axis=1) & ~np.asarray(values["cell"]).any(axis=(1, 2))
        if empty.any():
            assumed["a cell of zeros, not periodic"] += int(empty.sum())
            values["pbc"] = periodic & ~np.reshape(empty, (-1, 1))
    nowhere = np.full(count, "total_charge" not in values)
    unknown = batch.absent.get("total_charge", nowhere)
    charge = np.asarray(values.get("total_charge", np.zeros(count)), float)
    if unknown.any():
        sums = charge_sums(batch)
        summed = unknown & (np.nan_to_num(sums) != 0)
        charge = np.where(unknown, np.nan_to_num(sums), charge)
        for which, note in (
            (summed, "no charge stored, the sum of the atomic charges taken"),
            (unknown & ~summed, "no charge stored, 0 taken"),
        ):
            assumed[note] += int(which.sum())
    values["total_charge"] = charge
    spin = np.asarray(values.get("spin_multiplicity", np.full(count, np.nan)), float)
    unknown = np.isnan(spin)
    if unknown.any() and options.assume_multiplicity == "lowest":
        spin = np.where(unknown, _lowest(batch, charge), spin)
        alone = unknown & (batch.n_atoms == 1)
        for which, note in (
            (unknown & ~alone, "no multiplicity stored, the lowest possible taken"),
            (alone, "no multiplicity stored, the free atom's ground state taken"),
        ):
            assumed[note] += int(which.sum())
    elif unknown.any():
        assumed["no multiplicity stored, it stays unknown"] += int(unknown.sum())
    values["spin_multiplicity"] = spin
    for note in [note for note, number in assumed.items() if not number]:
        del assumed[note]
    return replace(batch, values=values)


def _lowest(batch: Molecules, charge: Array) -> Array:
    """Lowest multiplicity of the right parity, of free atoms the ground state's."""
    numbers = batch.values["atomic_numbers"]
    lowest = lowest_multiplicities(numbers, batch.n_atoms, charge)
    unknown = np.isnan(lowest) & np.isfinite(charge)
    if unknown.any():
        place = int(np.argmax(unknown))
        raise ValueError(
            f"molecule {batch.rows[place]} (0-based) is a free atom with charge "
            f"{round(float(charge[place])):+d} and no multiplicity, whose ground state "
            "no table here says; store its multiplicity in the file"
        )
    return lowest


def _without_broken_labels(molecules: Molecules, problems: list[Problem]) -> Molecules:
    """A label with a number that no dataset can hold is missing for that molecule."""
    flagged = np.zeros(len(molecules), dtype=bool)
    flagged[[problem.place for problem in problems]] = True
    owner, values = molecules.owner, dict(molecules.values)
    for name in values:
        quantity = QUANTITIES[name]
        if quantity.role != "label":
            continue
        array = np.array(values[name], dtype=np.float64)
        limit = np.finfo(np.dtype(quantity.dtype)).max
        broken = ~(np.abs(array.reshape(len(array), -1)) <= limit).all(axis=1)
        wrong = np.zeros(len(flagged), dtype=bool)
        wrong[owner[broken] if quantity.per_atom else np.flatnonzero(broken)] = True
        wrong &= flagged
        array[wrong[owner] if quantity.per_atom else wrong] = np.nan
        values[name] = array
    return replace(molecules, values=values)
