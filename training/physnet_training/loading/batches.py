"""From molecule indices to batches: reading many at once, padding, shapes."""

import logging
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.graph import (
    Capacity,
    Graph,
    build_graph,
    needed_capacity,
)
from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import (
    NO_MESH,
    every_ordered_pair,
    find_pairs,
    finest_mesh,
    pairs_from,
    runs_of_equal_size,
    without_vacuum,
)
from physnet_ase.quantities import QUANTITIES, trained
from physnet_training.loading.geometries import geometry_keys, ladder_numbers
from physnet_training.loading.shapes import choose_shapes
from physnet_training.packed import PackedDataset
from physnet_training.packed.reader import parts

Array = NDArray[Any]
logger = logging.getLogger(__name__)

DENSE_QUANTITIES = ("atomic_numbers", "positions", "forces", "energy")
"""What a dense batch holds besides the states."""
_READ_ATOMS = 1 << 16  # read at once: two megabytes
_MOST_ATOMS = 1 << 18
_ATOMS_PER_SHARD = 1 << 12
_BLOCK_PAIRS = 1 << 16  # blocks of patterns up to this many pairs are kept: 32 MB
_SAMPLE_ATOMS = 20_000  # atoms looked at to estimate the pairs within a cutoff
_SAMPLE_FROM = 100_000  # molecules among which these are chosen by size
_PAIR_MARGIN = 1.15  # of the fitted shapes where pairs are estimated
_ESTIMATE_MARGIN = 1.3  # densities differ; an overflow costs one more compilation


def atoms_at_once(dataset: PackedDataset) -> int:
    """How many atoms to read in one go: more where there are many shards to visit."""
    wanted = len(dataset.manifests) * _ATOMS_PER_SHARD
    return min(max(_READ_ATOMS, wanted), _MOST_ATOMS)


def read_batches(
    dataset: PackedDataset,
    batches: list[Array],
    names: tuple[str, ...],
    *,
    whole_states: bool,
) -> tuple[Molecules, list[Array]]:
    """Read the molecules of several batches in one go, in the order of the files.

    That costs little per batch, reads each file from its beginning to its end (what
    spinning disks and network storage like), and visits each of many shards once.
    Batches are then cut from memory that is still in the cache.

    Args:
        dataset: Where they are.
        batches: Dataset indices of each batch's molecules.
        names: Quantities to read; the state comes in any case.
        whole_states: Charge and multiplicity as integers that must be known, instead
            of float32 with NaN for a missing multiplicity.

    Returns:
        The molecules, and for each batch the places of its molecules among them.
    """
    wanted = np.concatenate(batches)
    order = np.argsort(wanted, kind="stable")
    ascending = wanted[order].astype(np.int64, copy=False)
    place = np.empty(len(wanted), dtype=np.int64)
    place[order] = np.arange(len(wanted))
    values = dataset.take_all(
        [name for name in names if QUANTITIES[name].per_atom],
        dataset.atom_rows(ascending),
    ) | dataset.take_all(
        [name for name in names if not QUANTITIES[name].per_atom], ascending
    )
    if whole_states:
        charge, spin = dataset.states_of(ascending)
    else:
        charge = dataset.take("total_charge", ascending)
        spin = dataset.multiplicities(ascending)
    values |= {"total_charge": charge, "spin_multiplicity": spin}
    molecules = Molecules(
        dataset.n_atoms[ascending].astype(np.int32, copy=False), values, ascending
    )
    dataset.check(molecules)
    return molecules, np.split(place, np.cumsum([len(b) for b in batches])[:-1])


def with_filler(molecules: Molecules) -> dict[str, Array]:
    """What dense batches hold per atom, and a row of zeros behind the last atom.

    Padding is then a row number like any other: one ``take`` cuts and pads.
    """
    return {
        name: np.concatenate([array, np.zeros((1, *array.shape[1:]), array.dtype)])
        for name, array in molecules.values.items()
        if QUANTITIES[name].per_atom
    }


def dense_batch(
    molecules: Molecules,
    filled: Mapping[str, Array],
    places: Array,
    slots: int,
    *,
    num_atoms: int,
    with_pairs: bool,
    weights: Array | None,
) -> dict[str, Array]:
    """Cut molecules out as arrays of ``slots`` rows and ``num_atoms`` columns.

    Args:
        molecules: With ``DENSE_QUANTITIES``.
        filled: Theirs per atom, see :func:`with_filler`.
        places: Those of the batch among them, at most ``slots``.
        slots: B, the rows; filler rows have N = 0 and index -1.
        num_atoms: A, at least the largest molecule.
        with_pairs: Add ``dst_idx``, ``src_idx`` and ``batch_segments``.
        weights: [molecules of the dataset] weights in the loss; None: no ``weight``.

    Returns:
        The arrays described at ``PackedMemmapLoader.batches``.
    """
    count, values = len(places), molecules.values
    sizes = np.zeros(slots, np.int32)
    sizes[:count] = molecules.n_atoms.take(places)
    columns = np.arange(num_atoms)
    mask = columns < sizes[:, None]
    first = np.zeros(slots, np.int64)
    first[:count] = molecules.first_atom.take(places)
    filler = len(filled["atomic_numbers"]) - 1
    atoms = np.where(mask, first[:, None] + columns, filler)
    index = np.full(slots, -1, np.int64)
    index[:count] = molecules.rows.take(places)
    batch = {
        "Z": filled["atomic_numbers"].take(atoms),
        "R": filled["positions"].take(atoms, axis=0),
        "F": filled["forces"].take(atoms, axis=0),
        "E": _filled(values["energy"], places, slots, 0.0),
        "N": sizes,
        "total_charge": _filled(values["total_charge"], places, slots, 0),
        "total_spin": _filled(values["spin_multiplicity"], places, slots, 1),
        "mask": mask,
        "index": index,
    }
    if weights is not None:
        known = weights[index[:count]].astype(np.float32)
        batch["weight"] = _filled(known, np.arange(count), slots, 0.0)
    if with_pairs:
        batch["src_idx"], batch["dst_idx"] = slot_pairs(sizes, num_atoms)
        batch["batch_segments"] = _segments(slots, num_atoms).copy()
    return batch


def _filled(array: Array, places: Array, length: int, fill: float) -> Array:
    if len(places) == length:
        return array.take(places)
    result = np.full(length, fill, array.dtype)
    result[: len(places)] = array.take(places)
    return result


@lru_cache(maxsize=16)
def _segments(slots: int, width: int) -> Array:
    return np.repeat(np.arange(slots, dtype=np.int32), width)


def slot_pairs(sizes: Array, width: int) -> tuple[Array, Array]:
    """``pairs_from`` for molecules that each have ``width`` atom slots."""
    slots = len(sizes)
    if int(sizes.max(initial=0)) ** 2 * slots > _BLOCK_PAIRS:
        return pairs_from(sizes, np.arange(slots, dtype=np.int32) * np.int32(width))
    runs = runs_of_equal_size(sizes)
    total = sum((end - start) * n * (n - 1) for start, end, n in runs)
    joined = np.empty((2, total), np.int32)
    done = 0
    for start, end, size in runs:
        upto = done + (end - start) * size * (size - 1)
        block = _block(size, slots, width)[:, start:end]
        joined[:, done:upto] = block.reshape(2, upto - done)
        done = upto
    return joined[0], joined[1]


@lru_cache(maxsize=64)
def _block(size: int, slots: int, width: int) -> Array:
    """The ordered pattern in each of many slots. [2, slots, n(n-1)]."""
    first = np.arange(slots, dtype=np.int32) * np.int32(width)
    return first[:, None] + every_ordered_pair(size)[:, None, :]


class GraphBatches:
    """Makes the graphs of one loader at one cutoff.

    Args:
        dataset: Where the molecules are.
        indices: The loader's molecules.
        slots: Molecules per graph; a batch may come as several graphs.
        cutoff: Pairs closer than this (Å); None: all pairs inside a molecule.
        processes: With more than one process the shapes must agree without looking at
            the others' positions, so capacities are those without a cutoff.
        keep_ladders: Labels say which molecules of a graph are one geometry.

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
        keep_ladders: bool = False,
    ) -> None:
        self.dataset = dataset
        self.slots = slots
        self.cutoff = cutoff
        self.processes = processes
        self.keep_ladders = keep_ladders
        self.shapes: list[Capacity] = []
        self._planned = 0  # of these, chosen before the first batch
        self._labels = [q.name for q in trained() if q.name in dataset.fields]
        self._periodic = _any_periodic(dataset, indices)
        if self._periodic and cutoff is None:
            raise ValueError(
                f"{dataset.path} holds periodic structures: graphs need a cutoff"
            )
        boxes = ("cell", "pbc") if self._periodic else ()
        levels = ("level",) if len(dataset.levels) > 1 else ()
        weight = ("weight",) if "weight" in dataset.fields else ()
        if weight:
            _check_weights(dataset, indices)
        own = (*self._labels, *boxes, *levels, *weight)
        self.names = ("atomic_numbers", "positions", *own)
        self._estimated = self._periodic or (cutoff is not None and processes == 1)
        # Open molecules have all pairs i < j as long ones, periodic ones have none; a
        # mixture is sized as if all had them.
        self._long = 0.5
        self._mesh = NO_MESH  # of periodic molecules
        self._sample_sizes = np.zeros(0)
        if self._estimated:
            self._sample(indices)

    def fit_shapes(
        self,
        sizes: Array,
        batches: list[list[Array]],
        expected: float,
        others: list[list[Molecules]],
        per_batch: float,
    ) -> None:
        """Choose the static shapes.

        Args:
            sizes: Number of atoms of every molecule of the loader.
            batches: Sizes of the molecules of each graph of some batches.
            expected: Batches that will be computed in all.
            others: Molecules of each graph of some batches from elsewhere.
            per_batch: How many of these come for each of the loader's own.
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
        needs = np.array(
            [_largest([self.need(s) for s in shares])[1:4] for shares in batches],
            np.float64,
        )
        if others:
            found = [_largest([self._measured(m) for m in shares]) for shares in others]
            more = np.array([each[1:4] for each in found], np.float64)
            most = _largest(found)
            atoms, pairs, long = (_rounded_up(n) for n in most[1:4])
            mesh = finest_mesh([most[4:7], self._mesh])
            enough = Capacity(self.slots, atoms, pairs, long, *mesh)
            worst = _largest([worst, enough])
            often = max(round(per_batch * len(needs) / len(more)), 1)
            needs = np.concatenate([needs, np.repeat(more, often, axis=0)])
        margin = _PAIR_MARGIN if self._estimated else 1.0
        self.shapes = choose_shapes(needs, worst, pair_margin=margin, expected=expected)
        self._planned = len(self.shapes)

    def _measured(self, molecules: Molecules) -> Capacity:
        """What these molecules need, by their positions where one process is alone."""
        if self.processes > 1:
            need = self.need(molecules.n_atoms)
            return need._replace(atoms=need.atoms + int(self.cutoff is not None))
        if self._periodic and self.cutoff is not None:
            molecules = without_vacuum(molecules, self.cutoff)
        return needed_capacity(molecules, find_pairs(molecules, self.cutoff))

    def need(self, sizes: Array) -> Capacity:
        """Atoms, pairs (estimated with a cutoff) and long pairs of such molecules."""
        n = sizes.astype(np.float64)
        neighbors = n - 1
        if self._estimated:
            near = np.interp(n, self._sample_sizes, self._sample_neighbors)
            neighbors = near if self._periodic else np.minimum(neighbors, near)
        long_pairs = self._long * (n @ (n - 1))
        pairs = int(np.ceil(n @ neighbors))
        return Capacity(self.slots, int(n.sum()), pairs, int(long_pairs), *self._mesh)

    def build(
        self,
        shares: list[Molecules],
        weights: Array | None,
        others: list[Array] | None = None,
    ) -> list[Graph]:
        """The padded graphs of the shares of a batch, all of one shape.

        Args:
            shares: At most ``slots`` molecules each, with ``names``.
            weights: [molecules of the dataset] weights in the loss; None: 1 for each.
            others: Sizes of the molecules of every share of every process, where there
                are several: all of them must come to the same shape.
        """
        if self._periodic and self.cutoff is not None:
            shares = [without_vacuum(share, self.cutoff) for share in shares]
        pairs = [find_pairs(share, self.cutoff) for share in shares]
        own = [
            needed_capacity(*each)._replace(molecules=self.slots)
            for each in zip(shares, pairs, strict=True)
        ]
        needs = own
        if others is not None:
            needs = [self.need(sizes) for sizes in others]
            if self.cutoff is not None:
                # Fewer pairs are real, so that padded ones may need a padded atom.
                needs = [n._replace(atoms=n.atoms + 1) for n in needs]
        shape = self._shape(own, needs)
        return [
            build_graph(
                share,
                its_pairs,
                shape,
                labels=self._labels,
                weight=self._weight(share, weights),
                ladder=_ladders(share) if self.keep_ladders else None,
            )
            for share, its_pairs in zip(shares, pairs, strict=True)
        ]

    def _weight(self, molecules: Molecules, weights: Array | None) -> Array:
        """[molecules] weights in the loss."""
        weight = np.ones(len(molecules)) if weights is None else weights[molecules.rows]
        if "weight" in molecules.values:
            own = molecules.values["weight"]
            weight = weight * np.where(np.isnan(own), 1.0, own)
        return weight.astype(np.float32)

    def _shape(self, own: list[Capacity], needs: list[Capacity]) -> Capacity:
        """The first shape for all ``needs``, which all processes know alike.

        Raises:
            ValueError: With several processes, the batch exceeds the largest shape, and
                the others cannot know.
        """
        if self.processes > 1 and self._periodic:
            [shape] = self.shapes
            if all(shape.holds(each) for each in own):
                return shape
            raise ValueError(
                f"{self.dataset.path}: a batch needs {_largest(own)}, the largest "
                f"shape is {shape}, and other processes cannot know; use a "
                "smaller batch or one process"
            )
        for shape in self.shapes[: self._planned]:
            if all(shape.holds(each) for each in needs):
                return shape
        # Of this batch alone, not of those before it, which a resumed run has not seen:
        # other padding would round otherwise.
        need = _largest(needs)
        atoms, pairs, long = (_rounded_up(n) for n in need[1:4])
        mesh = finest_mesh([need[4:7], self._mesh])
        grown = Capacity(self.slots, atoms, pairs, long, *mesh)
        if grown not in self.shapes:
            text = "no shape of %s holds %s: adding %s"
            logger.warning(text, self.shapes, need, grown)
            self.shapes.append(grown)
        return grown

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
        chosen = np.sort(indices[np.argsort(sizes, kind="stable")[ranks]])
        names = ("atomic_numbers", "positions", "cell", "pbc")
        found, _ = read_batches(self.dataset, [chosen], names, whole_states=False)
        found = without_vacuum(found, cutoff) if self._periodic else found
        pairs = find_pairs(found, cutoff if self.cutoff is not None else None)
        if found.periodic.all():
            self._long = 0.0
        self._mesh = pairs.mesh
        owner = found.owner[pairs.receivers]
        near = np.bincount(owner, minlength=len(found)) / found.n_atoms
        self._crowded = float(near.max())
        self._sample_sizes = np.unique(found.n_atoms)
        self._sample_neighbors = np.array(
            [near[found.n_atoms == size].mean() for size in self._sample_sizes]
        )


def _rounded_up(size: int) -> int:
    """The next of some sizes that grow by a fifth, so that few shapes are added."""
    return math.ceil(1.2 ** math.ceil(math.log(size + 1, 1.2))) + 1


def _ladders(molecules: Molecules) -> Array:
    """[molecules] number of each one's geometry among them."""
    values = molecules.values
    keys = geometry_keys(
        values["atomic_numbers"], values["positions"], molecules.n_atoms
    )
    return ladder_numbers(keys, values.get("level"))


def _largest(needs: list[Capacity]) -> Capacity:
    """What holds each of them."""
    return Capacity(*(max(sizes) for sizes in zip(*needs, strict=True)))


def _check_weights(dataset: PackedDataset, molecules: Array) -> None:
    """Refuse stored weights that make no sense.

    Raises:
        ValueError: One is negative or infinite; the molecule is named.
    """
    for rows in parts(molecules):
        weight = dataset.take("weight", rows)
        wrong = (weight < 0) | np.isinf(weight)
        if wrong.any():
            place = int(np.argmax(wrong))
            raise ValueError(
                f"{dataset.path}: molecule {int(rows[place])} has weight "
                f"{weight[place]:g}; weights in the loss must be finite and 0 or more"
            )


def _any_periodic(dataset: PackedDataset, molecules: Array) -> bool:
    """Whether any molecule has a periodic direction."""
    if "pbc" not in dataset.fields:
        return False
    return any(dataset.take("pbc", rows).any() for rows in parts(molecules))
