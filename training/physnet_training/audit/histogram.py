"""Histograms that grow piece by piece, with the percentiles they allow."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

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
