"""What a manifest says about the molecules: counted while they are written."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_training.storage.layout import FIELDS, LABELS

Array = NDArray[Any]


class Tally:
    """Counts molecules, elements, states and labels of arrays as they lie on disk."""

    def __init__(self) -> None:
        self.num_molecules = 0
        self.num_atoms = 0
        self._elements: set[int] = set()
        self._states: Counter[tuple[int, int]] = Counter()
        self._labels: Counter[str] = Counter()

    def add(self, n_atoms: Array, arrays: Mapping[str, Array]) -> None:
        """Count some molecules more."""
        self.num_molecules += len(n_atoms)
        self.num_atoms += int(np.sum(n_atoms))
        self._elements.update(_distinct(arrays["atomic_numbers"]))
        first = np.cumsum(n_atoms) - n_atoms
        for name in LABELS:
            if name in arrays:
                self._labels[name] += _complete(name, arrays[name], first)
        spin = arrays.get("spin_multiplicity")
        if spin is None:
            return
        known = np.isfinite(spin)
        states = np.stack([arrays["total_charge"][known], spin[known]])
        pairs = states.astype(np.int64)
        codes, counts = np.unique((pairs[0] << 32) + pairs[1], return_counts=True)
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
            charge = (code + (1 << 31)) >> 32
            self._states[(charge, code - (charge << 32))] += count

    def summary(self) -> dict[str, Any]:
        """The manifest's entries."""
        return {
            "num_molecules": self.num_molecules,
            "num_atoms": self.num_atoms,
            "elements": sorted(self._elements),
            "states": [
                {"charge": charge, "multiplicity": multiplicity, "count": count}
                for (charge, multiplicity), count in sorted(self._states.items())
            ],
            "spin_known": self._states.total() == self.num_molecules,
            "labels": {n: self._labels[n] for n in LABELS if self._labels[n]},
        }


class Numbering:
    """Numbers names in order of their appearance; -1 for an empty one.

    Args:
        dtype: Integer type of the numbers.
    """

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self.names: dict[str, int] = {}

    def __call__(self, names: Iterable[str]) -> Array:
        """The number of each name, of the type asked for.

        Raises:
            ValueError: There are more names than the type can number.
        """
        known = self.names
        array = names if isinstance(names, np.ndarray) else np.array(list(names), str)
        if len(array) and (array == array[0]).all():  # often one level for all
            array, count = array[:1], len(array)
        else:
            count = 1
        numbers = [
            known.setdefault(name, len(known)) if name else -1
            for name in map(str, array.tolist())
        ]
        if len(known) > np.iinfo(self.dtype).max:
            raise ValueError(
                f"{len(known)} different levels of theory or names, such as "
                f"{next(reversed(known))!r}; at most {np.iinfo(self.dtype).max} fit"
            )
        return np.repeat(np.array(numbers, dtype=self.dtype), count)


def _distinct(numbers: Array) -> list[int]:
    """Distinct values; without sorting where they are small."""
    if numbers.min() < 0 or numbers.max() > 255:
        found: list[int] = np.unique(numbers).tolist()
        return found
    return list(np.flatnonzero(np.bincount(numbers)).tolist())


def _complete(name: str, array: Array, first: Array) -> int:
    """Molecules that have every component of a label."""
    finite: Array = np.isfinite(array)
    if finite.all():
        return len(first)
    rows: Array = np.asarray(finite.reshape(len(array), -1).all(axis=1))
    if FIELDS[name].per_atom:
        rows = np.logical_and.reduceat(rows, first)
    return int(rows.sum())
