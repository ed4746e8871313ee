"""How much of what a loader yields is padding."""

from typing import Any, NamedTuple

import numpy as np

from physnet_ase.graph import Graph


class Padding(NamedTuple):
    """Padding of the batches that a loader has yielded so far."""

    atoms: float  # fraction of the atom slots that hold no atom
    pairs: float  # fraction of the pair slots that hold no pair
    shapes: int  # different static shapes; pairs of dense batches have none
    batches: int


class PaddingCount:
    """Sums behind :class:`Padding`."""

    def __init__(self) -> None:
        self._sums = [0, 0, 0, 0]  # atoms, their slots, pairs, their slots
        self._shapes: set[tuple[int, ...]] = set()
        self._batches = 0

    def add_graph(self, graph: Graph) -> None:
        """Count a graph."""
        atoms, pairs, long_pairs = (
            graph.atom_mask,
            graph.pair_mask,
            graph.long_pair_mask,
        )
        shape = (len(atoms), len(pairs), len(long_pairs))
        held = int(np.count_nonzero(atoms)), int(np.count_nonzero(pairs))
        self._add((held[0], shape[0], held[1], shape[1]), shape)

    def add_dense(self, batch: dict[str, Any]) -> None:
        """Count a dense batch, whose pairs are all real."""
        numbers, pairs = batch["Z"], len(batch.get("dst_idx", ()))
        self._add((int(batch["N"].sum()), numbers.size, pairs, pairs), numbers.shape)

    def _add(self, sums: tuple[int, int, int, int], shape: tuple[int, ...]) -> None:
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)]
        self._shapes.add(shape)
        self._batches += 1

    def report(self) -> Padding:
        """The fractions; 0 where nothing was yielded."""
        atoms, atom_slots, pairs, pair_slots = self._sums
        return Padding(
            1.0 - atoms / atom_slots if atom_slots else 0.0,
            1.0 - pairs / pair_slots if pair_slots else 0.0,
            len(self._shapes),
            self._batches,
        )
