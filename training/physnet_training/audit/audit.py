"""The audit of a whole dataset: what it holds, and what in it deserves a look."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.quantities import QUANTITIES, labels
from physnet_ase.references import ReferenceFit, References, Seen
from physnet_ase.state import ElectronicState
from physnet_training.audit.duplicates import DuplicateFinder
from physnet_training.audit.plausibility import (
    are_total,
    energy_ratio,
    judge_units,
    molecule_energies,
    read_for_audit,
    sample,
)
from physnet_training.audit.validate import find_problems, shortest_distances
from physnet_training.distinct_states import distinct_states
from physnet_training.packed import PackedDataset

Array = NDArray[Any]
OnAudit = Callable[[int, int], None]
"""Called with the molecules audited so far and their number."""

SHORT_DISTANCE = 0.5
"""Å; no two atoms of a molecule come that close below thousands of kelvin."""
LARGE_FORCE = 100.0
"""eV/Å; four times what the most distorted of usual geometries feel."""
_NET_FORCE = 0.5  # eV/Å; forces of one molecule sum up to zero
_NET_SHARE = 0.1  # of the sum of all force magnitudes
_ROWS_PER_KIND = 20
_SHOWN_BINS = 100
_OFF_SCALE = 0.5  # of a total energy; no molecule differs that much from its atoms
_ALL_ELECTRON = 36  # heavier atoms often have their core replaced by a potential
_OUTLIER = 12.0  # times the 95th percentile of deviations; 8 in real, diverse data
_MIN_DEVIATION = 0.1  # eV per atom
_MIN_TOTAL = 10.0  # eV; the energy of several bonds
_PER_CHARGE = 25.0  # eV; atoms of several elements hold on to electrons so differently
_SHOWN_DUPLICATES = 20
_SHARES = (0.7, 0.8, 0.9, 1.0)  # of the time, after each pass


def audit_dataset(
    dataset: PackedDataset, *, on_progress: OnAudit | None = None
) -> dict[str, Any]:
    """Count what a dataset holds, and look for what is implausible.

    Reads the dataset two to four times in pieces; memory does not grow with it.

    Args:
        dataset: Any packed dataset.
        on_progress: Called with molecules audited and their number.

    Returns:
        JSON-serialisable: ``elements``, ``states``, ``levels``, ``labels`` (molecules
        with all components and with some), ``sizes``, ``forces`` and ``distances``
        (percentiles, extremes with their rows, histograms), ``energies`` (the linear
        fit and the deviations from it), ``units`` (verdicts), ``duplicates`` and
        ``suspicious`` (the first rows of each kind with reasons, and the numbers).
        Energies in eV, lengths in Å.

    Raises:
        ValueError: An atomic number is none.
    """
    return _Audit(dataset, on_progress).run()


class _Audit:
    def __init__(self, dataset: PackedDataset, progress: OnAudit | None) -> None:
        self.dataset = dataset
        self.progress = progress
        self.suspicious = _SuspiciousRows()
        self.names = read_for_audit(dataset)
        self.samples = sample(dataset)
        self.total_energies = are_total(energy_ratio(self.samples)[0])

    def run(self) -> dict[str, Any]:
        counts = _Counts(self.dataset, self.suspicious)
        fit = LevelFits(self.dataset) if "energy" in self.dataset.fields else None
        with DuplicateFinder(self.dataset, limit=_SHOWN_DUPLICATES) as finder:
            for batch in self._batches(0):
                try:
                    counts.add(batch)
                except ValueError as error:
                    raise ValueError(f"{self.dataset.path}: {error}") from error
                finder.add(batch)
                if fit is not None:
                    fit.add(batch.keep(self._on_scale(batch)))
            duplicates = finder.find()
        energies = None if fit is None else self._energies(fit)
        if self.progress is not None:
            self.progress(self.dataset.num_molecules, self.dataset.num_molecules)
        return {
            "num_molecules": self.dataset.num_molecules,
            "num_atoms": self.dataset.num_atoms,
            **counts.summary(),
            "energies": energies,
            "units": [verdict._asdict() for verdict in judge_units(self.samples)],
            "duplicates": {
                "count": duplicates.count,
                "contradicting": duplicates.contradicting,
                "rows": duplicates.rows.tolist(),
            },
            "suspicious": self.suspicious.summary(),
        }

    def _batches(self, passed: int) -> Iterator[Molecules]:
        """All molecules, with the progress of the whole audit."""
        begin = _SHARES[passed - 1] if passed else 0.0
        count = self.dataset.num_molecules
        for batch in self.dataset.batches(self.names, check=False):
            yield batch
            if self.progress is not None:
                share = (int(batch.rows[-1]) + 1) / count
                share = begin + share * (_SHARES[passed] - begin)
                self.progress(min(int(share * count), count - 1), count)

    def _on_scale(self, batch: Molecules) -> Array:
        """Molecules with an energy that may take part in the fit at first."""
        energies = batch.values["energy"]
        finite = np.isfinite(energies)
        if not self.total_energies:
            return finite
        numbers = batch.values["atomic_numbers"]
        scale = molecule_energies(numbers, batch.first_atom)
        allowed = np.maximum(_OFF_SCALE * np.abs(scale), _PER_CHARGE + _MIN_TOTAL)
        heavy = np.maximum.reduceat(numbers, batch.first_atom) > _ALL_ELECTRON
        return finite & (heavy | (np.abs(energies - scale) < allowed))

    def _energies(self, fit: "LevelFits") -> dict[str, Any] | None:
        """Outliers of the fit; where there are any, it is repeated without them."""
        limits = _Limits(fit, self.samples, self._on_scale)
        if not limits.count:
            return None
        histogram, outliers = self._deviations(limits, 1)
        if outliers.totals:
            refined = LevelFits(self.dataset)
            for batch in self._batches(2):
                inside = ~limits.exceeded(batch, limits.deviations(batch))
                refined.add(batch.keep(inside))
            limits = _Limits(refined, self.samples, self._on_scale)
            histogram, outliers = self._deviations(limits, 3)
        self.suspicious.merge(outliers)
        fits = [
            {
                "level": self.dataset.levels[level] if level >= 0 else None,
                "elements": {
                    chemical_symbols[z]: energy
                    for z, energy in references.element_energies.items()
                },
            }
            for level, references in limits.fit.references.items()
        ]
        away = {
            "median_absolute": limits.median_absolute,
            "p95_absolute": limits.p95,
            "histogram": histogram.summary(),
        }
        return {"fits": fits, "deviation_per_atom": away}

    def _deviations(
        self, limits: "_Limits", passed: int
    ) -> tuple["Histogram", "_SuspiciousRows"]:
        """Histogram of the deviations per atom, and the outliers."""
        width = 4 * max(limits.scale, 1e-3)
        histogram, outliers = Histogram(-width, width, bins=400), _SuspiciousRows()
        text = "its energy is {:.4g} eV away from the sum over its atoms and state"
        for batch in self._batches(passed):
            deviations = limits.deviations(batch)
            histogram.add(deviations / batch.n_atoms)
            outside = limits.exceeded(batch, deviations)
            outliers.add_all(batch, outside, "energy", deviations, text)
        return histogram, outliers


class LevelFits:
    """Reference energies of each level of theory, by least squares.

    An unknown multiplicity counts as the lowest that is possible.

    Args:
        dataset: Its elements and states are those of the fit.
    """

    def __init__(self, dataset: PackedDataset) -> None:
        self._elements = list(dataset.elements)
        names = [] if dataset.spin_known else ["atomic_numbers"]
        states: set[ElectronicState] = set()
        for batch in dataset.batches(names, check=False):
            distinct, *_ = distinct_states(*_whole_states(batch))
            states.update(ElectronicState(*pair) for pair in distinct.tolist())
        self._states = dict.fromkeys(sorted(states), 0)
        self._fits: dict[int, ReferenceFit] = {}

    def add(self, batch: Molecules) -> None:
        """Let molecules take part; those without an energy do not."""
        self.__dict__.pop("references", None)
        batch = _for_fit(batch)
        batch = batch.keep(np.isfinite(batch.values["energy"]))
        for level in np.unique(batch.values["level"]).tolist():
            if level not in self._fits:
                own = Seen(self._elements, self._states)
                self._fits[level] = ReferenceFit([own], additive=False)
            self._fits[level].add(batch.keep(batch.values["level"] == level))

    @cached_property
    def references(self) -> dict[int, References]:
        """Level -> references, of levels with an energy."""
        return {level: fit.references()[0] for level, fit in self._fits.items()}

    def predict(self, batch: Molecules) -> Array:
        """Energies of the fit; NaN for a level that was not fitted. [molecules] eV."""
        batch, energies = _for_fit(batch), np.full(len(batch), np.nan)
        for level, references in self.references.items():
            rows = batch.values["level"] == level
            if rows.any():
                mine = batch.keep(rows)
                charge, spin = (
                    mine.values["total_charge"],
                    mine.values["spin_multiplicity"],
                )
                energies[rows] = references.of_molecules(
                    mine.values["atomic_numbers"], mine.owner, charge, spin
                )
        return energies


def _for_fit(batch: Molecules) -> Molecules:
    """What energies depend on, and no more; states in whole numbers."""
    charge, spin = _whole_states(batch)
    names = ("atomic_numbers", "energy", "level")
    values = {name: batch.values[name] for name in names}
    return replace(
        batch, values={**values, "total_charge": charge, "spin_multiplicity": spin}
    )


def _whole_states(batch: Molecules) -> tuple[Array, Array]:
    """Charges and multiplicities as whole numbers, whatever stands in the data."""
    charge = np.rint(np.nan_to_num(batch.values["total_charge"])).clip(-99, 99)
    spin = batch.values["spin_multiplicity"]
    unknown = np.isnan(spin)
    if unknown.any():
        numbers = batch.values["atomic_numbers"].astype(np.int64)
        electrons = np.add.reduceat(numbers, batch.first_atom) - charge
        spin = np.where(unknown, 1 + electrons % 2, spin)
    spin = np.rint(np.nan_to_num(spin)).clip(1, 99)
    return charge.astype(np.int64), spin.astype(np.int64)


class _Limits:
    """How far from the fit an energy may be, from a sample of the data itself."""

    def __init__(
        self,
        fit: LevelFits,
        samples: list[Molecules],
        usable: Callable[[Molecules], Array],
    ) -> None:
        self.fit = fit
        self._centre = self.median_absolute = self.p95 = 0.0
        sampled = np.concatenate(
            [(self.deviations(p) / p.n_atoms)[usable(p)] for p in samples]
        )
        sampled = sampled[np.isfinite(sampled)]
        self.count = len(sampled)
        if self.count:
            self._centre = float(np.median(sampled))
            away = np.abs(sampled - self._centre)
            self.median_absolute = float(np.median(away))
            self.p95 = float(np.quantile(away, 0.95))
        # Many outliers widen the percentile, the median much less.
        self.scale = min(self.p95, 10 * self.median_absolute)

    def deviations(self, batch: Molecules) -> Array:
        """Energies above the fit, NaN where there is no energy. [molecules] eV."""
        above = batch.values["energy"] - self.fit.predict(batch)
        return above - self._centre * batch.n_atoms

    def exceeded(self, batch: Molecules, deviations: Array) -> Array:
        """Whether molecules are far outside, per atom and as a whole."""
        per_atom = max(_OUTLIER * self.scale, _MIN_DEVIATION)
        whole = _MIN_TOTAL + _PER_CHARGE * np.abs(batch.values["total_charge"])
        away = np.abs(deviations)
        return (away > per_atom * batch.n_atoms) & (away > whole)


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
        self.counts = np.zeros(bins, dtype=np.int64)

    def add(self, values: Array) -> None:
        """Count some numbers; NaN and infinity are left out."""
        values = values[np.isfinite(values)]
        if self._logarithmic:
            values = np.log10(values[values > 0])
        last = len(self.counts) - 1
        places = np.clip((values - self._low) / self._width, 0, last).astype(np.int64)
        self.counts += np.bincount(places, minlength=last + 1)

    @property
    def total(self) -> int:
        """How many numbers were counted."""
        return int(self.counts.sum())

    def quantile(self, share: float) -> float:
        """The number below which a share of all lies, to the width of a bin."""
        below = np.cumsum(self.counts)
        place = int(np.searchsorted(below, share * below[-1]))
        return float(self._edges(np.array([place + 0.5]))[0])

    def summary(self) -> dict[str, list[float]]:
        """At most 100 bins that hold anything: ``edges`` and ``counts``."""
        filled = np.flatnonzero(self.counts)
        if not len(filled):
            return {"edges": [], "counts": []}
        first, end = int(filled[0]), int(filled[-1]) + 1
        step = -(-(end - first) // _SHOWN_BINS)
        starts = np.arange(first, end, step)
        edges = self._edges(np.append(starts, starts[-1] + step).astype(float))
        counts = np.add.reduceat(self.counts[:end], starts)
        return {
            "edges": [float(f"{edge:.6g}") for edge in edges],
            "counts": counts.tolist(),
        }

    def _edges(self, places: Array) -> Array:
        edges = self._low + places * self._width
        return 10.0**edges if self._logarithmic else edges


class _SuspiciousRows:
    """The first rows of each kind that are worth a look, and how many there are."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self._rows: list[dict[str, Any]] = []

    def add(self, row: int, kind: str, reason: str, value: float | None = None) -> None:
        self.totals[kind] += 1
        if self.totals[kind] <= _ROWS_PER_KIND:
            entry = {"row": row, "kind": kind, "reason": reason, "value": value}
            self._rows.append(entry)

    def add_all(
        self, batch: Molecules, chosen: Array, kind: str, values: Array, text: str
    ) -> None:
        """Note the chosen rows of a batch; ``{:.3g}`` in the text is the value."""
        places = np.flatnonzero(chosen)
        shown = places[: max(_ROWS_PER_KIND - self.totals[kind], 0)]
        for place in shown:
            value = float(values[place])
            self.add(int(batch.rows[place]), kind, text.format(value), value)
        self.totals[kind] += len(places) - len(shown)

    def merge(self, others: "_SuspiciousRows") -> None:
        """Add those of other kinds."""
        self.totals += others.totals
        self._rows += others._rows

    def summary(self) -> dict[str, Any]:
        return {
            "total": self.totals.total(),
            "by_kind": dict(sorted((+self.totals).items())),
            "rows": sorted(self._rows, key=lambda entry: entry["row"]),
        }


class _Counts:
    """Counts that need every molecule once; notes what is suspicious of them."""

    def __init__(self, dataset: PackedDataset, suspicious: _SuspiciousRows) -> None:
        self._fields, self._levels_of = dataset.fields, dataset.levels
        self._suspicious = suspicious
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
        shortest = shortest_distances(batch.n_atoms, batch.values["positions"])
        invalid = self._check(batch, shortest)  # what follows needs atomic numbers
        self._count_distances(batch, shortest, invalid)
        self._count_elements(batch)
        self._count_states(batch)
        self._count_labels(batch)
        if "forces" in self._fields:
            self._count_forces(batch)

    def summary(self) -> dict[str, Any]:
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
                {
                    "level": self._levels_of[index] if index >= 0 else None,
                    "count": count,
                }
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
        # Complex numbers are sorted as pairs, and much faster than rows of an array.
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
    histogram.counts += counts[1:]
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
