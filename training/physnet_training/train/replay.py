"""Old data beside new ones, so that a fine-tuned model keeps what it knew."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_training.packed import PackedDataset

Array = NDArray[Any]


def replayed(dataset: PackedDataset, old: int) -> Array:
    """Which molecules are old. [molecules] bool.

    Args:
        dataset: Converted from new sources and, behind them, old ones.
        old: How many of the sources are old.

    Raises:
        ValueError: The dataset does not say which source its molecules come from.
    """
    pieces = [
        (entry.get("source", -1), entry.get("num_molecules", 0))
        for manifest in dataset.manifests
        for entry in manifest.get("provenance", [])
    ]
    sources, counts = np.array(pieces, np.int64).reshape(-1, 2).T
    is_old = sources > sources.max(initial=-1) - old
    if counts.sum() != len(dataset) or is_old.all():
        raise ValueError(
            f"{dataset.path} was not converted from data.sources and data.replay: it "
            "does not say which molecules are old"
        )
    return np.repeat(is_old, counts)


class Replay:
    """Batches of old molecules, as functions of their number alone.

    Args:
        molecules: Rows of the dataset.
        share: Of the batches that are made of them, from 0 to below 1.
        seed: Of the draws.
    """

    def __init__(self, molecules: Array, share: float, seed: int) -> None:
        self._molecules, self._share, self._seed = molecules, share, seed

    def batch(self, number: int, count: int) -> Array | None:
        """At most ``count`` rows of the batch of this number; None: one of new data."""
        rng = np.random.default_rng([self._seed, 0x01D, number])
        if not len(self._molecules) or rng.random() >= self._share:
            return None
        drawn = rng.choice(
            self._molecules, min(count, len(self._molecules)), replace=False
        )
        return np.sort(drawn)
