"""What no dataset may hold; every message names the molecule and what to do."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.quantities import QUANTITIES
from physnet_ase.state import ElectronicState, check_possible, signed
from physnet_training.audit.distances import (
    closest_image,
    closest_pair,
    shortest_distances,
)

Array = NDArray[Any]

MIN_DISTANCE = 0.1
"""Å; atoms closer than this are a mistake in the data."""
MIN_CELL = 1.2
"""Å between a periodic structure and its image; bond lengths in chains begin there."""
SUM_TOLERANCE = 5e-3
"""e: what the rounding of atomic charges may add up to."""
ProblemKind = Literal["element", "number", "state", "charges", "cell", "distance"]
_MARGIN = 1e-3  # Å; what float32 may be wrong by, float64 decides inside it
_MAX_VALUE = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Problem:
    """One thing that makes a molecule unusable.

    Attributes:
        kind: What is wrong.
        place: Index of the molecule in its batch.
        row: Its 0-based number in the source.
        reason: A message that names the molecule, the value and what to do.
        keepable: Whether a dataset can hold the molecule all the same: a label that
            is not finite can be stored as missing, atoms too close and an impossible
            state of whole numbers can be stored as they are. An unknown element, a
            geometry or a charge that is not finite, and states that are no whole
            numbers cannot.
    """

    kind: ProblemKind
    place: int
    row: int
    reason: str
    keepable: bool


@dataclass(frozen=True)
class _Finding:
    """A problem before it has a name: molecule and, where it is one's, atom."""

    kind: ProblemKind
    place: int
    reason: str
    keepable: bool = True
    atom: int | None = None


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
    for finding in _elements_and_numbers(molecules, allow_missing):
        _note(found, molecules, finding, finding.place)
    # Where elements or positions are no numbers, states and distances mean nothing.
    sound = np.ones(len(molecules), dtype=bool)
    sound[[p.place for p in found.values() if not p.keepable]] = False
    rest = molecules.keep(sound)
    if len(rest):
        places = np.flatnonzero(sound)
        if shortest is None:
            shortest = shortest_distances(rest.n_atoms, rest.values["positions"])
        else:
            shortest = shortest[sound]
        for finding in _states_and_distances(rest, shortest):
            _note(found, molecules, finding, int(places[finding.place]))
    return [found[place] for place in sorted(found)]


def charge_sums(molecules: Molecules) -> Array:
    """Whole sums of the atomic charges, NaN where there is none. [molecules] e."""
    if "charges" not in molecules.values:
        return np.full(len(molecules), np.nan)
    charges = molecules.values["charges"].astype(np.float64)
    with np.errstate(invalid="ignore"):
        sums = np.add.reduceat(charges, molecules.first_atom)
        whole = np.abs(sums - np.rint(sums)) < SUM_TOLERANCE
    return np.where(whole, np.rint(sums), np.nan)


def _elements_and_numbers(
    molecules: Molecules, allow_missing: bool
) -> Iterator[_Finding]:
    yield from _wrong_elements(molecules)
    for name, array in molecules.values.items():
        if array.dtype.kind == "f" and name != "spin_multiplicity":
            yield from _not_finite(molecules, name, allow_missing)


def _states_and_distances(molecules: Molecules, shortest: Array) -> Iterator[_Finding]:
    yield from _wrong_states(molecules)
    yield from _wrong_charge_sums(molecules)
    yield from _wrong_cells(molecules)
    yield from _close_atoms(molecules, shortest)
    yield from _close_images(molecules)


def _note(
    found: dict[int, Problem], molecules: Molecules, finding: _Finding, place: int
) -> None:
    """Keep the first thing found of a molecule, of all the first not keepable."""
    known = found.get(place)
    if known is not None and (not known.keepable or finding.keepable):
        return
    row = int(molecules.rows[place])
    name = f"molecule {row}"
    if finding.atom is not None:
        name += f", atom {finding.atom}"
    reason = f"{name} (0-based): {finding.reason}"
    found[place] = Problem(finding.kind, place, row, reason, finding.keepable)


def _wrong_elements(molecules: Molecules) -> Iterator[_Finding]:
    numbers = molecules.values["atomic_numbers"]
    whole = numbers.dtype.kind in "iu"
    if whole and numbers.min() >= 1 and numbers.max() <= 118:
        return
    wrong: Array = (numbers < 1) | (numbers > 118) | (np.rint(numbers) != numbers)
    for place, atom, index in _first_atoms(molecules, wrong):
        reason = (
            f"unknown element, atomic number {numbers[index]}; allowed are 1 to 118"
        )
        yield _Finding("element", place, reason, keepable=False, atom=atom)


def _not_finite(
    molecules: Molecules, name: str, allow_missing: bool
) -> Iterator[_Finding]:
    """NaN and infinity, and values that would become infinite on disk."""
    array, quantity = molecules.values[name], QUANTITIES[name]
    limit = np.inf if quantity.dtype == "<f8" else _MAX_VALUE
    if not array.size or (array.min() > -limit and array.max() < limit):
        return  # NaN fails both comparisons
    bad: Array = ~(np.abs(array) < limit)
    absent = molecules.absent.get(name)
    if absent is not None and absent.any():
        bad[np.repeat(absent, molecules.n_atoms) if quantity.per_atom else absent] = (
            False
        )
    label = name not in ("positions", "total_charge", "cell")
    if allow_missing and label:
        bad &= ~np.isnan(array)
    any_bad = np.asarray(bad.reshape(len(bad), -1).any(axis=1))
    rows = (
        _first_atoms(molecules, any_bad)
        if quantity.per_atom
        else ((int(place), None, int(place)) for place in np.flatnonzero(any_bad))
    )
    for place, atom, index in rows:
        advice = "correct or remove the molecule"
        if label and np.isnan(array[index]).any():
            advice += ", or say --allow-missing if this label is missing there"
        value = np.asarray(array[index]).tolist()
        reason = f"{name} is {value}; {advice}"
        yield _Finding("number", place, reason, label, atom)


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
            keepable = bool(whole[place] and whole_spin[place])
            yield _Finding("state", int(place), reason, keepable)


def _wrong_charge_sums(molecules: Molecules) -> Iterator[_Finding]:
    """Atomic charges that sum to a whole number other than the total charge."""
    charge = molecules.values["total_charge"].astype(np.float64)
    sums = charge_sums(molecules)
    for place in np.flatnonzero(
        np.isfinite(sums) & (sums != charge) & np.isfinite(charge)
    ).tolist():
        yield _Finding(
            "charges",
            place,
            f"the atomic charges sum to {signed(int(sums[place]))}, but the total "
            f"charge is {signed(int(charge[place]))}; correct one of them, name the "
            "key of the total charge with --key total_charge=NAME, or leave the atomic "
            "charges out with --ignore",
        )


def _wrong_cells(molecules: Molecules) -> Iterator[_Finding]:
    """Periodic directions without independent vectors, or thinner than any bond."""
    periodic = np.flatnonzero(molecules.periodic)
    if not len(periodic):
        return
    pbc = np.asarray(molecules.values["pbc"]).astype(bool)
    if "cell" not in molecules.values:
        for place in periodic.tolist():
            reason = "it is periodic but has no cell; store one, or no periodicity"
            yield _Finding("cell", place, reason, keepable=False)
        return
    for place in periodic.tolist():
        cell = np.asarray(molecules.values["cell"][place], dtype=np.float64)
        vectors = cell[pbc[place]]
        if not np.isfinite(vectors).all() or np.linalg.matrix_rank(vectors) < len(
            vectors
        ):
            reason = (
                f"it is periodic in {len(vectors)} directions, but its cell "
                f"{cell.tolist()} has not as many independent vectors; correct the "
                "cell, or say that it is not periodic"
            )
            yield _Finding("cell", place, reason, keepable=False)
            continue
        # Distance between lattice planes: what an image is away at least.
        width = float(1.0 / np.linalg.norm(np.linalg.pinv(vectors), axis=0).max())
        if width < MIN_CELL:
            reason = (
                f"its periodic cell is {width:.3g} Å thin, thinner than {MIN_CELL} Å, "
                "so that every atom sits on its image; check the length unit and the "
                "cell"
            )
            yield _Finding("cell", place, reason)


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
    sizes, first = molecules.n_atoms, molecules.first_atom
    for place in np.flatnonzero(molecules.periodic):
        cell, pbc = molecules.values.get("cell"), molecules.values["pbc"]
        if cell is None or not np.isfinite(cell[place][pbc[place].astype(bool)]).all():
            continue  # no cell, which is a problem already
        if (
            np.linalg.matrix_rank(cell[place][pbc[place].astype(bool)])
            < pbc[place].astype(bool).sum()
        ):
            continue
        local = molecules.values["positions"][first[place] :][: sizes[place]]
        distance, atom = closest_image(local, cell[place], pbc[place])
        if distance < MIN_DISTANCE:
            yield _close(int(place), atom, distance)


def _close(place: int, atom: int, distance: float) -> _Finding:
    reason = (
        f"another atom is {distance:.3f} Å away, closer than {MIN_DISTANCE} Å; check "
        "the length unit, remove the molecule"
    )
    return _Finding("distance", place, reason, atom=atom)


def _first_atoms(molecules: Molecules, bad: Array) -> Iterator[tuple[int, int, int]]:
    """Molecule, its first bad atom, and that atom's index among all atoms."""
    atoms = np.flatnonzero(bad)
    ends = np.cumsum(molecules.n_atoms)
    owners = np.searchsorted(ends, atoms, side="right")
    places, firsts = np.unique(owners, return_index=True)
    for place, first in zip(places.tolist(), firsts.tolist(), strict=True):
        index = int(atoms[first])
        yield place, index - int(ends[place] - molecules.n_atoms[place]), index
