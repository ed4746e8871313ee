"""What a dataset holds, counted in one pass: elements, states, sizes, magnitudes."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.quantities import QUANTITIES, labels
from physnet_training.audit.distances import shortest_distances
from physnet_training.audit.validate import find_problems

Array = NDArray[Any]

SHORT_DISTANCE = 0.5
"""Å; no two atoms of a molecule come that close below thousands of kelvin."""
LARGE_FORCE = 100.0
"""eV/Å; four times what the most distorted of usual geometries feel."""
_NET_FORCE = 0.5  # eV/Å; forces of one molecule sum up to zero
_NET_SHARE = 0.1  # of the sum of all force magnitudes
_ROWS_PER_KIND = 20
_SHOWN = 100  # most bins that are stored


class Histogram:
    """Counts of finite numbers in bins of equal width; what lies beyond is at the ends.

    Args:
        low: Lower edge of the first bin.
        high: Upper edge of the last bin.
        bins: Number of bins.
        logarithmic: Bins are of equal width in log10; only positive numbers count.
    """

    def __init__(
        self, low: float, high: float, *, bins: int = 1000, logarithmic: bool = False
    ) -> None:
        self._logarithmic = logarithmic
        ends = np.log10([low, high]) if logarithmic else np.array([low, high], float)
        self._low, self._width = float(ends[0]), float(ends[1] - ends[0]) / bins
        self._counts = np.zeros(bins, dtype=np.int64)

    def add(self, values: Array) -> None:
        """Count some numbers; NaN and infinity are left out."""
        values = values[np.isfinite(values)]
        if self._logarithmic:
            values = np.log10(values[values > 0])
        last = len(self._counts) - 1
        places = np.clip((values - self._low) / self._width, 0, last).astype(np.int64)
        self._counts += np.bincount(places, minlength=last + 1)

    def add_counts(self, counts: Array) -> None:
        """Add to the bins themselves. [bins]."""
        self._counts += counts

    @property
    def total(self) -> int:
        """How many numbers were counted."""
        return int(self._counts.sum())

    def quantile(self, share: float) -> float:
        """The number below which a share of all lies, to the width of a bin."""
        below = np.cumsum(self._counts)
        place = int(np.searchsorted(below, share * below[-1]))
        return float(self._edges(np.array([place + 0.5]))[0])

    def summary(self) -> dict[str, list[float]]:
        """At most 100 bins that hold anything: ``edges`` and ``counts``."""
        filled = np.flatnonzero(self._counts)
        if not len(filled):
            return {"edges": [], "counts": []}
        first, end = int(filled[0]), int(filled[-1]) + 1
        step = -(-(end - first) // _SHOWN)
        starts = np.arange(first, end, step)
        edges = self._edges(np.append(starts, starts[-1] + step).astype(float))
        counts = np.add.reduceat(self._counts[:end], starts)
        return {
            "edges": [float(f"{edge:.6g}") for edge in edges],
            "counts": counts.tolist(),
        }

    def _edges(self, places: Array) -> Array:
        edges = self._low + places * self._width
        return 10.0**edges if self._logarithmic else edges


class SuspiciousRow(NamedTuple):
    """A molecule worth a look."""

    row: int
    kind: str
    reason: str
    value: float | None


class SuspiciousRows:
    """The first rows of each kind, and how many there are."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self._rows: list[SuspiciousRow] = []

    def add(self, row: int, kind: str, reason: str, value: float | None = None) -> None:
        """Note one row."""
        self.totals[kind] += 1
        if self.totals[kind] <= _ROWS_PER_KIND:
            self._rows.append(SuspiciousRow(row, kind, reason, value))

    def add_all(
        self, batch: Molecules, chosen: Array, kind: str, values: Array, text: str
    ) -> None:
        """Note the chosen rows of a batch; ``{:.3g}`` in the text is the value."""
        places = np.flatnonzero(chosen)
        for place in places[: max(_ROWS_PER_KIND - self.totals[kind], 0)]:
            value = float(values[place])
            row = int(batch.rows[place])
            self._rows.append(SuspiciousRow(row, kind, text.format(value), value))
        self.totals[kind] += len(places)

    def merge(self, others: "SuspiciousRows") -> None:
        """Add those of other kinds."""
        self.totals += others.totals
        self._rows += others._rows

    def summary(self) -> dict[str, Any]:
        """``total``, ``by_kind``, and the ``rows`` in their order."""
        return {
            "total": self.totals.total(),
            "by_kind": dict(sorted((+self.totals).items())),
            "rows": [row._asdict() for row in sorted(self._rows, key=lambda r: r.row)],
        }


class AuditCounts:
    """Counts that need every molecule once.

    Args:
        fields: Fields that the dataset holds.
        suspicious: Where rows are noted.
    """

    def __init__(self, fields: frozenset[str], suspicious: SuspiciousRows) -> None:
        self._fields, self._suspicious = fields, suspicious
        self._atoms, self._molecules = np.zeros((2, 119), dtype=np.int64)
        self._states: Counter[tuple[float, float | None]] = Counter()
        self._levels: Counter[int] = Counter()
        self._complete: Counter[str] = Counter()
        self._partial: Counter[str] = Counter()
        self._sizes = np.zeros(1, dtype=np.int64)
        self._forces = Histogram(1e-6, 1e6, bins=1200, logarithmic=True)
        self._largest: tuple[float, int] = (0.0, -1)
        self._distances = Histogram(1e-3, 1e3, bins=1200, logarithmic=True)
        self._shortest: tuple[float, int] = (np.inf, -1)

    def add(self, batch: Molecules) -> None:
        """Count some molecules.

        Raises:
            ValueError: An atomic number is none.
        """
        shortest = shortest_distances(batch.n_atoms, batch.values["positions"])
        invalid = self._check(batch, shortest)  # what follows needs atomic numbers
        self._count_distances(batch, shortest, invalid)
        self._count_elements(batch)
        self._count_states(batch)
        self._count_labels(batch)
        if "forces" in self._fields:
            self._count_forces(batch)

    def summary(self, levels: tuple[str, ...]) -> dict[str, Any]:
        """JSON-serialisable counts; ``levels`` are the names of the levels."""
        present = np.flatnonzero(self._atoms)
        states = sorted(self._states.items(), key=lambda s: (s[0][0], s[0][1] or 0))
        return {
            "elements": [
                {
                    "symbol": chemical_symbols[z],
                    "atoms": int(self._atoms[z]),
                    "molecules": int(self._molecules[z]),
                }
                for z in present.tolist()
            ],
            "states": [
                {"charge": charge, "multiplicity": multiplicity, "count": count}
                for (charge, multiplicity), count in states
            ],
            "levels": [
                {"level": levels[index] if index >= 0 else None, "count": count}
                for index, count in sorted(self._levels.items())
            ],
            "labels": {
                name: {"complete": self._complete[name], "partial": self._partial[name]}
                for name in [label.name for label in labels()]
                if self._complete[name] or self._partial[name]
            },
            "sizes": _binned(self._sizes),
            "forces": _magnitudes(self._forces, "largest", self._largest),
            "distances": _magnitudes(self._distances, "shortest", self._shortest),
        }

    def _count_elements(self, batch: Molecules) -> None:
        numbers = batch.values["atomic_numbers"]
        self._atoms += np.bincount(numbers, minlength=119)
        for z in np.flatnonzero(np.bincount(numbers)).tolist():
            holds = np.logical_or.reduceat(numbers == z, batch.first_atom)
            self._molecules[z] += int(holds.sum())

    def _count_states(self, batch: Molecules) -> None:
        spin = batch.values["spin_multiplicity"].astype(np.float64)
        pairs = batch.values["total_charge"] + 1j * np.where(np.isnan(spin), 0.0, spin)
        for state, count in zip(*np.unique(pairs, return_counts=True), strict=True):
            multiplicity = _plain(state.imag) if state.imag else None
            self._states[_plain(state.real), multiplicity] += int(count)
        levels, counts = np.unique(batch.values["level"], return_counts=True)
        self._levels.update(dict(zip(levels.tolist(), counts.tolist(), strict=True)))
        sizes = np.bincount(batch.n_atoms, minlength=len(self._sizes))
        sizes[: len(self._sizes)] += self._sizes
        self._sizes = sizes

    def _count_labels(self, batch: Molecules) -> None:
        for name in [label.name for label in labels()]:
            if name not in self._fields:
                continue
            values = batch.values[name]
            finite = np.isfinite(values.reshape(len(values), -1))
            if finite.all():
                self._complete[name] += len(batch.rows)
                continue
            every, some = finite.all(axis=1), finite.any(axis=1)
            if QUANTITIES[name].per_atom:
                every = np.logical_and.reduceat(every, batch.first_atom)
                some = np.logical_or.reduceat(some, batch.first_atom)
            self._complete[name] += int(every.sum())
            self._partial[name] += int((some & ~every).sum())

    def _check(self, batch: Molecules, shortest: Array) -> Array:
        """Note what a conversion would have refused; return which molecules."""
        names = self._fields - {"level", "group"} | {"spin_multiplicity"}
        values = {name: batch.values[name] for name in names}
        if "pbc" in names:  # elsewhere a cell means nothing
            periodic = batch.periodic[:, None, None]
            values["cell"] = np.where(periodic, batch.values["cell"], np.float32(0))
        else:
            values.pop("cell", None)
        molecules = Molecules(batch.n_atoms, values, batch.rows)
        invalid = np.zeros(len(batch.rows), dtype=bool)
        for problem in find_problems(molecules, allow_missing=True, shortest=shortest):
            if problem.kind == "element":
                raise ValueError(problem.reason)
            invalid[problem.place] = True
            self._suspicious.add(problem.row, "invalid", problem.reason)
        return invalid

    def _count_distances(
        self, batch: Molecules, shortest: Array, invalid: Array
    ) -> None:
        self._distances.add(shortest)
        place = int(np.argmin(np.where(np.isnan(shortest), np.inf, shortest)))
        if shortest[place] < self._shortest[0]:
            self._shortest = float(shortest[place]), int(batch.rows[place])
        text = "two atoms are {:.3g} Å apart"
        short = (shortest < SHORT_DISTANCE) & ~invalid
        self._suspicious.add_all(batch, short, "short distance", shortest, text)

    def _count_forces(self, batch: Molecules) -> None:
        forces = batch.values["forces"]
        if not np.isfinite(forces).all():
            forces = np.where(np.isfinite(forces), forces, np.float32(np.nan))
        sizes = np.sqrt(np.einsum("ij,ij->i", forces, forces))
        self._forces.add(sizes)
        largest = np.fmax.reduceat(sizes, batch.first_atom)
        place = int(np.argmax(np.where(np.isnan(largest), -1.0, largest)))
        if largest[place] > self._largest[0]:
            self._largest = float(largest[place]), int(batch.rows[place])
        large = largest > LARGE_FORCE
        text = "a force of {:.3g} eV/Å"
        self._suspicious.add_all(batch, large, "large force", largest, text)
        net = np.linalg.norm(np.add.reduceat(forces, batch.first_atom), axis=1)
        total = np.add.reduceat(sizes, batch.first_atom)
        unbalanced = (net > _NET_FORCE) & (net > _NET_SHARE * total)
        text = "the forces sum up to {:.3g} eV/Å, not to zero"
        self._suspicious.add_all(batch, unbalanced, "net force", net, text)


def _plain(number: float) -> float:
    """A whole number as an integer."""
    return int(number) if number == int(number) else float(number)


def _binned(counts: Array) -> dict[str, Any]:
    """Extremes, mean and histogram of numbers of atoms."""
    present = np.flatnonzero(counts)
    histogram = Histogram(0.5, len(counts) - 0.5, bins=len(counts) - 1)
    histogram.add_counts(counts[1:])
    return {
        "min": int(present[0]),
        "mean": float(np.average(present, weights=counts[present])),
        "max": int(present[-1]),
        "histogram": histogram.summary(),
    }


def _magnitudes(
    histogram: Histogram, name: str, extreme: tuple[float, int]
) -> dict[str, Any] | None:
    """Percentiles, the extreme value and its row; None where there is nothing."""
    if not histogram.total:
        return None
    return {
        **{f"p{int(100 * q)}": histogram.quantile(q) for q in (0.01, 0.5, 0.99)},
        name: extreme[0],
        f"{name}_row": extreme[1],
        "histogram": histogram.summary(),
    }
