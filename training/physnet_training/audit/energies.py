"""Total energies: estimates for free atoms, and a linear fit to the data."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.units import HARTREE

Array = NDArray[Any]

_SINGULAR = 1e-11  # relative; smaller eigenvalues are rounding


class Design(NamedTuple):
    """What the energies of some molecules may depend on.

    Attributes:
        keys: One per column: an atomic number, or (charge, multiplicity).
        columns: [molecules, columns] float64 number of atoms, or 1 for the state.
        levels: [molecules] index of the level of theory, -1 where unknown.
    """

    keys: Sequence[Hashable]
    columns: Array
    levels: Array


def make_design(batch: Molecules) -> Design:
    """Composition and state of the molecules of a batch.

    The neutral singlet has no column of its own, as in ``physnet_ase.references``;
    an unknown multiplicity is a state of its own.
    """
    numbers = batch.values["atomic_numbers"]
    present = np.flatnonzero(np.bincount(numbers))
    position = np.zeros(int(numbers.max()) + 1, dtype=np.int64)
    position[present] = np.arange(len(present))
    count, width = len(batch.n_atoms), len(present)
    cells = batch.owner * width + position[numbers]
    composition = np.bincount(cells, minlength=count * width).reshape(count, width)
    spin = batch.values["spin_multiplicity"].astype(np.float64)
    charge = batch.values["total_charge"].astype(np.float64)
    # Complex numbers are sorted as pairs, and much faster than rows of an array.
    spin = np.where(np.isnan(spin), 0.0, spin)
    states, member = np.unique(charge + 1j * spin, return_inverse=True)
    shown = [index for index, state in enumerate(states) if state != 1j]
    indicator = member[:, None] == np.array(shown, dtype=np.int64)
    keys: list[Hashable] = [*present.tolist()]
    keys += [(states[index].real, states[index].imag) for index in shown]
    columns = np.concatenate([composition, indicator], axis=1).astype(np.float64)
    return Design(keys, columns, batch.values["level"].astype(np.int64))


class LinearFit:
    """E = Σ e[Z] + c[Q, M] per level of theory, by least squares in float64.

    Molecules are absorbed into the normal equations, so that memory does not grow with
    their number. The design holds whole numbers: its products are exact. Columns are
    scaled to one length before the equations are solved; where they depend on each
    other the shortest of the scaled solutions is taken.
    """

    def __init__(self) -> None:
        self._order: dict[Hashable, int] = {}
        self._equations: dict[int, tuple[Array, Array]] = {}
        self._solutions: dict[int, Array] = {}

    def add(self, design: Design, energies: Array, chosen: Array) -> None:
        """Take part: the chosen molecules with their energies in eV.

        Args:
            design: Of some molecules.
            energies: [molecules] eV, finite where chosen.
            chosen: [molecules] bool.
        """
        self._solutions.clear()
        for key in design.keys:
            self._order.setdefault(key, len(self._order))
        places = np.array([self._order[key] for key in design.keys], dtype=np.int64)
        width = len(self._order)
        for level in np.unique(design.levels[chosen]).tolist():
            rows = chosen & (design.levels == level)
            columns = design.columns[rows]
            matrix, vector = np.zeros((width, width)), np.zeros(width)
            known = self._equations.get(level)
            if known is not None:
                before = len(known[1])
                matrix[:before, :before], vector[:before] = known
            matrix[np.ix_(places, places)] += columns.T @ columns
            vector[places] += columns.T @ energies[rows]
            self._equations[level] = matrix, vector

    def predict(self, design: Design) -> Array:
        """Energies of the fit; NaN for a level that was not fitted. [molecules] eV."""
        energies = np.full(len(design.levels), np.nan)
        for level in np.unique(design.levels).tolist():
            if level in self._equations:
                rows = design.levels == level
                solution = self._solution(level)
                spread = self._spread(design, rows)
                energies[rows] = spread @ solution[: spread.shape[1]]
        return energies

    def coefficients(self) -> dict[int, dict[Hashable, float]]:
        """Level -> key -> energy in eV."""
        return {
            level: dict(zip(self._order, self._solution(level).tolist(), strict=False))
            for level in self._equations
        }

    def _spread(self, design: Design, rows: Array) -> Array:
        """Columns of the design at their places among all columns known."""
        spread = np.zeros((int(rows.sum()), len(self._order)))
        # A key that was never fitted has no column; its energy counts as zero.
        known = [key in self._order for key in design.keys]
        places = [self._order[key] for key in design.keys if key in self._order]
        spread[:, places] = design.columns[rows][:, known]
        return spread

    def _solution(self, level: int) -> Array:
        if level not in self._solutions:
            matrix, vector = self._equations[level]
            lengths = np.sqrt(np.diag(matrix))
            lengths[lengths == 0] = 1.0
            inverse = np.linalg.pinv(
                matrix / np.outer(lengths, lengths), rcond=_SINGULAR, hermitian=True
            )
            solution = np.zeros(len(self._order))
            solution[: len(vector)] = inverse @ (vector / lengths) / lengths
            self._solutions[level] = solution
        return self._solutions[level]


def atom_energies(atomic_numbers: Array) -> Array:
    """Estimated energy of free atoms with all electrons, within 3 % beyond helium.

    E = −0.768745 Z^(7/3) + Z²/2 − 0.269900 Z^(5/3) hartree: Thomas and Fermi's term,
    Scott's correction and Schwinger's (B.-G. Englert, Semiclassical Theory of Atoms,
    1988). Molecules differ from their atoms by a thousandth of that.

    Args:
        atomic_numbers: [atoms].

    Returns:
        [atoms] eV, negative.
    """
    z = np.arange(int(np.max(atomic_numbers, initial=0)) + 1, dtype=np.float64)
    table = -0.768745 * z ** (7 / 3) + z**2 / 2 - 0.269900 * z ** (5 / 3)
    return HARTREE * table[atomic_numbers]


def molecule_energies(atomic_numbers: Array, starts: Array) -> Array:
    """Sum of ``atom_energies`` over each molecule. [molecules] eV."""
    return np.add.reduceat(atom_energies(atomic_numbers), starts)
