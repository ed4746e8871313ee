"""Reference energies per element and state by least squares in float64."""

from typing import NamedTuple

import numpy as np

from physnet_ase.state import ElectronicState


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
    labelled = np.isfinite(energies)
    if not labelled.any():
        raise ValueError(
            "no training molecule has an energy; convert data with energy labels"
        )
    unique, row_state, counts = np.unique(
        states, axis=0, return_inverse=True, return_counts=True
    )
    seen = [ElectronicState(*row) for row in unique.tolist()]
    fitted = [i for i, s in enumerate(seen) if s != ElectronicState(0, 1)]
    indicator = (row_state.reshape(-1, 1) == np.array(fitted, int)).astype(np.float64)
    design = np.concatenate([composition.astype(np.float64), indicator], axis=1)
    solution = np.linalg.lstsq(design[labelled], energies[labelled], rcond=None)[0]
    constants = dict.fromkeys(seen, 0.0)
    for column, index in enumerate(fitted):
        constants[seen[index]] = float(solution[len(elements) + column])
    return References(
        {int(z): float(e) for z, e in zip(elements, solution, strict=False)},
        constants,
        {state: int(count) for state, count in zip(seen, counts, strict=True)},
    )
