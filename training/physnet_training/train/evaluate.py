"""Errors of a model on labelled molecules, per charge and multiplicity."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.energy import predicted_labels, program_for
from physnet_ase.graph import Graph
from physnet_ase.potential import Potential
from physnet_ase.quantities import QUANTITIES, trained
from physnet_ase.references import without_references
from physnet_ase.state import ElectronicState
from physnet_training.distinct_states import distinct_states
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.packed import PackedDataset
from physnet_training.packed.reader import parts
from physnet_training.train.calibration import spreads

Array = NDArray[Any]
_PER_ATOM = "energy_per_atom"
_WORST = 10  # molecules listed for each quantity
_PICTURED = 20_000  # molecules whose values are kept for pictures


def error_names() -> dict[str, str]:
    """Error -> unit in the names of its numbers: those of all trained quantities."""
    names: dict[str, str] = {}
    for quantity in trained():
        names[quantity.name] = quantity.error_unit
        if quantity.name == "energy":
            names[_PER_ATOM] = quantity.error_unit
    return names


class ErrorSums:
    """Sums of errors per state; memory does not grow with the molecules."""

    def __init__(self) -> None:
        self._names = error_names()
        self._molecules: Counter[tuple[int, int]] = Counter()
        # per state: [names, 3] number of errors, sums of their sizes and squares
        self._sums: dict[tuple[int, int], Array] = {}

    def add(self, values: Mapping[str, Array]) -> None:
        """Add molecules, with values as :class:`Predictions` has them."""
        states, owner, counts = distinct_states(*values["state"].T)
        # atoms follow their molecules, so their states need no search of their own
        of_atoms = np.repeat(owner, values["size"])
        sums = np.zeros((len(self._names), 3, len(states)))
        for place, name in enumerate(self._names):
            source = "energy" if name == _PER_ATOM else name
            if source not in values:
                continue
            error = values[source] - values[f"{source}_label"]
            if name == _PER_ATOM:
                error = error / values["size"]
            owners = of_atoms if QUANTITIES[source].per_atom else owner
            flat = error.reshape(len(owners), -1)
            known = np.isfinite(flat)
            index = np.broadcast_to(owners[:, None], flat.shape)[known]
            for column, power in enumerate((0, 1, 2)):
                sums[place, column] = np.bincount(
                    index, np.abs(flat[known]) ** power, minlength=len(states)
                )
        for place, (q, m) in enumerate(states.tolist()):
            self._molecules[q, m] += int(counts[place])
            self._sums[q, m] = self._sums.get((q, m), 0.0) + sums[:, :, place]

    def states(self) -> list[tuple[int, int]]:
        """(charge, multiplicity) of the molecules added, ascending."""
        return sorted(self._sums)

    def row(self, state: tuple[int, int] | None) -> dict[str, Any]:
        """MAE and RMSE of everything that is trained, in one state; None: no label.

        Args:
            state: (charge, multiplicity), or None for all.
        """
        wanted = self.states() if state is None else [state]
        row: dict[str, Any] = {
            "charge": None if state is None else state[0],
            "multiplicity": None if state is None else state[1],
            "molecules": sum(self._molecules[s] for s in wanted),
        }
        total = sum(
            (self._sums[s] for s in wanted), start=np.zeros((len(self._names), 3))
        )
        for (name, unit), (count, size, square) in zip(
            self._names.items(), total.tolist(), strict=True
        ):
            row[f"{name}_mae_{unit}"] = size / count if count else None
            row[f"{name}_rmse_{unit}"] = (square / count) ** 0.5 if count else None
        return row


class Worst:
    """The molecules with the largest errors of each quantity."""

    def __init__(self) -> None:
        self._kept: dict[str, list[tuple[float, int, int, int]]] = {}

    def add(self, values: Mapping[str, Array], molecules: Array) -> None:
        """Add molecules, of these numbers in the dataset."""
        starts = np.cumsum(values["size"]) - values["size"]
        for name in values.keys() & QUANTITIES.keys():
            error = np.abs(values[name] - values[f"{name}_label"])
            error = np.nan_to_num(error.reshape(len(error), -1)).max(axis=1)
            if QUANTITIES[name].per_atom:
                error = np.maximum.reduceat(error, starts)
            places = np.argsort(error)[-_WORST:].tolist()
            found = []
            for p in places:
                charge, spin = values["state"][p].tolist()
                if error[p] > 0:
                    found.append(
                        (float(error[p]), int(molecules[p]), int(charge), int(spin))
                    )
            kept = self._kept.setdefault(name, [])
            self._kept[name] = sorted([*kept, *found], reverse=True)[:_WORST]

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """Quantity -> its worst molecules: number in the dataset, state, error."""
        return {
            name: [
                {
                    "molecule": molecule,
                    "charge": charge,
                    "multiplicity": spin,
                    f"error_{QUANTITIES[name].error_unit}": error,
                }
                for error, molecule, charge, spin in kept
            ]
            for name, kept in self._kept.items()
        }


class Predictions:
    """Errors of predictions, and the values themselves of the first molecules.

    Attributes:
        worst: The molecules with the largest errors.
        values: Predicted and reference values in float64, NaN = no label, of the first
            20,000 molecules or a few more: for pictures.
    """

    def __init__(
        self,
        predicted: Iterable[tuple[Graph, Mapping[str, Any]]],
        molecules: Array,
    ) -> None:
        """Take graphs whose energy labels lack the references, and what is predicted.

        Args:
            predicted: Each graph with labels by name, see ``energy.predicted_labels``,
                and spreads, see ``calibration.spreads``.
            molecules: Numbers in the dataset of all molecules, in their order.

        Raises:
            ValueError: There is no graph.
        """
        self._sums, self.worst = ErrorSums(), Worst()
        kept: dict[str, list[Array]] = {}
        done = 0
        for graph, labels in predicted:
            values = _values(graph, labels)
            self._sums.add(values)
            self.worst.add(values, molecules[done:])
            if done < _PICTURED:
                for name, value in values.items():
                    kept.setdefault(name, []).append(value)
            done += len(values["state"])
        if not done:
            raise ValueError("no molecule to evaluate")
        self.values = {name: np.concatenate(parts) for name, parts in kept.items()}

    def errors(self) -> list[dict[str, Any]]:
        """One row over all states, then one per state; see :meth:`ErrorSums.row`."""
        return [self._sums.row(state) for state in (None, *self._sums.states())]


def _values(graph: Graph, predicted: Mapping[str, Any]) -> dict[str, Array]:
    """Predicted and reference values of a graph without its padding."""
    labels = graph.labels
    if labels is None:
        raise ValueError("the graph has no labels to compare with")
    molecules, atoms = graph.molecule_mask, graph.atom_mask
    state = np.stack([graph.total_charge, graph.spin_multiplicity], axis=1)
    index = graph.molecule_index[atoms]
    values = {
        "state": state[molecules],
        "size": np.bincount(index, minlength=len(molecules))[molecules],
        "atom_state": state[index],
    }
    for name, prediction in predicted.items():
        per_atom = QUANTITIES[name.removesuffix("_std")].per_atom
        rows = atoms if per_atom else molecules
        values[name] = np.asarray(prediction, np.float64)[rows]
        if name in labels.values:
            values[f"{name}_label"] = np.asarray(labels.values[name], np.float64)[rows]
    return values


def evaluate_potential(potential: Potential, loader: PackedMemmapLoader) -> Predictions:
    """Predictions of a potential on one epoch of a loader, for all labels it can give.

    A molecule whose level of theory the potential has is compared at that level, all
    others at the potential's own.

    Raises:
        ValueError: An element or state that the potential has not seen.
    """
    dataset = loader.dataset
    names = [
        quantity.name
        for quantity in trained()
        if quantity.name in dataset.fields
        and (not quantity.needs or getattr(potential.config, quantity.needs))
    ]
    parts_of: dict[Potential, list[Array]] = {}
    own = dataset.take("level", loader.indices)
    for level in np.unique(own).tolist():
        known = level >= 0 and dataset.levels[level] in potential.levels
        fitting = potential.level(dataset.levels[level]) if known else potential
        parts_of.setdefault(fitting, []).append(loader.indices[own == level])
    order = [np.sort(np.concatenate(rows)) for rows in parts_of.values()]

    def predicted() -> Iterator[tuple[Graph, Mapping[str, Any]]]:
        for fitting, rows in zip(parts_of, order, strict=True):
            part = loader.subset(rows, shuffle=False)
            for graph in part.graphs(fitting.config.cutoff):
                outputs = fitting.run(graph, program_for(names))
                labels = predicted_labels(outputs, graph, names)
                labels |= spreads(fitting, graph, outputs, names)
                yield without_references(graph, [fitting.references]), labels

    for fitting, rows in zip(parts_of, order, strict=True):
        _check_known(fitting, dataset, rows)
    return Predictions(predicted(), np.concatenate(order))


def _check_known(
    potential: Potential, dataset: PackedDataset, molecules: Array
) -> None:
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
