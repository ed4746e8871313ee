"""A packed dataset in pieces of consecutive molecules, for what reads all of it."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_training.packed import PackedDataset
from physnet_training.storage.layout import FIELDS

Array = NDArray[Any]

_MAX_MOLECULES = 1 << 16
_MAX_ATOMS = 1 << 18  # 3 MB of positions; work arrays on top stay below 50 MB
_SAMPLE_MOLECULES = 20_000
_SAMPLE_ATOMS = 1 << 19
_SAMPLE_RUN = 100


class Piece:
    """Some consecutive molecules; each field is read once and kept.

    Attributes:
        rows: [molecules] int64 numbers of the molecules in the dataset.
        sizes: [molecules] int64 number of atoms.
        starts: [molecules] int64 first atom of each, counted from the piece's first.
    """

    def __init__(self, dataset: PackedDataset, first: int, end: int) -> None:
        self._dataset = dataset
        self.rows = np.arange(first, end)
        self.sizes = dataset.n_atoms[first:end].astype(np.int64)
        self.starts = np.cumsum(self.sizes) - self.sizes
        self._spans = {
            False: (first, end),
            True: (int(dataset.offsets[first]), int(dataset.offsets[end])),
        }
        self._taken: dict[str, Array] = {}

    def take(self, name: str) -> Array:
        """A field of ``layout.FIELDS``: one row per molecule or atom, read-only."""
        if name not in self._taken:
            span = self._spans[FIELDS[name].per_atom]
            self._taken[name] = self._dataset.span(name, *span)
        return self._taken[name]

    @cached_property
    def owners(self) -> Array:
        """[atoms] index in the piece of the molecule that an atom belongs to."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @cached_property
    def multiplicity(self) -> Array:
        """[molecules] float32 2S+1, NaN where it is neither stored nor assumed."""
        return self._dataset.multiplicities(self.rows)


def pieces(dataset: PackedDataset) -> Iterator[Piece]:
    """All molecules in order, in pieces of bounded size."""
    first, count = 0, dataset.num_molecules
    while first < count:
        end = min(first + _MAX_MOLECULES, count)
        limit = int(dataset.offsets[first]) + _MAX_ATOMS
        fitting = int(np.searchsorted(dataset.offsets[first : end + 1], limit, "right"))
        end = first + max(min(fitting - 1, end - first), 1)
        yield Piece(dataset, first, end)
        first = end


def sample(dataset: PackedDataset) -> list[Piece]:
    """Up to 20,000 molecules in runs of neighbours, spread evenly over the dataset.

    Neighbours, because frames of one trajectory stand next to each other.
    """
    count = dataset.num_molecules
    per_molecule = dataset.num_atoms // count + 1
    total = min(count, _SAMPLE_MOLECULES, _SAMPLE_ATOMS // per_molecule + 1)
    run = count if total == count else min(total, _SAMPLE_RUN)
    starts = np.linspace(0, count - run, max(total // run, 1)).astype(np.int64)
    return [Piece(dataset, first, first + run) for first in starts.tolist()]
