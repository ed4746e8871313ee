"""Errors of a model on labelled molecules, per charge and multiplicity."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.graph import Graph
from physnet_ase.state import ElectronicState
from physnet_training.distinct_states import distinct_states
from physnet_training.packed import PackedDataset
from physnet_training.packed.reader import parts

Array = NDArray[Any]
Predict = Callable[[Graph], dict[str, Any]]
KINDS = {
    "energy": "ev",
    "energy_per_atom": "ev",
    "forces": "ev_per_angstrom",
    "charges": "e",
}
"""Quantity -> unit in the names of its errors."""
_PICTURED = 20_000  # molecules whose values are kept for pictures


class ReferenceTable:
    """Vectorised E_ref = Σ e[Z] + c[Q, M] for the molecules of a graph."""

    def __init__(
        self,
        element_energies: dict[int, float],
        state_energies: dict[ElectronicState, float],
    ) -> None:
        self._elements = np.zeros(119)
        for number, energy in element_energies.items():
            self._elements[number] = energy
        self._states = state_energies

    def energies(self, graph: Graph) -> Array:
        """References in eV, (molecules,) float64; filler rows are 0."""
        num_molecules = len(graph.total_charge)
        atoms = np.where(graph.atom_mask, self._elements[graph.atomic_numbers], 0.0)
        total = np.bincount(graph.molecule_index, atoms, minlength=num_molecules)
        for row in np.flatnonzero(graph.molecule_mask):
            state = ElectronicState(
                int(graph.total_charge[row]), int(graph.spin_multiplicity[row])
            )
            total[row] += self._states[state]
        return total

    def subtract(self, graph: Graph) -> Graph:
        """The graph with references taken off its energy labels, now float32-safe."""
        labels = graph.labels
        if labels is None:
            raise ValueError("the graph has no labels; use PackedMemmapLoader.graphs()")
        energy = (labels.energy - self.energies(graph)).astype(np.float32)
        return graph._replace(labels=labels._replace(energy=energy))


class ErrorSums:
    """Sums of errors per state; memory does not grow with the molecules."""

    def __init__(self) -> None:
        self._molecules: Counter[tuple[int, int]] = Counter()
        # per state: [kinds, 3] number of errors, sums of their sizes and squares
        self._sums: dict[tuple[int, int], Array] = {}

    def add(self, values: dict[str, Array]) -> None:
        """Add molecules, with values as :class:`Predictions` has them."""
        states, owner, counts = distinct_states(*values["state"].T)
        # atoms follow their molecules, so their states need no search of their own
        of_atoms = np.repeat(owner, values["size"])
        error = values["energy"] - values["energy_label"]
        found = np.zeros((len(KINDS), 3, len(states)))
        for place, (name, owners) in enumerate(
            zip(KINDS, (owner, owner, of_atoms, of_atoms), strict=True)
        ):
            if name == "energy_per_atom":
                error = error / values["size"]
            elif name != "energy":
                error = values[name] - values[f"{name}_label"]
            flat = error.reshape(len(owners), -1)
            known = np.isfinite(flat)
            index = np.broadcast_to(owners[:, None], flat.shape)[known]
            for column, power in enumerate((0, 1, 2)):
                found[place, column] = np.bincount(
                    index, np.abs(flat[known]) ** power, minlength=len(states)
                )
        for place, (q, m) in enumerate(states.tolist()):
            self._molecules[q, m] += int(counts[place])
            self._sums[q, m] = self._sums.get((q, m), 0.0) + found[:, :, place]

    def states(self) -> list[tuple[int, int]]:
        """(charge, multiplicity) of the molecules added, ascending."""
        return sorted(self._sums)

    def row(self, state: tuple[int, int] | None) -> dict[str, Any]:
        """MAE and RMSE of energy (eV), forces (eV/Å) and charges (e) in one state.

        Args:
            state: (charge, multiplicity), or None for all.
        """
        wanted = self.states() if state is None else [state]
        row: dict[str, Any] = {
            "charge": None if state is None else state[0],
            "multiplicity": None if state is None else state[1],
            "molecules": sum(self._molecules[s] for s in wanted),
        }
        total = sum((self._sums[s] for s in wanted), start=np.zeros((len(KINDS), 3)))
        for (name, unit), (count, size, square) in zip(
            KINDS.items(), total.tolist(), strict=True
        ):
            row[f"{name}_mae_{unit}"] = size / count if count else None
            row[f"{name}_rmse_{unit}"] = (square / count) ** 0.5 if count else None
        return row


class Predictions:
    """Errors of predictions, and the values themselves of the first molecules.

    Attributes:
        values: Predicted and reference values in float64, NaN = no label, of the first
            20,000 molecules or a few more: for pictures.
    """

    def __init__(self, graphs: Iterable[Graph], predict: Predict) -> None:
        """Run ``predict`` over ``graphs`` whose energy labels lack the references."""
        self._sums = ErrorSums()
        kept: dict[str, list[Array]] = {}
        molecules = 0
        for graph in graphs:
            values = _values(graph, predict(graph))
            self._sums.add(values)
            if molecules < _PICTURED:
                for name, value in values.items():
                    kept.setdefault(name, []).append(value)
            molecules += len(values["state"])
        if not molecules:
            raise ValueError("no molecule to evaluate")
        self.values = {name: np.concatenate(parts) for name, parts in kept.items()}

    def errors(self) -> list[dict[str, Any]]:
        """One row over all states, then one per state; see :meth:`ErrorSums.row`."""
        return [self._sums.row(state) for state in (None, *self._sums.states())]


def _values(graph: Graph, out: dict[str, Any]) -> dict[str, Array]:
    """Predicted and reference values of a graph without its padding."""
    labels = graph.labels
    if labels is None:
        raise ValueError("the graph has no labels to compare with")
    molecules, atoms = graph.molecule_mask, graph.atom_mask
    count = len(molecules)
    per_atom = np.asarray(out["energies"], np.float64)
    state = np.stack([graph.total_charge, graph.spin_multiplicity], axis=1)
    index = graph.molecule_index[atoms]
    energy = np.bincount(graph.molecule_index, per_atom, minlength=count)
    return {
        "state": state[molecules],
        "size": np.bincount(index, minlength=count)[molecules],
        "energy": energy[molecules],
        "energy_label": np.asarray(labels.energy, np.float64)[molecules],
        "atom_state": state[index],
        "forces": np.asarray(out["forces"], np.float64)[atoms],
        "forces_label": np.asarray(labels.forces, np.float64)[atoms],
        "charges": np.asarray(out["charges"], np.float64)[atoms],
        "charges_label": np.asarray(labels.charges, np.float64)[atoms],
    }


def evaluate_potential(potential: Any, loader: Any) -> Predictions:
    """Predictions of a potential on one epoch of a ``PackedMemmapLoader``.

    Raises:
        ValueError: An element or state that the potential has not seen.
    """
    _check_known(potential, loader.dataset, loader.indices)
    references = ReferenceTable(
        dict(
            zip(
                potential.elements,
                (potential.reference_energy([z], (0, 1)) for z in potential.elements),
                strict=True,
            )
        ),
        {r.state: r.reference_energy for r in potential.metadata.states},
    )
    graphs = map(references.subtract, loader.graphs(potential.config.cutoff))
    return Predictions(graphs, lambda graph: potential.run(graph, "forces"))


def _check_known(potential: Any, dataset: PackedDataset, molecules: Array) -> None:
    """Refuse molecules that the potential does not know, one example of each kind.

    Raises:
        ValueError: An element or state that the potential has not seen.
    """
    for rows in parts(molecules):
        atoms = dataset.atom_rows(rows)
        numbers = dataset.take("atomic_numbers", atoms).astype(np.int64)
        sizes = dataset.n_atoms[rows]
        first = np.cumsum(sizes) - sizes
        unknown = ~np.isin(numbers, potential.elements)
        # parity and range depend on the state and the protons, not on the atoms
        kinds = np.column_stack(
            [
                *dataset.states_of(rows),
                np.add.reduceat(numbers, first),
                np.logical_or.reduceat(unknown, first),
            ]
        )
        for place in np.sort(np.unique(kinds, axis=0, return_index=True)[1]):
            state = ElectronicState(int(kinds[place, 0]), int(kinds[place, 1]))
            mine = slice(first[place], first[place] + sizes[place])
            try:
                potential.check(numbers[mine], state)
            except ValueError as error:
                raise ValueError(
                    f"{dataset.path}, molecule {int(rows[place])}: {error}"
                ) from None
