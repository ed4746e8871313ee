"""What no dataset may hold; every message names the molecule and what to do."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.state import ElectronicState, check_possible
from physnet_training.batching import all_pairs, periodic_pairs
from physnet_training.layout import FIELDS
from physnet_training.molecules import Molecules

Array = NDArray[Any]

MIN_DISTANCE = 0.1
"""Å; atoms closer than this are a mistake in the data."""
_SEARCH = 1.0  # Å; a smaller radius makes the cell list of a periodic search slow
_MAX_PAIRS = 2_000_000  # distances held in memory at once
_MAX_VALUE = float(np.finfo(np.float32).max)


def check_molecules(molecules: Molecules, *, allow_missing: bool) -> None:
    """Raise for the first thing that makes these molecules unusable.

    Args:
        molecules: In internal units; ``total_charge`` must be there.
        allow_missing: Accept NaN in labels as "missing"; infinity never is.

    Raises:
        ValueError: The message starts with the molecule's number in its file.
    """
    _check_elements(molecules)
    _check_finite(molecules, allow_missing)
    _check_states(molecules)
    _check_distances(molecules)


def _check_elements(molecules: Molecules) -> None:
    numbers = molecules.values["atomic_numbers"]
    wrong = (numbers < 1) | (numbers > 118) | (np.rint(numbers) != numbers)
    if wrong.any():
        atom = int(np.argmax(wrong))
        raise ValueError(
            f"{_where(molecules, atom, 'atom')}: unknown element, atomic number "
            f"{numbers[atom]}; allowed are 1 to 118"
        )


def _check_finite(molecules: Molecules, allow_missing: bool) -> None:
    for name, array in molecules.values.items():
        if array.dtype.kind != "f" or name == "spin_multiplicity":
            continue
        # A value that the type on disk cannot hold would become infinite there.
        limit = np.inf if FIELDS[name].dtype == "<f8" else _MAX_VALUE
        bad = ~(np.abs(array) < limit)
        absent = molecules.absent.get(name)
        if absent is not None and absent.any():
            rows = absent
            if FIELDS[name].per_atom:
                rows = np.repeat(absent, molecules.n_atoms)
            bad[rows] = False
        label = name not in ("positions", "total_charge", "cell")
        if allow_missing and label:
            bad &= ~np.isnan(array)
        if bad.any():
            index = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
            kind = "atom" if FIELDS[name].per_atom else "molecule"
            advice = "correct or remove the molecule"
            if label and np.isnan(array[index]).any():
                advice += ", or say --allow-missing if this label is missing there"
            raise ValueError(
                f"{_where(molecules, index, kind)}: {name} is "
                f"{np.asarray(array[index]).tolist()}; {advice}"
            )


def _check_states(molecules: Molecules) -> None:
    """Whole charges and multiplicities that the electrons allow."""
    values = molecules.values
    charge = values["total_charge"].astype(np.float64)
    spin = values.get("spin_multiplicity", np.full(len(charge), np.nan))
    spin = spin.astype(np.float64)
    first = np.cumsum(molecules.n_atoms) - molecules.n_atoms
    protons = np.add.reduceat(values["atomic_numbers"].astype(np.int64), first)
    electrons = protons - charge
    known = ~np.isnan(spin)
    fine = (np.rint(charge) == charge) & (electrons >= 0)
    fine_spin = (np.rint(spin) == spin) & (spin >= 1) & (spin - 1 <= electrons)
    fine_spin &= (electrons - spin) % 2 == 1
    wrong = ~(fine & (fine_spin | ~known))
    if not wrong.any():
        return
    row = int(np.argmax(wrong))
    numbers = values["atomic_numbers"][first[row] : first[row] + molecules.n_atoms[row]]
    advice = "correct or remove the molecule"
    try:
        lowest = 1 + int(electrons[row]) % 2
        multiplicity = spin[row] if known[row] else lowest
        check_possible(numbers, ElectronicState(charge[row], multiplicity))
    except ValueError as error:
        place = _where(molecules, row, "molecule")
        raise ValueError(f"{place}: {error}; {advice}") from error


def _check_distances(molecules: Molecules) -> None:
    """No two atoms on top of each other, images of periodic molecules included."""
    sizes = molecules.n_atoms.astype(np.int64)
    positions = molecules.values["positions"]
    ends = np.cumsum(sizes)
    starts = ends - sizes
    work = np.cumsum(sizes * (sizes - 1))
    begin = 0
    while begin < len(sizes):
        done = work[begin - 1] if begin else 0
        end = max(int(np.searchsorted(work, done + _MAX_PAIRS)), begin + 1)
        senders, receivers = all_pairs(sizes[begin:end])
        local = positions[starts[begin] : ends[end - 1]]
        vectors = local[senders] - local[receivers]
        squared = np.einsum("ij,ij->i", vectors, vectors)
        close = squared < MIN_DISTANCE**2
        if close.any():
            pair = int(np.argmax(close))
            _complain(
                molecules, int(starts[begin]) + receivers[pair], squared[pair] ** 0.5
            )
        begin = end
    pbc = molecules.values.get("pbc")
    if pbc is None:
        return
    for row in np.flatnonzero(pbc.astype(bool).any(axis=1)):
        local = positions[starts[row] : ends[row]]
        cell = molecules.values["cell"][row]
        found = periodic_pairs(local, cell, pbc[row], _SEARCH)
        if found.shifts is None or not len(found.receivers):
            continue
        vectors = local[found.senders] + found.shifts - local[found.receivers]
        distances = np.linalg.norm(vectors, axis=1)
        if distances.min() < MIN_DISTANCE:
            atom = int(found.receivers[int(np.argmin(distances))])
            _complain(molecules, int(starts[row]) + atom, float(distances.min()))


def _complain(molecules: Molecules, atom: int, distance: float) -> None:
    raise ValueError(
        f"{_where(molecules, atom, 'atom')}: another atom is {distance:.3f} Å away, "
        f"closer than {MIN_DISTANCE} Å; check the length unit, remove the molecule"
    )


def _where(molecules: Molecules, index: int, kind: str) -> str:
    """The molecule, and atom, to which a row of an array belongs, counted from 0."""
    if kind == "molecule":
        return f"molecule {int(molecules.rows[index])} (0-based)"
    ends = np.cumsum(molecules.n_atoms)
    owner = int(np.searchsorted(ends, index, side="right"))
    atom = index - int(ends[owner] - molecules.n_atoms[owner])
    return f"molecule {int(molecules.rows[owner])}, atom {atom} (0-based)"
