"""Reference energies E_ref = Σ e[Z] + c[Q, M]: fitted, stored and applied here only.

c[0, 1] = 0 by definition, whether a model has seen neutral singlets or not. A state
without a constant of its own takes that of the seen state nearest in spin at the same
charge, and 0 where no state of that charge was seen.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physnet_ase.graph import Graph
from physnet_ase.molecules import Molecules
from physnet_ase.state import ElectronicState

Array = NDArray[np.float64]

_NUMBERS = 119  # rows of the table of elements
_SHIFT = 1 << 20  # beyond any multiplicity
_FIRST_ROWS = 4096  # molecules behind the first solution
_DEPENDENT = 1e-13  # of the largest eigenvalue: combinations that no molecule shows
NEUTRAL_SINGLET = ElectronicState(0, 1)


class References:
    """Energies of free atoms in molecules, and constants of electronic states.

    Attributes:
        element_energies: Atomic number -> e[Z] in eV.
        state_energies: State seen -> c[Q, M] in eV.
        state_counts: State seen -> molecules in the training data.
    """

    def __init__(
        self,
        element_energies: Mapping[int, float],
        state_energies: Mapping[ElectronicState, float],
        state_counts: Mapping[ElectronicState, int] | None = None,
    ) -> None:
        self.element_energies = dict(element_energies)
        self.state_energies = dict(state_energies)
        self.state_counts = dict(state_counts or {})

    @cached_property
    def _table(self) -> Array:
        table = np.full(_NUMBERS, np.nan)
        for number, energy in self.element_energies.items():
            table[number] = energy
        table[0] = 0.0  # padding
        return table

    def constant(self, state: ElectronicState) -> float:
        """c[Q, M] in eV, for a state not seen that of the nearest one."""
        if state in self.state_energies:
            return self.state_energies[state]
        if state == NEUTRAL_SINGLET:
            return 0.0
        near = [seen for seen in self.state_energies if seen.charge == state.charge]
        if not near:
            return 0.0
        closest = min(near, key=lambda s: abs(s.multiplicity - state.multiplicity))
        return self.state_energies[closest]

    def constants(
        self, charge: NDArray[np.generic], spin: NDArray[np.generic]
    ) -> Array:
        """c[Q, M] of each molecule in eV, [molecules]."""
        # One integer per state sorts several times faster than rows of two.
        codes = charge.astype(np.int64) * _SHIFT + spin.astype(np.int64)
        unique, which = np.unique(codes, return_inverse=True)
        pairs = (divmod(code, _SHIFT) for code in unique.tolist())
        found = [self.constant(ElectronicState(*pair)) for pair in pairs]
        return np.array(found, np.float64)[which.reshape(-1)]

    def of_atoms(self, numbers: NDArray[np.generic], state: ElectronicState) -> Array:
        """Per-atom references of one molecule in eV, [atoms]; c is shared evenly."""
        elements: Array = self._table[np.asarray(numbers)]
        return elements + self.constant(state) / len(elements)

    def of_molecules(
        self,
        numbers: NDArray[np.generic],
        owner: NDArray[np.generic],
        charge: NDArray[np.generic],
        spin: NDArray[np.generic],
    ) -> Array:
        """References of many molecules in eV, [molecules].

        Args:
            numbers: [atoms] atomic numbers, 0 for padding.
            owner: [atoms] the molecule of each.
            charge: [molecules] e.
            spin: [molecules] 2S+1.
        """
        total = np.bincount(owner, self._table[numbers], minlength=len(charge))
        return total + self.constants(charge, spin)

    @classmethod
    def fit(
        cls,
        batches: Iterable[Molecules],
        elements: Iterable[int],
        states: Mapping[ElectronicState, int],
        *,
        additive: bool = False,
    ) -> "tuple[References, float]":
        """Least squares over molecules, minimum norm when rank-deficient.

        Molecules whose energy is missing (NaN) do not take part, but their states count
        as seen.

        Args:
            batches: Molecules with energies.
            elements: Every atomic number that comes.
            states: Every state that comes -> number of its molecules.
            additive: Constants that far fragments add up to: c[Q, M] = a max(Q, 0) +
                b max(-Q, 0) + d 2S instead of one number for each state.

        Returns:
            The references, and the root mean square of what they leave over, in eV per
            atom.

        Raises:
            ValueError: No molecule has an energy.
        """
        fit = ReferenceFit([Seen(set(elements), dict(states))], additive)
        for batch in batches:
            fit.add(batch)
        return fit.references()[0], fit.residual_per_atom()


def without_references(graph: Graph, references: Sequence[References]) -> Graph:
    """The graph with references taken off its energy labels, now float32-safe.

    Args:
        graph: With labels.
        references: Those of each level of theory.

    Raises:
        ValueError: The graph has no labels.
    """
    if graph.labels is None:
        raise ValueError("the graph has no labels; use PackedMemmapLoader.graphs()")
    labels = dict(graph.labels.values)
    if "energy" in labels:
        totals = [
            each.of_molecules(
                graph.atomic_numbers,
                graph.molecule_index,
                graph.total_charge,
                graph.spin_multiplicity,
            )
            for each in references
        ]
        total = totals[0]
        if graph.level is not None and len(references) > 1:
            total = np.stack(totals)[graph.level, np.arange(len(total))]
        labels["energy"] = (labels["energy"] - total).astype(np.float32)
    return graph._replace(labels=graph.labels._replace(values=labels))


class Seen(NamedTuple):
    """What the molecules of one level of theory hold."""

    elements: Collection[int]
    states: Mapping[ElectronicState, int]  # -> number of molecules


class ReferenceFit:
    """Least squares with molecules added in any number of batches.

    Every level of theory has energies of elements of its own. Constants of states are
    common to all: what it takes to remove an electron hardly depends on the level, and
    a level with few states takes them from one with many.

    Sums of products are kept, which have the size of the unknowns. Those of the counts
    are whole numbers and exact. The energies enter less a first solution, so that of
    thousands of eV a few remain, and the squared condition number of normal equations
    costs no digits that matter.

    Args:
        levels: What each level of theory holds.
        additive: See ``References.fit``.
    """

    def __init__(self, levels: Sequence[Seen], additive: bool) -> None:
        self._levels = levels
        self._columns = [  # level and atomic number of each column of elements
            (level, number)
            for level, seen in enumerate(levels)
            for number in sorted(seen.elements)
        ]
        self._column_of = np.zeros((len(levels), _NUMBERS), np.int64)
        for column, place in enumerate(self._columns):
            self._column_of[place] = column
        counts = sorted({state for seen in levels for state in seen.states})
        # What each state counts in the columns of the constants.
        if additive:
            self._design = {
                s: np.array([max(s.charge, 0), max(-s.charge, 0), s.multiplicity - 1.0])
                for s in counts
            }
        else:
            fitted = [state for state in counts if state != NEUTRAL_SINGLET]
            unit = np.vstack([np.eye(len(fitted)), np.zeros(len(fitted))])
            self._design = {
                s: unit[fitted.index(s) if s in fitted else -1] for s in counts
            }
        constants = len(next(iter(self._design.values()))) if counts else 0
        width = len(self._columns) + constants + 1  # the last column is the energy
        self._products = np.zeros((width, width))
        self._per_atom = np.zeros((width, width))
        self._first: Array | None = None
        self._rows = 0

    def add(self, batch: Molecules) -> None:
        """Let molecules with an energy take part."""
        batch = batch.keep(np.isfinite(batch.values["energy"]))
        count, width = len(batch), len(self._columns)
        if count == 0:
            return
        energies = batch.values["energy"].astype(np.float64)
        rows = np.zeros((count, len(self._products)))
        cells = batch.owner.astype(np.int64) * width
        several = len(self._levels) > 1
        level = batch.values["level"] if several else np.zeros(count, np.int64)
        cells += self._column_of[level[batch.owner], batch.values["atomic_numbers"]]
        counts = np.bincount(cells, minlength=count * width)
        rows[:, :width] = counts.reshape(count, width)
        charge = batch.values["total_charge"].astype(np.int64)
        spin = batch.values["spin_multiplicity"].astype(np.int64)
        for state, counts_of_state in self._design.items():
            mine = (charge == state.charge) & (spin == state.multiplicity)
            rows[mine, width:-1] = counts_of_state
        if self._first is None:
            some = rows[:_FIRST_ROWS, :-1]
            first = np.linalg.lstsq(some, energies[:_FIRST_ROWS], rcond=None)[0]
            self._first = np.asarray(first, np.float64)
        rows[:, -1] = energies - rows[:, :-1] @ np.asarray(self._first)
        self._rows += count
        self._products += rows.T @ rows
        rows /= batch.n_atoms[:, None]
        self._per_atom += rows.T @ rows

    def references(self) -> list[References]:
        """The solution for all that was added, for each level."""
        solution, width = self._solve(), len(self._columns)
        constants = {
            state: float(counts @ solution[width:])
            for state, counts in self._design.items()
        }
        energies: list[dict[int, float]] = [{} for _ in self._levels]
        for (level, number), energy in zip(
            self._columns, solution[:width].tolist(), strict=True
        ):
            energies[level][number] = energy
        return [
            References(own, {s: constants[s] for s in sorted(seen.states)}, seen.states)
            for own, seen in zip(energies, self._levels, strict=True)
        ]

    def residual_per_atom(self) -> float:
        """Root mean square of what is left over, in eV per atom."""
        solution = self._solve()
        left = np.append(np.asarray(self._first) - solution, 1.0)
        return float(np.sqrt(max(left @ self._per_atom @ left, 0.0) / self._rows))

    def _solve(self) -> Array:
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
