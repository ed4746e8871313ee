"""Reference energies per element and state by least squares in float64."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from physnet_ase.state import ElectronicState
from physnet_training.distinct_states import distinct_states

_FIRST_ROWS = 4096  # molecules behind the first solution
_DEPENDENT = 1e-13  # of the largest eigenvalue: combinations that no molecule shows


class References(NamedTuple):
    """E_ref = Σ e[Z] + c[Q, M], with c[0, 1] = 0."""

    element_energies: dict[int, float]  # eV per atomic number
    state_energies: dict[ElectronicState, float]  # eV
    state_counts: dict[ElectronicState, int]

    def energies(
        self, composition: np.ndarray, elements: np.ndarray, states: np.ndarray
    ) -> np.ndarray:
        """Reference of each molecule in eV, float64.

        Args:
            composition: (molecules, elements) counts of atoms.
            elements: Atomic numbers of the columns.
            states: (molecules, 2) charge and multiplicity.
        """
        per_element = np.array([self.element_energies[int(z)] for z in elements])
        constants = np.array(
            [self.state_energies[ElectronicState(*row)] for row in states.tolist()]
        )
        return composition @ per_element + constants


class ReferenceFit:
    """Least squares for the references, molecules added in any number of pieces.

    Sums of products are kept, which have the size of the unknowns. Those of the counts
    are whole numbers and exact. The energies enter less a first solution, so that of
    thousands of eV a few remain, and the squared condition number of normal equations
    costs no digits that matter.

    Args:
        elements: Atomic numbers, the columns of the compositions.
        states: Every state that will come -> number of its molecules.
    """

    def __init__(
        self, elements: np.ndarray, states: Mapping[ElectronicState, int]
    ) -> None:
        self._elements = elements
        self._counts = dict(sorted(states.items()))
        fitted = [s for s in self._counts if s != ElectronicState(0, 1)]
        self._column = {state: place for place, state in enumerate(fitted)}
        width = len(elements) + len(fitted) + 1  # the last column is the energy
        self._products = np.zeros((width, width))
        self._per_atom = np.zeros((width, width))
        self._first: np.ndarray | None = None
        self._rows = 0

    def add(
        self, energies: np.ndarray, composition: np.ndarray, states: np.ndarray
    ) -> None:
        """Add molecules; those whose energy is missing (NaN) do not take part.

        Args:
            energies: (molecules,) total energies in eV, float64.
            composition: (molecules, elements) counts of atoms.
            states: (molecules, 2) integer charge and multiplicity.
        """
        known = np.isfinite(energies)
        energies, composition, states = (
            energies[known],
            composition[known],
            states[known],
        )
        if len(energies) == 0:
            return
        rows = np.zeros((len(energies), len(self._products)))
        rows[:, : len(self._elements)] = composition
        unique, which, _ = distinct_states(*states.T)
        place = [self._column.get(ElectronicState(*s), -1) for s in unique.tolist()]
        column = np.array(place)[which]
        charged = np.flatnonzero(column >= 0)
        rows[charged, len(self._elements) + column[charged]] = 1.0
        if self._first is None:
            some = rows[:_FIRST_ROWS, :-1]
            self._first = np.linalg.lstsq(some, energies[:_FIRST_ROWS], rcond=None)[0]
        rows[:, -1] = energies - rows[:, :-1] @ self._first
        self._rows += len(rows)
        self._products += rows.T @ rows
        rows /= composition.sum(axis=1, keepdims=True)
        self._per_atom += rows.T @ rows

    def references(self) -> References:
        """The solution of minimum norm.

        Raises:
            ValueError: No molecule has an energy.
        """
        solution = self._solve()
        count = len(self._elements)
        constants = {
            state: float(solution[count + self._column[state]])
            if state in self._column
            else 0.0
            for state in self._counts
        }
        return References(
            {
                int(z): float(e)
                for z, e in zip(self._elements, solution[:count], strict=True)
            },
            constants,
            dict(self._counts),
        )

    def residual_per_atom(self) -> float:
        """Root mean square of what the references leave over, in eV per atom."""
        solution = self._solve()
        left = np.append(self._first - solution, 1.0)
        return float(np.sqrt(max(left @ self._per_atom @ left, 0.0) / self._rows))

    def _solve(self) -> np.ndarray:
        if self._first is None:
            raise ValueError(
                "no training molecule has an energy; convert data with energy labels"
            )
        values, vectors = np.linalg.eigh(self._products[:-1, :-1])
        kept = values > _DEPENDENT * values[-1]
        values, vectors = values[kept], vectors[:, kept]
        # What the molecules do not determine must be zero in the first solution too.
        change = (vectors.T @ self._products[:-1, -1]) / values
        return vectors @ (vectors.T @ self._first + change)


def fit_references(
    energies: np.ndarray,
    composition: np.ndarray,
    elements: np.ndarray,
    states: np.ndarray,
) -> References:
    """Fit e[Z] and c[Q, M] to total energies; minimum norm when rank-deficient.

    Molecules whose energy is missing (NaN) do not take part, but their states count
    as seen.

    Args:
        energies: (molecules,) total energies in eV, float64.
        composition: (molecules, elements) counts of atoms.
        elements: Atomic numbers of the columns.
        states: (molecules, 2) integer charge and multiplicity.

    Raises:
        ValueError: No molecule has an energy.
    """
    unique, _, counts = distinct_states(*states.T)
    pairs = zip(unique.tolist(), counts.tolist(), strict=True)
    fit = ReferenceFit(elements, {ElectronicState(*s): n for s, n in pairs})
    fit.add(energies, composition, states)
    return fit.references()
