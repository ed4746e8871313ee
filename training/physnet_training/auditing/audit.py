"""The audit of a whole dataset: what it holds, and what in it deserves a look."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from physnet_training.auditing.counts import AuditCounts, SuspiciousRows
from physnet_training.auditing.duplicates import DuplicateFinder
from physnet_training.auditing.energy_fit import LinearFit, make_design
from physnet_training.auditing.energy_scale import molecule_energies
from physnet_training.auditing.histogram import Histogram
from physnet_training.auditing.pieces import Piece, pieces, sample
from physnet_training.auditing.plausibility import are_total, energy_ratio, judge_units
from physnet_training.packed import PackedDataset

Array = NDArray[Any]
AuditProgress = Callable[[int, int], None]

_OFF_SCALE = 0.5  # of a total energy; no molecule differs that much from its atoms
_ALL_ELECTRON = 36  # heavier atoms often have their core replaced by a potential
_OUTLIER = 12.0  # times the 95th percentile of deviations; 8 in real, diverse data
_MIN_DEVIATION = 0.1  # eV per atom
_MIN_TOTAL = 10.0  # eV; the energy of several bonds
_PER_CHARGE = 25.0  # eV; atoms of several elements hold on to electrons so differently
_SHOWN_DUPLICATES = 20
_SHARES = (0.7, 0.8, 0.9, 1.0)  # of the time, after each pass


def audit_dataset(
    dataset: PackedDataset, *, on_progress: AuditProgress | None = None
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
    def __init__(self, dataset: PackedDataset, progress: AuditProgress | None) -> None:
        self.dataset = dataset
        self.progress = progress
        self.suspicious = SuspiciousRows()
        self.samples = sample(dataset)
        self.total_energies = are_total(energy_ratio(self.samples)[0])
        self.has_energies = "energy" in dataset.fields

    def run(self) -> dict[str, Any]:
        counts = AuditCounts(self.dataset.fields, self.suspicious)
        fit = LinearFit()
        with DuplicateFinder(self.dataset, limit=_SHOWN_DUPLICATES) as finder:
            for piece in self._pieces(0):
                try:
                    counts.add(piece)
                except ValueError as error:
                    raise ValueError(f"{self.dataset.path}: {error}") from error
                finder.add(piece)
                if self.has_energies:
                    energies = piece.take("energy")
                    fit.add(make_design(piece), energies, self._on_scale(piece))
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

    def _pieces(self, passed: int) -> Any:
        """All pieces, with the progress of the whole audit."""
        begin = _SHARES[passed - 1] if passed else 0.0
        count = self.dataset.num_molecules
        for piece in pieces(self.dataset):
            yield piece
            if self.progress is not None:
                share = (int(piece.rows[-1]) + 1) / count
                share = begin + share * (_SHARES[passed] - begin)
                self.progress(min(int(share * count), count - 1), count)

    def _on_scale(self, piece: Piece) -> Array:
        """Molecules with an energy that may take part in the fit at first."""
        energies = piece.take("energy")
        finite = np.isfinite(energies)
        if not self.total_energies:
            return finite
        numbers = piece.take("atomic_numbers")
        scale = molecule_energies(numbers, piece.starts)
        allowed = np.maximum(_OFF_SCALE * np.abs(scale), _PER_CHARGE + _MIN_TOTAL)
        heavy = np.maximum.reduceat(numbers, piece.starts) > _ALL_ELECTRON
        return finite & (heavy | (np.abs(energies - scale) < allowed))

    def _energies(self, fit: LinearFit) -> dict[str, Any] | None:
        """Outliers of the fit; where there are any, it is repeated without them."""
        limits = _Limits(fit, self.samples, self._on_scale)
        if not limits.count:
            return None
        histogram, found = self._deviations(limits, 1)
        if found.totals:
            refined = LinearFit()
            for piece in self._pieces(2):
                usable = np.isfinite(piece.take("energy"))
                usable &= ~limits.exceeded(piece, limits.deviations(piece))
                refined.add(make_design(piece), piece.take("energy"), usable)
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
        for piece in self._pieces(passed):
            deviations = limits.deviations(piece)
            histogram.add(deviations / piece.sizes)
            outside = limits.exceeded(piece, deviations)
            found.add_all(piece, outside, "energy", deviations, text)
        return histogram, found


class _Limits:
    """How far from the fit an energy may be, from a sample of the data itself."""

    def __init__(
        self, fit: LinearFit, samples: list[Piece], usable: Callable[[Piece], Array]
    ) -> None:
        self.fit = fit
        self._centre = 0.0
        found = np.concatenate(
            [(self.deviations(p) / p.sizes)[usable(p)] for p in samples]
        )
        found = found[np.isfinite(found)]
        self.count = len(found)
        self._centre = float(np.median(found)) if self.count else 0.0
        away = np.abs(found - self._centre)
        self.median_absolute = float(np.median(away)) if self.count else 0.0
        self.p95 = float(np.quantile(away, 0.95)) if self.count else 0.0
        # Many outliers widen the percentile, the median much less.
        self.scale = min(self.p95, 10 * self.median_absolute)

    def deviations(self, piece: Piece) -> Array:
        """Energies above the fit, NaN where there is no energy. [molecules] eV."""
        return (
            piece.take("energy")
            - self.fit.predict(make_design(piece))
            - self._centre * piece.sizes
        )

    def exceeded(self, piece: Piece, deviations: Array) -> Array:
        """Whether molecules are far outside, per atom and as a whole."""
        per_atom = max(_OUTLIER * self.scale, _MIN_DEVIATION)
        whole = _MIN_TOTAL + _PER_CHARGE * np.abs(piece.take("total_charge"))
        away = np.abs(deviations)
        return (away > per_atom * piece.sizes) & (away > whole)
