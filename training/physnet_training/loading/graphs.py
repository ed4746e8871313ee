"""From molecule indices to padded graphs: gathering, pairs, the choice of a shape."""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.graph import Graph
from physnet_training.loading.batching import Atoms, Shape, fits, pad_graph
from physnet_training.loading.pairs import (
    Pairs,
    mixed_pairs,
    open_pairs,
    periodic_pairs,
)
from physnet_training.loading.reading import Gathered
from physnet_training.loading.shapes import choose_shapes
from physnet_training.packed import PackedDataset
from physnet_training.packed.reader import parts

Array = NDArray[Any]
logger = logging.getLogger(__name__)

_LABELS = ("energy", "forces", "dipole", "charges", "spin_populations")
_PER_ATOM = ("forces", "charges", "spin_populations")
_SAMPLE_ATOMS = 20_000  # atoms looked at to estimate the pairs within a cutoff
_SAMPLE_FROM = 100_000  # molecules among which these are chosen by size
_PAIR_MARGIN = 1.15  # of the fitted shapes where pairs are estimated
_ESTIMATE_MARGIN = 1.3  # densities differ; an overflow costs one more compilation


class GraphBuilder:
    """Builds the graphs of one loader at one cutoff.

    Args:
        dataset: Where the molecules are.
        indices: The loader's molecules.
        slots: Molecules per graph.
        cutoff: Pairs closer than this (Å); None: all pairs inside a molecule.
        processes: With more than one process the shapes must agree without looking at
            the others' positions, so capacities are those without a cutoff.

    Raises:
        ValueError: Periodic molecules without a cutoff.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        indices: Array,
        slots: int,
        *,
        cutoff: float | None = None,
        processes: int = 1,
    ) -> None:
        self.dataset = dataset
        self.slots = slots
        self.cutoff = cutoff
        self.processes = processes
        self.shapes: list[Shape] = []
        self._periodic, every = _periodic_ones(dataset, indices)
        # Periodic molecules have no long pairs; a mixture is sized as if all had them.
        self._long = 0.0 if every else 0.5
        self._labels = [name for name in _LABELS if name in dataset.fields]
        if self._periodic and cutoff is None:
            raise ValueError(
                f"{dataset.path} holds periodic structures: graphs need a cutoff"
            )
        self.fills = {"atomic_numbers": 0.0, "positions": 0.0}
        self.fills |= dict.fromkeys(self._labels, np.nan)
        if self._periodic:
            self.fills |= {"cell": 0.0, "pbc": 0.0}
        self._estimated = self._periodic or (cutoff is not None and processes == 1)
        self._sample_sizes = np.zeros(0)
        if self._estimated:
            self._sample(indices)

    def fit_shapes(self, sizes: Array, batches: list[Array]) -> None:
        """Choose the static shapes.

        Args:
            sizes: Number of atoms of every molecule of the loader.
            batches: Sizes of the molecules of some batches of this process.
        """
        top = min(self.slots, len(sizes))
        largest = np.partition(sizes, -top)[-top:].astype(np.int64)
        bound = self.need(largest)
        if self._periodic:
            crowd = largest * self._crowded * _ESTIMATE_MARGIN
            bound = bound._replace(pairs=int(np.ceil(crowd.sum())))
        elif self._estimated:
            bound = bound._replace(pairs=int(largest @ (largest - 1)))
        # Batches that differ leave padded pairs, which need a padded atom to point at.
        varied = self.cutoff is not None or bool((sizes != sizes[0]).any())
        worst = bound._replace(atoms=bound.atoms + int(varied))
        if self._periodic and self.processes > 1:
            self.shapes = [worst]  # a choice would need the others' positions
            return
        needs = np.array([self.need(batch) for batch in batches], dtype=np.float64)
        margin = _PAIR_MARGIN if self._estimated else 1.0
        self.shapes = choose_shapes(needs, worst, pair_margin=margin)

    def need(self, sizes: Array) -> Shape:
        """Atoms, pairs (estimated with a cutoff) and long pairs of such molecules."""
        n = sizes.astype(np.float64)
        neighbors = n - 1
        if self._estimated:
            near = np.interp(n, self._sample_sizes, self._sample_neighbors)
            neighbors = near if self._periodic else np.minimum(neighbors, near)
        long_pairs = self._long * (n @ (n - 1))
        return Shape(int(n.sum()), int(np.ceil(n @ neighbors)), int(long_pairs))

    def build(
        self, found: Gathered, molecules: Array, others: list[Array] | None = None
    ) -> Graph:
        """The padded graph of some molecules.

        Args:
            found: The molecules with the fields of ``fills``.
            molecules: Rows of ``found``, at most ``slots``.
            others: Sizes of the molecules of every process, where there are several:
                all of them must come to the same shape.
        """
        atoms = self._atoms(found, molecules)
        pairs = self._pairs(found, molecules, atoms)
        need = Shape(
            len(atoms.atomic_numbers), len(pairs.senders), len(pairs.long_senders)
        )
        needs = [need]
        if others is not None:
            needs = [self.need(sizes) for sizes in others]
            if self.cutoff is not None:
                # Fewer pairs are real, so that padded ones may need a padded atom.
                needs = [n._replace(atoms=n.atoms + 1) for n in needs]
        return pad_graph(atoms, pairs, self._shape(need, needs), self.slots)

    def _shape(self, need: Shape, needs: list[Shape]) -> Shape:
        """The first shape for all ``needs``; where only estimates agree, the largest.

        Raises:
            ValueError: With several processes, the batch exceeds the largest shape.
        """
        for shape in self.shapes:
            if all(fits(shape, each) for each in needs):
                return shape
        if self.processes > 1 and fits(self.shapes[-1], need):
            return self.shapes[-1]
        grown = Shape(*(int(np.ceil(1.2 * n)) + 1 for n in need))
        if self.processes > 1:
            raise ValueError(
                f"{self.dataset.path}: a batch needs {need}, the largest shape is "
                f"{self.shapes[-1]}, and other processes cannot know; use a smaller "
                "batch or one process"
            )
        logger.warning("no shape of %s holds %s: adding %s", self.shapes, need, grown)
        self.shapes.append(grown)
        return grown

    def _atoms(self, found: Gathered, molecules: Array) -> Atoms:
        sizes = found.sizes.take(molecules)
        start = found.first.take(molecules) - (np.cumsum(sizes) - sizes)
        rows = np.repeat(start, sizes) + np.arange(int(sizes.sum()))
        values = found.values
        if self._periodic:
            periodic = values["pbc"].take(molecules, axis=0).max(axis=1) > 0
        else:
            periodic = np.zeros(len(molecules), dtype=bool)
        return Atoms(
            sizes=sizes,
            atomic_numbers=values["atomic_numbers"].take(rows),
            positions=values["positions"].take(rows, axis=0),
            total_charge=values["total_charge"].take(molecules),
            spin_multiplicity=values["spin_multiplicity"].take(molecules),
            periodic=periodic,
            weight=values["weight"].take(molecules),
            labels={
                name: values[name].take(
                    rows if name in _PER_ATOM else molecules, axis=0
                )
                for name in self._labels
            },
        )

    def _pairs(self, found: Gathered, molecules: Array, atoms: Atoms) -> Pairs:
        if self.cutoff is None or not atoms.periodic.any():
            return open_pairs(atoms.sizes, atoms.positions, self.cutoff)
        return mixed_pairs(
            atoms.sizes,
            atoms.positions,
            cells=found.values["cell"].take(molecules, axis=0),
            pbc=found.values["pbc"].take(molecules, axis=0),
            cutoff=self.cutoff,
        )

    def _sample(self, indices: Array) -> None:
        """Neighbours per atom within the cutoff, looked up in some molecules."""
        cutoff = float("inf") if self.cutoff is None else self.cutoff
        some = indices[:: -(-len(indices) // _SAMPLE_FROM)]
        sizes = self.dataset.n_atoms[indices]
        largest = indices[int(np.argmax(sizes))]
        indices = np.append(some, largest)
        sizes = self.dataset.n_atoms[indices]
        count = int(np.clip(_SAMPLE_ATOMS / sizes.mean(), 16, len(indices)))
        ranks = np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int)
        rows = indices[np.argsort(sizes, kind="stable")[ranks]]
        pbc = self.dataset.take("pbc", rows)
        cells = self.dataset.take("cell", rows)
        found = []
        for row, cell, directions in zip(rows, cells, pbc, strict=True):
            atoms = np.arange(self.dataset.offsets[row], self.dataset.offsets[row + 1])
            positions = self.dataset.take("positions", atoms)
            if directions.any():
                pairs = periodic_pairs(positions, cell, directions, cutoff)
            else:
                pairs = open_pairs(np.array([len(atoms)]), positions, cutoff)
            found.append(len(pairs.senders) / len(atoms))
        near = np.array(found)
        self._crowded = float(near.max())
        n = self.dataset.n_atoms[rows]
        self._sample_sizes = np.unique(n)
        self._sample_neighbors = np.array(
            [near[n == size].mean() for size in self._sample_sizes]
        )


def _periodic_ones(dataset: PackedDataset, molecules: Array) -> tuple[bool, bool]:
    """Whether any, and whether every molecule has a periodic direction."""
    if "pbc" not in dataset.fields:
        return False, False
    found = [dataset.take("pbc", rows).max(axis=1) > 0 for rows in parts(molecules)]
    return any(p.any() for p in found), all(p.all() for p in found)
