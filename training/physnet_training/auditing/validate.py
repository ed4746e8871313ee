"""What no dataset may hold; every message names the molecule and what to do."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from physnet_ase.state import ElectronicState, check_possible
from physnet_training.auditing.distances import (
    closest_image,
    closest_pair,
    shortest_distances,
)
from physnet_training.sources.molecules import Molecules
from physnet_training.storage.layout import FIELDS

Array = NDArray[Any]

MIN_DISTANCE = 0.1
"""Å; atoms closer than this are a mistake in the data."""
_MARGIN = 1e-3  # Å; what float32 may be wrong by, float64 decides inside it
_MAX_VALUE = float(np.finfo(np.float32).max)


class Problem(NamedTuple):
    """One thing that makes a molecule unusable.

    Attributes:
        place: Index of the molecule in its piece.
        row: Its 0-based number in the source.
        reason: A message that names the molecule, the value and what to do.
        keepable: Whether a dataset can hold the molecule all the same: a label that
            is not finite can be stored as missing, atoms too close and an impossible
            state of whole numbers can be stored as they are. An unknown element, a
            geometry or a charge that is not finite, and states that are no whole
            numbers cannot.
    """

    place: int
    row: int
    reason: str
    keepable: bool


def check_molecules(molecules: Molecules, *, allow_missing: bool) -> None:
    """Raise for the first molecule that is unusable.

    Args:
        molecules: In internal units; ``total_charge`` must be there.
        allow_missing: Accept NaN in labels as "missing"; infinity never is.

    Raises:
        ValueError: The message starts with the molecule's number in its file.
    """
    problems = find_problems(molecules, allow_missing=allow_missing)
    if problems:
        raise ValueError(problems[0].reason)


def find_problems(
    molecules: Molecules, *, allow_missing: bool, shortest: Array | None = None
) -> list[Problem]:
    """Every unusable molecule with the first thing found wrong with it.

    Of several things one that is not keepable comes first.

    Args:
        molecules: In internal units; ``total_charge`` must be there.
        allow_missing: Accept NaN in labels as "missing"; infinity never is.
        shortest: [molecules] what ``shortest_distances`` said of them, if known.

    Returns:
        At most one problem per molecule, in the order of the molecules.
    """
    found: dict[int, Problem] = {}
    for place, index, reason, keepable in _elements_and_numbers(
        molecules, allow_missing
    ):
        _note(found, _problem(molecules, (place, index), reason, keepable))
    # Where elements or positions are no numbers, states and distances mean nothing.
    sound = np.ones(len(molecules.n_atoms), dtype=bool)
    sound[[p.place for p in found.values() if not p.keepable]] = False
    rest = molecules if sound.all() else molecules.keep(sound)
    if len(rest.n_atoms):
        places = np.flatnonzero(sound)
        if shortest is None:
            shortest = shortest_distances(rest.n_atoms, rest.values["positions"])
        else:
            shortest = shortest[sound]
        for place, index, reason, keepable in _states_and_distances(rest, shortest):
            where = (int(places[place]), index)
            _note(found, _problem(molecules, where, reason, keepable))
    return [found[place] for place in sorted(found)]


_Finding = tuple[int, int | None, str, bool]
"""Index of the molecule, of its atom (None: the molecule itself), reason, keepable."""


def _elements_and_numbers(
    molecules: Molecules, allow_missing: bool
) -> Iterator[_Finding]:
    yield from _wrong_elements(molecules)
    for name, array in molecules.values.items():
        if array.dtype.kind == "f" and name != "spin_multiplicity":
            yield from _not_finite(molecules, name, allow_missing)


def _states_and_distances(molecules: Molecules, shortest: Array) -> Iterator[_Finding]:
    yield from _wrong_states(molecules)
    yield from _close_atoms(molecules, shortest)
    yield from _close_images(molecules)


def _note(found: dict[int, Problem], problem: Problem) -> None:
    known = found.get(problem.place)
    if known is None or (known.keepable and not problem.keepable):
        found[problem.place] = problem


def _problem(
    molecules: Molecules, where: tuple[int, int | None], reason: str, keepable: bool
) -> Problem:
    place, atom = where
    row = int(molecules.rows[place])
    name = f"molecule {row}" if atom is None else f"molecule {row}, atom {atom}"
    return Problem(place, row, f"{name} (0-based): {reason}", keepable)


def _wrong_elements(molecules: Molecules) -> Iterator[_Finding]:
    numbers = molecules.values["atomic_numbers"]
    whole = numbers.dtype.kind in "iu"
    if whole and numbers.min() >= 1 and numbers.max() <= 118:
        return
    wrong: Array = (numbers < 1) | (numbers > 118) | (np.rint(numbers) != numbers)
    for place, atom, index in _first_atoms(molecules, wrong):
        yield (
            place,
            atom,
            f"unknown element, atomic number {numbers[index]}; allowed are 1 to 118",
            False,
        )


def _not_finite(
    molecules: Molecules, name: str, allow_missing: bool
) -> Iterator[_Finding]:
    """NaN and infinity, and values that would become infinite on disk."""
    array, field = molecules.values[name], FIELDS[name]
    limit = np.inf if field.dtype == "<f8" else _MAX_VALUE
    if not array.size or (array.min() > -limit and array.max() < limit):
        return  # NaN fails both comparisons
    bad: Array = ~(np.abs(array) < limit)
    absent = molecules.absent.get(name)
    if absent is not None and absent.any():
        bad[np.repeat(absent, molecules.n_atoms) if field.per_atom else absent] = False
    label = name not in ("positions", "total_charge", "cell")
    if allow_missing and label:
        bad &= ~np.isnan(array)
    any_bad = np.asarray(bad.reshape(len(bad), -1).any(axis=1))
    rows = (
        _first_atoms(molecules, any_bad)
        if field.per_atom
        else ((int(place), None, int(place)) for place in np.flatnonzero(any_bad))
    )
    for place, atom, index in rows:
        advice = "correct or remove the molecule"
        if label and np.isnan(array[index]).any():
            advice += ", or say --allow-missing if this label is missing there"
        value = np.asarray(array[index]).tolist()
        yield place, atom, f"{name} is {value}; {advice}", label


def _wrong_states(molecules: Molecules) -> Iterator[_Finding]:
    """Whole charges and multiplicities that the electrons allow."""
    values = molecules.values
    charge = values["total_charge"].astype(np.float64)
    spin = values.get("spin_multiplicity", np.full(len(charge), np.nan))
    spin = spin.astype(np.float64)
    first = np.cumsum(molecules.n_atoms) - molecules.n_atoms
    protons = np.add.reduceat(values["atomic_numbers"].astype(np.int64), first)
    electrons = protons - charge
    unknown = np.isnan(spin)
    whole = np.rint(charge) == charge
    finite = np.where(np.isfinite(spin), spin, 0.0)
    whole_spin = unknown | ((np.rint(finite) == finite) & (finite >= 1))
    fine = whole & whole_spin & (electrons >= 0)
    fine &= unknown | ((finite - 1 <= electrons) & ((electrons - finite) % 2 == 1))
    for place in np.flatnonzero(~fine):
        begin = first[place]
        numbers = values["atomic_numbers"][begin : begin + molecules.n_atoms[place]]
        lowest = 1 + int(electrons[place]) % 2
        multiplicity = lowest if unknown[place] else spin[place]
        try:
            check_possible(numbers, ElectronicState(charge[place], multiplicity))
        except ValueError as error:
            reason = f"{error}; correct or remove the molecule"
            yield int(place), None, reason, bool(whole[place] and whole_spin[place])


def _close_atoms(molecules: Molecules, shortest: Array) -> Iterator[_Finding]:
    """Two atoms on top of each other: float32 finds candidates, float64 decides."""
    sizes, positions = molecules.n_atoms, molecules.values["positions"]
    first = np.cumsum(sizes) - sizes
    for place in np.flatnonzero(~(shortest >= MIN_DISTANCE + _MARGIN)):  # NaN too
        begin = first[place]
        distance, atom = closest_pair(positions[begin : begin + sizes[place]])
        if distance < MIN_DISTANCE:
            yield _close(int(place), atom, distance)


def _close_images(molecules: Molecules) -> Iterator[_Finding]:
    pbc = molecules.values.get("pbc")
    if pbc is None:
        return
    sizes = molecules.n_atoms
    first = np.cumsum(sizes) - sizes
    for place in np.flatnonzero(pbc.astype(bool).any(axis=1)):
        local = molecules.values["positions"][first[place] :][: sizes[place]]
        distance, atom = closest_image(
            local, molecules.values["cell"][place], pbc[place]
        )
        if distance < MIN_DISTANCE:
            yield _close(int(place), atom, distance)


def _close(place: int, atom: int, distance: float) -> _Finding:
    reason = (
        f"another atom is {distance:.3f} Å away, closer than {MIN_DISTANCE} Å; check "
        "the length unit, remove the molecule"
    )
    return place, atom, reason, True


def _first_atoms(molecules: Molecules, bad: Array) -> Iterator[tuple[int, int, int]]:
    """Molecule, its first bad atom, and that atom's index among all atoms."""
    atoms = np.flatnonzero(bad)
    ends = np.cumsum(molecules.n_atoms)
    owners = np.searchsorted(ends, atoms, side="right")
    places, firsts = np.unique(owners, return_index=True)
    for place, first in zip(places.tolist(), firsts.tolist(), strict=True):
        index = int(atoms[first])
        yield place, index - int(ends[place] - molecules.n_atoms[place]), index
