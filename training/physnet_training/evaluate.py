"""Errors of a model on labelled molecules, per charge and multiplicity."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.graph import Graph
from physnet_ase.state import ElectronicState

Array = NDArray[Any]
Predict = Callable[[Graph], dict[str, Any]]
COLLECTED = (
    "state",
    "size",
    "energy",
    "energy_label",
    "atom_state",
    "forces",
    "forces_label",
    "charges",
    "charges_label",
)


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


class Predictions:
    """Predicted and reference values of a set of molecules, float64, NaN = no label."""

    def __init__(self, graphs: Iterable[Graph], predict: Predict) -> None:
        """Run ``predict`` over ``graphs`` whose energy labels lack the references."""
        rows: dict[str, list[Array]] = {name: [] for name in COLLECTED}
        for graph in graphs:
            labels = graph.labels
            if labels is None:
                raise ValueError("the graph has no labels to compare with")
            out = predict(graph)
            molecules, atoms = graph.molecule_mask, graph.atom_mask
            per_atom = np.asarray(out["energies"], np.float64)
            count = len(molecules)
            energy = np.bincount(graph.molecule_index, per_atom, minlength=count)
            state = np.stack([graph.total_charge, graph.spin_multiplicity], axis=1)
            index = graph.molecule_index[atoms]
            sizes = np.bincount(index, minlength=count)
            for name, value in (
                ("state", state[molecules]),
                ("size", sizes[molecules]),
                ("energy", energy[molecules]),
                ("energy_label", np.asarray(labels.energy, np.float64)[molecules]),
                ("atom_state", state[index]),
                ("forces", np.asarray(out["forces"], np.float64)[atoms]),
                ("forces_label", np.asarray(labels.forces, np.float64)[atoms]),
                ("charges", np.asarray(out["charges"], np.float64)[atoms]),
                ("charges_label", np.asarray(labels.charges, np.float64)[atoms]),
            ):
                rows[name].append(value)
        if not rows["state"]:
            raise ValueError("no molecule to evaluate")
        self.values = {name: np.concatenate(parts) for name, parts in rows.items()}

    def errors(self) -> list[dict[str, Any]]:
        """One row over all states, then one per state; see :func:`error_row`."""
        values = self.values
        table = [error_row(values, None)]
        for charge, multiplicity in np.unique(values["state"], axis=0).tolist():
            table.append(error_row(values, (charge, multiplicity)))
        return table


def error_row(
    values: dict[str, Array], state: tuple[int, int] | None
) -> dict[str, Any]:
    """MAE and RMSE of energy (eV), forces (eV/Å) and charges (e) in one state.

    Args:
        values: As :class:`Predictions` collects them.
        state: (charge, multiplicity), or None for all.
    """
    everything = np.ones(len(values["state"]), bool)
    molecules = everything if state is None else (values["state"] == state).all(axis=1)
    atoms = (
        np.ones(len(values["atom_state"]), bool)
        if state is None
        else (values["atom_state"] == state).all(axis=1)
    )
    row: dict[str, Any] = {
        "charge": None if state is None else state[0],
        "multiplicity": None if state is None else state[1],
        "molecules": int(molecules.sum()),
    }
    error = (values["energy"] - values["energy_label"])[molecules]
    row |= _summary("energy", "ev", error)
    row |= _summary("energy_per_atom", "ev", error / values["size"][molecules])
    row |= _summary(
        "forces", "ev_per_angstrom", (values["forces"] - values["forces_label"])[atoms]
    )
    row |= _summary(
        "charges", "e", (values["charges"] - values["charges_label"])[atoms]
    )
    return row


def _summary(name: str, unit: str, error: Array) -> dict[str, Any]:
    known = error[np.isfinite(error)]
    if known.size == 0:
        return {f"{name}_mae_{unit}": None, f"{name}_rmse_{unit}": None}
    return {
        f"{name}_mae_{unit}": float(np.mean(np.abs(known))),
        f"{name}_rmse_{unit}": float(np.sqrt(np.mean(known**2))),
    }


def evaluate_potential(potential: Any, loader: Any) -> Predictions:
    """Predictions of a potential on one epoch of a ``PackedMemmapLoader``.

    Raises:
        ValueError: An element or state that the potential has not seen.
    """
    dataset, rows = loader.dataset, loader.indices
    charges, multiplicities = dataset.states_of(rows)
    numbers = dataset.take("atomic_numbers", dataset.atom_rows(rows))
    starts = np.concatenate([[0], np.cumsum(dataset.n_atoms[rows])])
    for place, row in enumerate(rows):
        state = ElectronicState(int(charges[place]), int(multiplicities[place]))
        try:
            potential.check(numbers[starts[place] : starts[place + 1]], state)
        except ValueError as error:
            raise ValueError(f"{dataset.path}, molecule {row}: {error}") from None
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
