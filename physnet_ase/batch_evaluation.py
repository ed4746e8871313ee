"""Many structures and states through few compiled calls."""

from collections.abc import Sequence
from typing import Any

from physnet_ase.batch import PROPERTIES, Batch, Result
from physnet_ase.neighbors import Pairs, Structure, check_distances, find_pairs
from physnet_ase.potential import Potential
from physnet_ase.state import ElectronicState, as_state, resolve_state

MAX_ATOMS, MAX_PAIRS = 512, 16384
"""A batch is closed before it grows beyond these, unless one structure alone does."""


def evaluate(
    potential: Potential,
    atoms: Any,
    states: Sequence[Any] | None,
    properties: Sequence[str],
    *,
    allow_unseen_states: bool = False,
) -> Any:
    """Implement ``Potential.evaluate``; its docstring says what this does."""
    single = hasattr(atoms, "positions")
    several = [atoms] if single else list(atoms)
    chosen = None if states is None else _listed(states)
    structures, pairs = [], []
    jobs: list[tuple[int, ElectronicState]] = []
    for index, one in enumerate(several):
        try:
            structures.append(Structure.from_atoms(one))
            for state in chosen or [resolve_state(one)]:
                potential.check(
                    one.numbers, state, allow_unseen_states=allow_unseen_states
                )
                jobs.append((index, state))
            pairs.append(find_pairs(structures[-1], potential.config.cutoff))
            check_distances(structures[-1], pairs[-1])
        except ValueError as error:
            if single:
                raise
            raise ValueError(f"structure {index}: {error}") from error
    flat = compute(
        potential,
        [structures[index] for index, _ in jobs],
        [state for _, state in jobs],
        [pairs[index] for index, _ in jobs],
        properties,
    )
    if chosen is None:
        return flat[0] if single else flat
    width = len(chosen)
    rows = [flat[i * width : (i + 1) * width] for i in range(len(several))]
    return rows[0] if single else rows


def _listed(states: Any) -> list[ElectronicState]:
    try:
        listed = [as_state(state) for state in states]
    except TypeError:  # a single state, or entries that are no pairs
        listed = []
    if not listed:
        raise ValueError(
            "states must be a non-empty list of states, each an ElectronicState or "
            f"(charge, multiplicity), got {states!r}"
        )
    return listed


def compute(
    potential: Potential,
    structures: Sequence[Structure],
    states: Sequence[ElectronicState],
    pairs: Sequence[Pairs],
    properties: Sequence[str],
) -> list[Result]:
    """Evaluate structures whose states are checked and whose pairs are known."""
    wanted = _check_properties(potential, structures, properties)
    results: list[Result | None] = [None] * len(structures)
    for rows in _plan(structures, pairs, alone="hessian" in wanted):
        batch = Batch(
            [structures[row] for row in rows],
            [states[row] for row in rows],
            [pairs[row] for row in rows],
        )
        found = batch.evaluate(potential, wanted)
        for row, result in zip(rows, found, strict=True):
            results[row] = result
    return [result for result in results if result is not None]


def _check_properties(
    potential: Potential, structures: Sequence[Structure], properties: Sequence[str]
) -> set[str]:
    unknown = set(properties) - set(PROPERTIES)
    if isinstance(properties, str) or unknown or not properties:
        raise ValueError(f"properties must be some of {PROPERTIES}, got {properties!r}")
    if "spin_populations" in properties and not potential.config.spin_populations:
        raise ValueError(
            "this model was not trained on spin populations; retrain with "
            "spin_populations = true and labels that hold them"
        )
    for index, structure in enumerate(structures):
        if "stress" in properties and not structure.pbc.all():
            raise ValueError(
                f"stress needs three periodic directions; structure {index} has "
                f"pbc={structure.pbc.tolist()}"
            )
        if structure.pbc.any() and not {"dipole", "dipole_derivatives"}.isdisjoint(
            properties
        ):
            raise ValueError(
                "the dipole has no meaning along periodic directions; structure "
                f"{index} has pbc={structure.pbc.tolist()}"
            )
    return set(properties)


def _plan(
    structures: Sequence[Structure], pairs: Sequence[Pairs], *, alone: bool
) -> list[list[int]]:
    """Group rows of similar size into batches; open and periodic ones stay apart."""
    order = sorted(
        range(len(structures)),
        key=lambda i: (bool(structures[i].pbc.any()), len(structures[i].numbers), i),
    )
    batches: list[list[int]] = []
    atoms = num_pairs = 0
    for row in order:
        atoms += len(structures[row].numbers)
        num_pairs += len(pairs[row].senders)
        new = (
            not batches
            or alone
            or atoms > MAX_ATOMS
            or num_pairs > MAX_PAIRS
            or structures[batches[-1][-1]].pbc.any() != structures[row].pbc.any()
        )
        if new:
            batches.append([])
            atoms = len(structures[row].numbers)
            num_pairs = len(pairs[row].senders)
        batches[-1].append(row)
    return batches
