"""The audit of a whole dataset: what it holds, and what in it deserves a look."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_training.audit.counts import AuditCounts, Histogram, SuspiciousRows
from physnet_training.audit.duplicates import DuplicateFinder
from physnet_training.audit.energies import LinearFit, make_design, molecule_energies
from physnet_training.audit.plausibility import (
    are_total,
    energy_ratio,
    judge_units,
    read_for_audit,
    sample,
)
from physnet_training.packed import PackedDataset

Array = NDArray[Any]
OnAudit = Callable[[int, int], None]
"""Called with the molecules audited so far and their number."""

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
        self.suspicious = SuspiciousRows()
        self.names = read_for_audit(dataset)
        self.samples = sample(dataset)
        self.total_energies = are_total(energy_ratio(self.samples)[0])
        self.has_energies = "energy" in dataset.fields

    def run(self) -> dict[str, Any]:
        counts = AuditCounts(self.dataset.fields, self.suspicious)
        fit = LinearFit()
        with DuplicateFinder(self.dataset, limit=_SHOWN_DUPLICATES) as finder:
            for batch in self._batches(0):
                try:
                    counts.add(batch)
                except ValueError as error:
                    raise ValueError(f"{self.dataset.path}: {error}") from error
                finder.add(batch)
                if self.has_energies:
                    energies = batch.values["energy"]
                    fit.add(make_design(batch), energies, self._on_scale(batch))
            duplicates = finder.find()
        energies_found = self._energies(fit) if self.has_energies else None
        if self.progress is not None:
            self.progress(self.dataset.num_molecules, self.dataset.num_molecules)
        return {
            "num_molecules": self.dataset.num_molecules,
            "num_atoms": self.dataset.num_atoms,
            **counts.summary(self.dataset.levels),
            "energies": energies_found,
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

    def _energies(self, fit: LinearFit) -> dict[str, Any] | None:
        """Outliers of the fit; where there are any, it is repeated without them."""
        limits = _Limits(fit, self.samples, self._on_scale)
        if not limits.count:
            return None
        histogram, found = self._deviations(limits, 1)
        if found.totals:
            refined = LinearFit()
            for batch in self._batches(2):
                usable = np.isfinite(batch.values["energy"])
                usable &= ~limits.exceeded(batch, limits.deviations(batch))
                refined.add(make_design(batch), batch.values["energy"], usable)
            limits = _Limits(refined, self.samples, self._on_scale)
            histogram, found = self._deviations(limits, 3)
        self.suspicious.merge(found)
        return {
            "fits": [
                {
                    "level": self.dataset.levels[level] if level >= 0 else None,
                    "elements": {
                        chemical_symbols[key]: energy
                        for key, energy in found.items()
                        if isinstance(key, int)
                    },
                }
                for level, found in limits.fit.coefficients().items()
            ],
            "deviation_per_atom": {
                "median_absolute": limits.median_absolute,
                "p95_absolute": limits.p95,
                "histogram": histogram.summary(),
            },
        }

    def _deviations(
        self, limits: "_Limits", passed: int
    ) -> tuple[Histogram, SuspiciousRows]:
        """Histogram of the deviations per atom, and the outliers."""
        width = 4 * max(limits.scale, 1e-3)
        histogram, found = Histogram(-width, width, bins=400), SuspiciousRows()
        text = "its energy is {:.4g} eV away from the sum over its atoms and state"
        for batch in self._batches(passed):
            deviations = limits.deviations(batch)
            histogram.add(deviations / batch.n_atoms)
            outside = limits.exceeded(batch, deviations)
            found.add_all(batch, outside, "energy", deviations, text)
        return histogram, found


class _Limits:
    """How far from the fit an energy may be, from a sample of the data itself."""

    def __init__(
        self,
        fit: LinearFit,
        samples: list[Molecules],
        usable: Callable[[Molecules], Array],
    ) -> None:
        self.fit = fit
        self._centre = 0.0
        found = np.concatenate(
            [(self.deviations(p) / p.n_atoms)[usable(p)] for p in samples]
        )
        found = found[np.isfinite(found)]
        self.count = len(found)
        self._centre = float(np.median(found)) if self.count else 0.0
        away = np.abs(found - self._centre)
        self.median_absolute = float(np.median(away)) if self.count else 0.0
        self.p95 = float(np.quantile(away, 0.95)) if self.count else 0.0
        # Many outliers widen the percentile, the median much less.
        self.scale = min(self.p95, 10 * self.median_absolute)

    def deviations(self, batch: Molecules) -> Array:
        """Energies above the fit, NaN where there is no energy. [molecules] eV."""
        return (
            batch.values["energy"]
            - self.fit.predict(make_design(batch))
            - self._centre * batch.n_atoms
        )

    def exceeded(self, batch: Molecules, deviations: Array) -> Array:
        """Whether molecules are far outside, per atom and as a whole."""
        per_atom = max(_OUTLIER * self.scale, _MIN_DEVIATION)
        whole = _MIN_TOTAL + _PER_CHARGE * np.abs(batch.values["total_charge"])
        away = np.abs(deviations)
        return (away > per_atom * batch.n_atoms) & (away > whole)
