"""Where a proton may sit: placing a hydrogen atom at an atom of a molecule."""

import warnings

import numpy as np
from ase import Atom, Atoms
from ase.data import covalent_radii

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.observables.levels import vertical_energies
from physnet_ase.state import ElectronicState, with_state

_DIRECTIONS = 64
"""Trial directions, some 25 degrees apart."""
_FREE_SPACE = 1.2
"""Covalent bond lengths that the proton keeps from all other atoms."""


def possible_sites(molecule: Atoms) -> list[int]:
    """Atoms heavier than hydrogen; of pure hydrogen all of them."""
    heavy = np.flatnonzero(molecule.numbers > 1)
    return [int(index) for index in (heavy if len(heavy) else range(len(molecule)))]


def protonated(
    molecule: Atoms, site: int, state: ElectronicState, calculator: PhysNetCalculator
) -> Atoms:
    """``molecule`` with one more hydrogen, its last atom, bonded to the atom ``site``.

    It is placed at the covalent bond length in the direction of lowest energy among
    directions spread evenly over the sphere, which are those of no symmetry, so that a
    relaxation does not stay on a ridge.

    Args:
        molecule: The base.
        site: Index of the atom.
        state: State of the protonated molecule.
        calculator: The calculator.

    Raises:
        ValueError: There is no room at the atom.
    """
    lengths = covalent_radii[molecule.numbers] + covalent_radii[1]
    places = molecule.positions[site] + lengths[site] * _sphere()
    gaps = np.linalg.norm(places[:, None] - molecule.positions, axis=2)
    gaps[:, site] = np.inf
    places = places[np.all(gaps > _FREE_SPACE * lengths, axis=1)]
    if not len(places):
        raise ValueError(
            f"{molecule.get_chemical_formula()}: no room for a proton at atom {site} "
            f"({molecule.symbols[site]}); give a protonated structure instead"
        )
    trials = []
    for place in places:
        trial = with_state(molecule, state)
        # Moments and charges of the base are not those of its acid.
        for key in ("initial_magmoms", "initial_charges"):
            trial.arrays.pop(key, None)
        trial.append(Atom("H", place))
        trials.append(trial)
    with warnings.catch_warnings():
        # Most of these places are nowhere near a minimum; the one that is relaxed counts.
        warnings.filterwarnings(
            "ignore", message=".* is unfamiliar", category=UserWarning
        )
        energies = vertical_energies(trials, calculator, [[state]] * len(trials))
    return trials[int(np.argmin(energies))]


def _sphere() -> np.ndarray:
    """Unit vectors spread evenly: the spiral of the golden angle."""
    index = np.arange(_DIRECTIONS) + 0.5
    height = 1.0 - 2.0 * index / _DIRECTIONS
    angle = np.pi * (1.0 + 5.0**0.5) * index
    radius = np.sqrt(1.0 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)
