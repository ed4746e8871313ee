"""Systems whose far fragments have states of their own, through compiled programs."""

import warnings
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from physnet_ase.evaluation import (
    MEMBERS,
    PROPERTIES,
    Batch,
    Result,
    in_batches,
    spread,
    voigt,
)
from physnet_ase.fragments import (
    Parting,
    alone,
    apart,
    candidate_states,
    partings,
    share_out,
)
from physnet_ase.molecules import Molecules, concatenate
from physnet_ase.neighbors import Pairs
from physnet_ase.programs import Programs
from physnet_ase.references import References
from physnet_ase.state import ElectronicState


def evaluate_molecules(
    programs: Programs,
    references: References,
    molecules: Molecules,
    pairs: Sequence[Pairs],
    wanted: Collection[str],
) -> list[Result]:
    """Evaluate molecules whose states are checked, in few batches.

    Args:
        programs: The model.
        references: Its reference energies.
        molecules: Structures and states.
        pairs: Those of each molecule, numbered from 0.
        wanted: Some of ``evaluation.PROPERTIES``, which these molecules have.
    """
    cutoff = programs.config.cutoff
    ways: list[list[Parting]] = []
    for row, own in enumerate(pairs):
        if row and own is pairs[row - 1]:  # the same geometry in another state
            ways.append(ways[-1])
        else:
            ways.append(ways_apart(molecules.take(np.array([row])), own, cutoff))
    whole = np.array([row for row, own in enumerate(ways) if not own], np.int64)
    known = in_batches(
        programs,
        references,
        molecules.take(whole),
        [pairs[row] for row in whole.tolist()],
        wanted,
    )
    values = dict(zip(whole.tolist(), known, strict=True))
    return [
        evaluate_parts(
            programs,
            references,
            molecules.take(np.array([row])),
            pairs[row],
            wanted,
            ways[row],
        )
        if ways[row]
        else Result(state, values[row])
        for row, state in enumerate(molecules.states())
    ]


def evaluate_again(
    programs: Programs, references: References, batch: Batch, wanted: Collection[str]
) -> Result:
    """A batch of one molecule that is evaluated again and again.

    Args:
        programs: The model.
        references: Its reference energies.
        batch: Stays on the device between calls.
        wanted: Some of ``evaluation.PROPERTIES``.

    Raises:
        FloatingPointError: A result is not finite.
        ValueError: See :func:`evaluate_parts`.
    """
    molecule, pairs = batch.molecules, batch.pairs
    ways = ways_apart(molecule, pairs, programs.config.cutoff)
    if ways:
        return evaluate_parts(programs, references, molecule, pairs, wanted, ways)
    [values] = batch.values(programs, references, wanted, again=True)
    return Result(batch.states[0], values)


def ways_apart(molecule: Molecules, pairs: Pairs, cutoff: float) -> list[Parting]:
    """Ways to cut one molecule into fragments; none where it hangs together.

    Periodic systems are never cut.
    """
    if molecule.periodic[0]:
        return []
    ways = partings(molecule.values["positions"], pairs, cutoff)
    return ways if any(way.labels.any() for way in ways) else []


def evaluate_parts(
    programs: Programs,
    references: References,
    molecule: Molecules,
    pairs: Pairs,
    wanted: Collection[str],
    ways: Sequence[Parting],
) -> Result:
    """One molecule whose far fragments have states of their own.

    Args:
        programs: The model.
        references: Its reference energies.
        molecule: One open system.
        pairs: Its pairs.
        wanted: Some of ``evaluation.PROPERTIES``.
        ways: Of :func:`ways_apart`.

    Raises:
        ValueError: Second derivatives are wanted of fragments that are neither apart
            nor together.
    """
    [total] = molecule.states()
    second = {"hessian", "dipole_derivatives"} & set(wanted)
    if len(ways) > 1 and second:
        raise ValueError(
            f"{', '.join(sorted(second))}: fragments of this structure are about to "
            f"part, nearly {programs.config.cutoff} Å from each other; bring them "
            "nearer, or further apart"
        )
    needed = [*wanted] if len(ways) == 1 else list({*wanted, "energy"})
    sums: dict[str, Any] = {}
    fragments: tuple[tuple[np.ndarray, ElectronicState], ...] = ()
    for way in ways:
        states = _states_of_parts(programs, references, molecule, pairs, way, total)
        if states is None:
            [values] = Batch(molecule, pairs).values(programs, references, needed)
        else:
            rows, own_pairs, order = apart(molecule, pairs, way.labels, states)
            batch = Batch(rows, own_pairs, together=True)
            values = _joined(batch.values(programs, references, needed), order)
            if way.weight == max(one.weight for one in ways):
                fragments = tuple(
                    (np.flatnonzero(way.labels == label), state)
                    for label, state in enumerate(states)
                )
        _add_slopes(values, way, molecule)
        for name, value in values.items():
            if not name.endswith("_std"):
                sums[name] = sums.get(name, 0.0) + way.weight * value
    members = {name: sums[key] for name, key in MEMBERS.items() if key in sums}
    named = {name: sums[name] for name in sums if name not in PROPERTIES}
    asked = {name: sums[name] for name in wanted if name in sums}
    return Result(total, named | asked | spread(members), fragments)


def _states_of_parts(
    programs: Programs,
    references: References,
    molecule: Molecules,
    pairs: Pairs,
    way: Parting,
    total: ElectronicState,
) -> list[ElectronicState] | None:
    """States of the fragments by their energies alone; None for a whole."""
    if not way.labels.any():
        return None
    numbers = molecule.values["atomic_numbers"]
    odd = np.bincount(way.labels, numbers) % 2
    if total == ElectronicState(0, 1) and not odd.any():
        return [total] * len(odd)  # closed shells have nothing to share out
    jobs: list[Molecules] = []
    listed: list[Pairs] = []
    allowed = []
    for label in range(int(way.labels.max()) + 1):
        one, its_pairs = alone(molecule, pairs, way.labels == label)
        states = candidate_states(
            one.values["atomic_numbers"], total, list(references.state_energies)
        )
        allowed.append(states)
        for state in states:
            charge = np.array([state.charge], np.int32)
            spin = np.array([state.multiplicity], np.int32)
            jobs.append(one.with_values(total_charge=charge, spin_multiplicity=spin))
        listed += [its_pairs] * len(states)
    chosen = None
    if all(allowed):
        found = in_batches(programs, references, concatenate(jobs), listed, ("energy",))
        energies = iter([values["energy"] for values in found])
        table = [{state: next(energies) for state in states} for states in allowed]
        chosen = share_out(table, total)
    if chosen is None:
        warnings.warn(
            f"{len(allowed)} fragments of this structure are further apart than the "
            f"model sees, and it knows no states of theirs that make up {total}: it "
            "treats them as one molecule; train it on the states of such fragments",
            UserWarning,
            stacklevel=2,
        )
    return chosen


class Division(NamedTuple):
    """The fragments of a system and their states, held while its atoms move."""

    labels: np.ndarray  # [atoms] int32, ascending; all 0 for what hangs together
    states: tuple[ElectronicState, ...]
    reference: float  # eV, of all atoms in these states


def undivided(
    references: References, numbers: np.ndarray, state: ElectronicState
) -> Division:
    """A system in one piece."""
    reference = float(np.sum(references.of_atoms(numbers, state)))
    return Division(np.zeros(len(numbers), np.int32), (state,), reference)


def division(
    programs: Programs, references: References, molecule: Molecules, pairs: Pairs
) -> Division:
    """How programs that are compiled once, such as dynamics, are to cut a system.

    They do not look for the best way at each step: which atom belongs to which fragment
    and what each holds stays as it is here.
    """
    [total] = molecule.states()
    numbers = molecule.values["atomic_numbers"]
    whole = undivided(references, numbers, total)
    ways = ways_apart(molecule, pairs, programs.config.cutoff)
    if not ways:
        return whole
    way = max(ways, key=lambda one: one.weight)
    if (np.diff(way.labels) < 0).any():
        warnings.warn(
            "the atoms of fragments far from each other do not stand one after "
            "another, so one charge and one multiplicity are spread over all of them; "
            "sort the atoms by fragment",
            UserWarning,
            stacklevel=2,
        )
        return whole
    states = _states_of_parts(programs, references, molecule, pairs, way, total)
    if states is None:
        return whole
    reference = sum(
        float(np.sum(references.of_atoms(numbers[way.labels == label], state)))
        for label, state in enumerate(states)
    )
    return Division(way.labels.astype(np.int32), tuple(states), reference)


def _joined(parts: Sequence[dict[str, Any]], order: np.ndarray) -> dict[str, Any]:
    """Values of a system from those of its fragments, atoms in their own order."""
    place, values = np.argsort(order), {}
    for name in parts[0]:
        each = [part[name] for part in parts]
        if name in ("energy", "dipole", "stress", "member_energies"):
            values[name] = sum(each)
        elif name == "hessian":  # that of the system, the same for each
            rows = (3 * place[:, None] + np.arange(3)).ravel()
            values[name] = each[0][np.ix_(rows, rows)]
        elif name == "dipole_derivatives":
            joined = np.concatenate(each).reshape(-1, 9)
            values[name] = joined[place].reshape(-1, 3)
        elif not name.endswith("_std"):
            axis = 1 if name.startswith("member_") else 0
            values[name] = np.concatenate(each, axis).take(place, axis)
    return values


def _add_slopes(values: dict[str, Any], way: Parting, molecule: Molecules) -> None:
    """Add what the change of a way's weight does, divided by that weight."""
    if not way.gradient.any():
        return
    slope = way.gradient / way.weight
    if "forces" in values:
        values["forces"] = values["forces"] - values["energy"] * slope
    if "member_forces" in values:
        energies = values.get("member_energies", np.array([values["energy"]]))
        values["member_forces"] = (
            values["member_forces"] - energies[:, None, None] * slope
        )
    if "stress" in values:
        virial = values["energy"] * molecule.values["positions"].T @ slope
        volume = abs(np.linalg.det(molecule.values["cell"][0]))
        values["stress"] = values["stress"] + voigt(virial) / volume
