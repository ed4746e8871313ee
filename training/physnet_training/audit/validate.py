"""What no dataset may hold; every message names the molecule and what to do."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import find_pairs
from physnet_ase.quantities import QUANTITIES
from physnet_ase.state import ElectronicState, check_possible, signed

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
_BLOCK = 8192  # atoms: 0.4 MB of work arrays, measured best of 1,024 to 65,536
_RADIUS = 1.0  # Å; a smaller one makes the cell list of a periodic search slow


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
    for problem in _elements_and_numbers(molecules, allow_missing):
        _note(found, problem)
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
        for problem in _states_and_distances(rest, shortest):
            _note(found, replace(problem, place=int(places[problem.place])))
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
) -> Iterator[Problem]:
    yield from _wrong_elements(molecules)
    for name, array in molecules.values.items():
        if array.dtype.kind == "f" and name != "spin_multiplicity":
            yield from _not_finite(molecules, name, allow_missing)


def _states_and_distances(molecules: Molecules, shortest: Array) -> Iterator[Problem]:
    yield from _wrong_states(molecules)
    yield from _wrong_charge_sums(molecules)
    yield from _wrong_cells(molecules)
    yield from _close_atoms(molecules, shortest)


def _note(found: dict[int, Problem], problem: Problem) -> None:
    """Keep the first thing found of a molecule, of all the first not keepable."""
    known = found.get(problem.place)
    if known is None or (known.keepable and not problem.keepable):
        found[problem.place] = problem


def _problem(
    molecules: Molecules,
    kind: ProblemKind,
    place: int,
    reason: str,
    *,
    keepable: bool = True,
    atom: int | None = None,
) -> Problem:
    """A problem with the molecule's name in front of the reason."""
    row = int(molecules.rows[place])
    name = f"molecule {row}" if atom is None else f"molecule {row}, atom {atom}"
    return Problem(kind, place, row, f"{name} (0-based): {reason}", keepable)


def _wrong_elements(molecules: Molecules) -> Iterator[Problem]:
    numbers = molecules.values["atomic_numbers"]
    whole = numbers.dtype.kind in "iu"
    if whole and numbers.min() >= 1 and numbers.max() <= 118:
        return
    wrong: Array = (numbers < 1) | (numbers > 118) | (np.rint(numbers) != numbers)
    for place, atom, index in _first_atoms(molecules, wrong):
        reason = (
            f"unknown element, atomic number {numbers[index]}; allowed are 1 to 118"
        )
        yield _problem(molecules, "element", place, reason, keepable=False, atom=atom)


def _not_finite(
    molecules: Molecules, name: str, allow_missing: bool
) -> Iterator[Problem]:
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
        yield _problem(molecules, "number", place, reason, keepable=label, atom=atom)


def _wrong_states(molecules: Molecules) -> Iterator[Problem]:
    """Whole charges and multiplicities that the electrons allow."""
    values = molecules.values
    charge = values["total_charge"].astype(np.float64)
    spin = values.get("spin_multiplicity", np.full(len(charge), np.nan))
    spin = spin.astype(np.float64)
    first = molecules.first_atom
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
            yield _problem(molecules, "state", int(place), reason, keepable=keepable)


def _wrong_charge_sums(molecules: Molecules) -> Iterator[Problem]:
    """Atomic charges that sum to a whole number other than the total charge."""
    charge = molecules.values["total_charge"].astype(np.float64)
    sums = charge_sums(molecules)
    for place in np.flatnonzero(
        np.isfinite(sums) & (sums != charge) & np.isfinite(charge)
    ).tolist():
        yield _problem(
            molecules,
            "charges",
            place,
            f"the atomic charges sum to {signed(int(sums[place]))}, but the total "
            f"charge is {signed(int(charge[place]))}; correct one of them, name the "
            "key of the total charge with --key total_charge=NAME, or leave the atomic "
            "charges out with --ignore",
        )


def _wrong_cells(molecules: Molecules) -> Iterator[Problem]:
    """Periodic directions without independent vectors, thin cells, images too close."""
    for place, atoms in _places(molecules, molecules.periodic):
        if "cell" not in molecules.values:
            reason = "it is periodic but has no cell; store one, or no periodicity"
            yield _problem(molecules, "cell", place, reason, keepable=False)
            continue
        pbc = np.asarray(molecules.values["pbc"][place]).astype(bool)
        cell = np.asarray(molecules.values["cell"][place], dtype=np.float64)
        vectors = cell[pbc]
        finite = np.isfinite(vectors).all()
        if not finite or np.linalg.matrix_rank(vectors) < len(vectors):
            reason = (
                f"it is periodic in {len(vectors)} directions, but its cell "
                f"{cell.tolist()} has not as many independent vectors; correct the "
                "cell, or say that it is not periodic"
            )
            yield _problem(molecules, "cell", place, reason, keepable=False)
            continue
        # Distance between lattice planes: what an image is away at least.
        width = float(1.0 / np.linalg.norm(np.linalg.pinv(vectors), axis=0).max())
        if width < MIN_CELL:
            reason = (
                f"its periodic cell is {width:.3g} Å thin, thinner than {MIN_CELL} Å, "
                "so that every atom sits on its image; check the length unit and the "
                "cell"
            )
            yield _problem(molecules, "cell", place, reason)
        positions = molecules.values["positions"][atoms]
        yield from _too_close(molecules, place, *_closest_image(positions, cell, pbc))


def _close_atoms(molecules: Molecules, shortest: Array) -> Iterator[Problem]:
    """Two atoms on top of each other: float32 finds candidates, float64 decides."""
    close = ~(shortest >= MIN_DISTANCE + _MARGIN)  # NaN too
    for place, atoms in _places(molecules, close):
        positions = molecules.values["positions"][atoms]
        yield from _too_close(molecules, place, *closest_pair(positions))


def _too_close(
    molecules: Molecules, place: int, distance: float, atom: int
) -> Iterator[Problem]:
    if distance < MIN_DISTANCE:
        reason = (
            f"another atom is {distance:.3f} Å away, closer than {MIN_DISTANCE} Å; "
            "check the length unit, remove the molecule"
        )
        yield _problem(molecules, "distance", place, reason, atom=atom)


def _places(molecules: Molecules, chosen: Array) -> Iterator[tuple[int, slice]]:
    """Chosen molecules, each with the rows of its atoms."""
    ends = np.cumsum(molecules.n_atoms, dtype=np.int64)
    for place in np.flatnonzero(chosen).tolist():
        end = int(ends[place])
        yield place, slice(end - int(molecules.n_atoms[place]), end)


def _first_atoms(molecules: Molecules, bad: Array) -> Iterator[tuple[int, int, int]]:
    """Molecule, its first bad atom, and that atom's index among all atoms."""
    atoms = np.flatnonzero(bad)
    ends = np.cumsum(molecules.n_atoms)
    owners = np.searchsorted(ends, atoms, side="right")
    places, firsts = np.unique(owners, return_index=True)
    for place, first in zip(places.tolist(), firsts.tolist(), strict=True):
        index = int(atoms[first])
        yield place, index - int(ends[place] - molecules.n_atoms[place]), index


def shortest_distances(sizes: Array, positions: Array) -> Array:
    """Distance between the two closest atoms of each molecule, images left out.

    Molecules of one size are treated together: for each shift k, atom i is compared
    with atom i+k, so that all arithmetic runs over contiguous float32 rows. Rounding
    makes distances uncertain by 1e-7 of the molecule's extent.

    Args:
        sizes: [molecules] number of atoms, at least 1.
        positions: [atoms, 3] Å, any float type.

    Returns:
        [molecules] float32 Å; infinite for single atoms, NaN where the positions are
        too large for float32.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    shortest = np.full(len(sizes), np.inf, dtype=np.float32)
    coordinates = np.ascontiguousarray(np.asarray(positions).T)
    order = np.argsort(sizes, kind="stable")
    bounds = np.flatnonzero(np.diff(sizes[order], prepend=0, append=0))
    for begin, end in pairwise(bounds.tolist()):
        size = int(sizes[order[begin]])
        if size == 1:
            continue
        step = max(_BLOCK // size, 1)
        for first in range(begin, end, step):
            rows = order[first : min(first + step, end)]
            atoms = starts[rows] + np.arange(size)[:, None]
            shortest[rows] = _shortest(coordinates.take(atoms, axis=1))
    return shortest


def _shortest(block: Array) -> Array:
    """Shortest distances of molecules of one size, [3, atoms, molecules] Å."""
    size = block.shape[1]
    # Values beyond float32 end as infinity or NaN, which the caller sees.
    with np.errstate(over="ignore", invalid="ignore"):
        flat = (block - block[:, :1]).astype(np.float32, copy=False)
        twice = np.concatenate([flat, flat], axis=1)
        vectors = np.empty_like(flat)
        best = np.full(flat.shape[1:], np.inf, dtype=np.float32)
        for shift in range(1, size // 2 + 1):
            np.subtract(twice[:, shift : shift + size], flat, out=vectors)
            np.multiply(vectors, vectors, out=vectors)
            squared = vectors[0]
            squared += vectors[1]
            squared += vectors[2]
            np.minimum(best, squared, out=best)
    return np.sqrt(best.min(axis=0))


def closest_pair(positions: Array) -> tuple[float, int]:
    """Distance in float64 between the two closest atoms of one molecule.

    Args:
        positions: [atoms, 3] Å, at least two atoms.

    Returns:
        The distance in Å, and the lower index of the two atoms.
    """
    points = np.asarray(positions, dtype=np.float64)
    best, atom = np.inf, 0
    for index in range(len(points) - 1):
        vectors = points[index + 1 :] - points[index]
        distance = float(np.sqrt(np.einsum("ij,ij->i", vectors, vectors).min()))
        if distance < best:
            best, atom = distance, index
    return best, atom


def _closest_image(positions: Array, cell: Array, pbc: Array) -> tuple[float, int]:
    """As ``closest_pair``, images included; infinite where none is within 1 Å."""
    structure = Molecules(
        np.array([len(positions)], np.int32),
        {"positions": positions, "cell": cell[None], "pbc": pbc[None]},
        np.zeros(1, np.int64),
    )
    pairs = find_pairs(structure, _RADIUS)
    if not len(pairs.receivers):
        return np.inf, 0
    distances = np.linalg.norm(pairs.vectors(positions), axis=1)
    pair = int(np.argmin(distances))
    return float(distances[pair]), int(pairs.receivers[pair])
