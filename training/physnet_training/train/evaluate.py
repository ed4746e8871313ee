"""Errors of a model on labelled molecules: per state, element, size and level."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from physnet_ase.energy import predicted_labels, program_for
from physnet_ase.graph import Graph
from physnet_ase.potential import Potential
from physnet_ase.quantities import QUANTITIES, trained
from physnet_ase.references import without_references
from physnet_ase.state import ElectronicState
from physnet_training.distinct_states import distinct_states
from physnet_training.loading.geometries import Ladders
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.packed import PackedDataset
from physnet_training.packed.reader import parts
from physnet_training.train.calibration import spreads
from physnet_training.train.gaps import ANY_TWO, GapSums

Array = NDArray[Any]
Key = tuple[Any, ...]
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


class Groups(NamedTuple):
    """Which molecules, and which atoms, of some values count together."""

    keys: list[Key]  # of each group
    members: Array  # [members] molecule; one may be in several groups
    of_members: Array  # [members] group
    of_atoms: Array  # [atoms] group

    @classmethod
    def of_molecules(cls, keys: list[Key], owner: Array, sizes: Array) -> "Groups":
        """Each molecule in one group, with its atoms."""
        return cls(keys, np.arange(len(owner)), owner, np.repeat(owner, sizes))


def by_state(values: Mapping[str, Array]) -> Groups:
    """Charge and multiplicity."""
    states, owner, _ = distinct_states(*values["state"].T)
    keys = [tuple(state) for state in states.tolist()]
    return Groups.of_molecules(keys, owner, values["size"])


def by_element(values: Mapping[str, Array]) -> Groups:
    """Atoms by their element, molecules by all that they contain."""
    numbers, of_atoms = np.unique(values["atom_number"], return_inverse=True)
    owner = np.repeat(np.arange(len(values["size"])), values["size"])
    contained = np.unique(owner * len(numbers) + of_atoms)
    keys = [(chemical_symbols[z],) for z in numbers.tolist()]
    return Groups(keys, *np.divmod(contained, len(numbers)), of_atoms)


def by_size(values: Mapping[str, Array]) -> Groups:
    """Number of atoms, in classes that double: 1, 2, 3 to 4, 5 to 8, 9 to 16."""
    classes, owner = np.unique(np.frexp(values["size"] - 1)[1], return_inverse=True)
    keys: list[Key] = [(2**c // 2 + 1, 2**c) for c in classes.tolist()]
    return Groups.of_molecules(keys, owner, values["size"])


def by_level(values: Mapping[str, Array]) -> Groups:
    """Level of theory, as its number in the dataset."""
    levels, owner = np.unique(values["level_number"], return_inverse=True)
    keys = [(level,) for level in levels.tolist()]
    return Groups.of_molecules(keys, owner, values["size"])


class ErrorSums:
    """Sums of errors per group; memory does not grow with the molecules.

    Args:
        grouping: Says which of some values count together.
        headings: Of the parts of a group's key, for :meth:`row`.
    """

    def __init__(
        self, grouping: Callable[[Mapping[str, Array]], Groups], *headings: str
    ) -> None:
        self._grouping, self._headings, self._names = grouping, headings, error_names()
        self._molecules: Counter[Key] = Counter()
        # per group: [names, 3] number of errors, sums of their sizes and squares
        self._sums: dict[Key, Array] = {}

    def add(self, values: Mapping[str, Array]) -> None:
        """Add molecules, with values as :class:`Predictions` has them."""
        groups = self._grouping(values)
        count = len(groups.keys)
        sums = np.zeros((len(self._names), 3, count))
        for place, name in enumerate(self._names):
            source = "energy" if name == _PER_ATOM else name
            if source not in values:
                continue
            error = values[source] - values[f"{source}_label"]
            if name == _PER_ATOM:
                error = error / values["size"]
            owners = groups.of_atoms
            if not QUANTITIES[source].per_atom:
                owners, error = groups.of_members, error[groups.members]
            flat = error.reshape(len(owners), -1)
            known = np.isfinite(flat)
            index = np.broadcast_to(owners[:, None], flat.shape)[known]
            for column, power in enumerate((0, 1, 2)):
                sums[place, column] = np.bincount(
                    index, np.abs(flat[known]) ** power, minlength=count
                )
        molecules = np.bincount(groups.of_members, minlength=count).tolist()
        for place, key in enumerate(groups.keys):
            self._molecules[key] += molecules[place]
            self._sums[key] = self._sums.get(key, 0.0) + sums[:, :, place]

    def keys(self) -> list[Key]:
        """Groups of the molecules added, ascending."""
        return sorted(self._sums)

    def row(self, key: Key | None) -> dict[str, Any]:
        """MAE and RMSE of everything that is trained, in one group; None: no label.

        Args:
            key: Of the group, or None for all groups together.
        """
        wanted = self.keys() if key is None else [key]
        named = [None] * len(self._headings) if key is None else key
        row: dict[str, Any] = dict(zip(self._headings, named, strict=True))
        row["molecules"] = sum(self._molecules[each] for each in wanted)
        total = sum(
            (self._sums[each] for each in wanted), start=np.zeros((len(self._names), 3))
        )
        for (name, unit), (count, size, square) in zip(
            self._names.items(), total.tolist(), strict=True
        ):
            row[f"{name}_mae_{unit}"] = size / count if count else None
            row[f"{name}_rmse_{unit}"] = (square / count) ** 0.5 if count else None
        return row

    def rows(self) -> list[dict[str, Any]]:
        """One for each group; see :meth:`row`."""
        return [self.row(key) for key in self.keys()]


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
        gaps: GapSums | None = None,
        levels: Sequence[str] = (),
    ) -> None:
        """Take graphs whose energy labels lack the references, and what is predicted.

        Args:
            predicted: Each graph with labels by name, see ``energy.predicted_labels``,
                and spreads, see ``calibration.spreads``.
            molecules: Numbers in the dataset of all molecules, in their order.
            gaps: Takes what the molecules say about vertical gaps.
            levels: Names of the dataset's levels of theory.

        Raises:
            ValueError: There is no graph.
        """
        self.worst, self._gaps, self._levels = Worst(), gaps, levels
        self._states = ErrorSums(by_state, "charge", "multiplicity")
        self._others = {
            "element": ErrorSums(by_element, "element"),
            "size": ErrorSums(by_size, "atoms_from", "atoms_to"),
            "level": ErrorSums(by_level, "level"),
        }
        kept: dict[str, list[Array]] = {}
        done = 0
        for graph, labels in predicted:
            values = _values(graph, labels)
            for sums in (self._states, *self._others.values()):
                sums.add(values)
            self.worst.add(values, molecules[done:])
            if gaps is not None:
                gaps.add(values)
            if done < _PICTURED:
                for name, value in values.items():
                    kept.setdefault(name, []).append(value)
            done += len(values["state"])
        if not done:
            raise ValueError("no molecule to evaluate")
        self.values = {name: np.concatenate(parts) for name, parts in kept.items()}

    def errors(self) -> list[dict[str, Any]]:
        """One row over all states, then one per state; see :meth:`ErrorSums.row`.

        The first one has the error of energy differences between states, too, where
        there are such.
        """
        rows = [self._states.row(None), *self._states.rows()]
        if differences := self.gaps().get(ANY_TWO):
            rows[0]["vertical_mae_ev"] = differences["mae_ev"]
            rows[0]["vertical_rmse_ev"] = differences["rmse_ev"]
        return rows

    def errors_by(self) -> dict[str, list[dict[str, Any]]]:
        """Rows as :meth:`errors` has them, of each element, class of size and level.

        Per-atom quantities count at their atom's element, those of a molecule at each
        element that it contains.
        """
        tables = {name: sums.rows() for name, sums in self._others.items()}
        for row in tables["level"]:
            known = 0 <= row["level"] < len(self._levels)
            row["level"] = self._levels[row["level"]] if known else "unknown"
        return tables

    def gaps(self) -> dict[str, dict[str, float]]:
        """Errors of vertical gaps; see :meth:`GapSums.errors`."""
        return {} if self._gaps is None else self._gaps.errors()


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
        "atom_number": graph.atomic_numbers[atoms],
        "level_number": np.zeros(np.count_nonzero(molecules), int)
        if graph.level is None
        else graph.level[molecules],
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
    # a ladder is of one level, so its molecules stay in their part
    ladders = Ladders.of(dataset, np.concatenate(order))
    ends = np.cumsum([len(rows) for rows in order])
    order = np.split(ladders.molecules, ends[:-1])

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
    gaps = GapSums(dataset, ladders)
    return Predictions(predicted(), ladders.molecules, gaps, dataset.levels)


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
