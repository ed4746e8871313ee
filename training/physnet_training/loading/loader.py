"""Batches from a packed dataset: shuffled, sharded, resumable, without JAX."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from physnet_ase.graph import Capacity, Graph
from physnet_ase.molecules import Molecules
from physnet_training.loading.batches import (
    DENSE_QUANTITIES,
    GraphBatches,
    atoms_at_once,
    dense_batch,
    read_batches,
    with_filler,
)
from physnet_training.loading.geometries import numbers_of
from physnet_training.loading.order import (
    Sampler,
    Sampling,
    check_share,
    checked_subset,
    load_weights,
    split_indices,
    state_numbers,
)
from physnet_training.loading.shapes import choose_widths
from physnet_training.packed import PackedDataset

Array = NDArray[Any]
_FIRST_BATCHES = 4  # read at first, so that the first one comes soon
Elsewhere = Callable[[tuple[str, ...]], tuple[list[Molecules], float]]
"""Some batches of other molecules with these quantities; how many come per batch."""
_FIT_BATCHES = 2000  # batches looked at to choose the static shapes


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


class Step(NamedTuple):
    """One batch on its way out."""

    molecules: Molecules  # of this batch and some others
    places: Array  # its molecules among them
    shares: list[Array]  # positions of the molecules of every process


class Walk:
    """Reads the batches of one process from a position on.

    Args:
        dataset: Where the molecules are.
        indices: Those that take part.
        sampler: Which of them is in which batch.
        process_index: Number of this process.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        indices: Array,
        sampler: Sampler,
        *,
        process_index: int,
    ) -> None:
        self._dataset = dataset
        self._indices = indices
        self._sampler = sampler
        self._process_index = process_index
        self.epoch = self.index = 0

    def restore(self, state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Go to a stored position.

        Args:
            state: The position and the settings it was taken with.
            settings: Those of this loader.

        Raises:
            ValueError: The settings differ, or there is no such position.
        """
        for name in ("epoch", "index", *settings):
            if name not in state:
                raise ValueError(f"the loader's state lacks {name!r}: {dict(state)}")
        for name in state.keys() - {"epoch", "index"}:
            mine = settings.get(name)
            if state[name] != mine:
                raise ValueError(
                    f"the loader's state was taken with {name} = {state[name]}, this "
                    f"loader has {mine}; make the loader with the same settings"
                )
        last = self._sampler.num_batches - 1
        if not 0 <= state["index"] <= last or state["epoch"] < 0:
            raise ValueError(
                f"the loader's state names batch {state['index']} of epoch "
                f"{state['epoch']}; an epoch has batches 0..{last}"
            )
        self.epoch, self.index = int(state["epoch"]), int(state["index"])

    def molecules(self, epoch: int, index: int) -> Array:
        """Dataset indices of this process's batch ``index`` of an epoch."""
        return self._indices[self._sampler.shares(epoch, index)[self._process_index]]

    def steps(self, names: tuple[str, ...], *, whole_states: bool) -> Iterator[Step]:
        """The rest of the epoch; each batch counts before it is used.

        Args:
            names: As for ``read_batches``.
            whole_states: As for ``read_batches``.
        """
        sampler, epoch = self._sampler, self.epoch
        for some in self._spans(self.index):
            shares = [sampler.shares(epoch, index) for index in some]
            molecules, places = read_batches(
                self._dataset,
                [self._indices[share[self._process_index]] for share in shares],
                names,
                whole_states=whole_states,
            )
            for index, mine, share in zip(some, places, shares, strict=True):
                last = index + 1 == sampler.num_batches
                self.epoch, self.index = (epoch + 1, 0) if last else (epoch, index + 1)
                yield Step(molecules, mine, share)

    def _spans(self, start: int) -> Iterator[range]:
        """Batches to read at once: few at first, so that the first one comes soon."""
        sampler = self._sampler
        own = sampler.group / sampler.process_count
        atoms = own * float(sampler.sizes.mean())
        limit = max(int(atoms_at_once(self._dataset) / atoms), 1)
        ahead = min(_FIRST_BATCHES, limit)
        while start < sampler.num_batches:
            end = min(start + ahead, sampler.num_batches)
            yield range(start, end)
            start, ahead = end, min(2 * ahead, limit)


class PackedMemmapLoader:
    """Batches of a packed dataset.

    The order is a function of (seed, epoch, index) only. ``batches`` and ``graphs``
    walk one shared position: each call yields what remains of the current epoch, and
    the end of an epoch moves the position to the start of the next one.

    Args:
        path: A packed dataset, or its directory.
        batch_size: Molecules per batch of this process.
        shuffle: False gives the molecules in the order of the files in every epoch.
        bucket_size: Molecules of the shuffled order that are sorted by size together,
            so that a batch holds similar sizes and little padding; 1 turns it off.
        seed: Seed of the order.
        process_index: Number of this process.
        process_count: Number of processes; they see disjoint parts of each epoch.
        block_size: For network storage and spinning disks: shuffle blocks of this many
            consecutive molecules, then the molecules of some neighbouring blocks, so
            that reading stays local; None shuffles all molecules at once.
        mixed_blocks: Blocks whose molecules are shuffled together.
        balance: Between 0 and 1: states get shares proportional to their number of
            molecules to the power 1 - balance, so that 1 draws every state equally
            often. Above 0 an epoch holds as many draws as there are molecules instead
            of every molecule once.
        keep_ladders: Molecules of one geometry and level of theory follow each other,
            so that batches hold ladders of states (one at the border of two batches is
            torn), and graphs say which of their molecules are one geometry.
        weights: Weight in the loss of each molecule of the dataset, from 0, as an
            array or a ``.npy`` file; None: all 1.
        expected_batches: How many graphs will be computed in all: few of them get few
            shapes, since each costs a compilation. None: one epoch of a loader that
            does not shuffle, and any number of one that does.

    Raises:
        ValueError: The dataset is damaged, or a number is out of range.
    """

    def __init__(  # more than six arguments: a published contract
        self,
        path: str | Path | PackedDataset,
        batch_size: int,
        shuffle: bool = True,
        bucket_size: int = 8192,
        seed: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        *,
        block_size: int | None = None,
        mixed_blocks: int = 16,
        balance: float = 0.0,
        keep_ladders: bool = False,
        weights: Array | str | Path | None = None,
        expected_batches: int | None = None,
    ) -> None:
        check_share(batch_size, process_index, process_count)
        self.sampling = Sampling(
            shuffle, bucket_size, seed, block_size, mixed_blocks, balance, keep_ladders
        )
        self.sampling.check()
        self.dataset: PackedDataset = (
            path if isinstance(path, PackedDataset) else PackedDataset.open(path)
        )
        self.batch_size = batch_size
        self.process_index = process_index
        self.process_count = process_count
        self._expected_batches = expected_batches
        self._elsewhere: Elsewhere | None = None
        self.weights = load_weights(weights, len(self.dataset))
        self._select(np.arange(len(self.dataset)))

    def _select(self, indices: Array) -> None:
        self.indices = indices
        sizes = self._sizes = self.dataset.n_atoms[indices]
        if int(sizes.max()) < 2**16:
            sizes = self._sizes = sizes.astype(np.uint16)  # sorts several times faster
        find_states = partial(state_numbers, self.dataset, indices)
        find_ladders = partial(numbers_of, self.dataset, indices)
        self._sampler = Sampler(
            sizes,
            self.sampling,
            group=self.batch_size * self.process_count,
            process_count=self.process_count,
            states=find_states if self.sampling.balance > 0 else None,
            ladders=find_ladders if self.sampling.keep_ladders else None,
        )
        self._walk = Walk(
            self.dataset,
            indices,
            self._sampler,
            process_index=self.process_index,
        )
        self._cutoff: float | None = None
        self._count = 1  # graphs per batch
        self._builders: dict[tuple[float | None, int], GraphBatches] = {}
        self._widths: Array | None = None
        self._padding = PaddingCount()

    @property
    def num_ladders(self) -> int:
        """Geometries with several molecules, where ladders are kept."""
        ladders = self._sampler.ladders
        return 0 if ladders is None else int((np.bincount(ladders) > 1).sum())

    @property
    def num_molecules(self) -> int:
        """Molecules per epoch, over all processes."""
        return len(self.indices)

    @property
    def num_batches(self) -> int:
        """Batches per epoch, the same in every process."""
        return self._sampler.num_batches

    @property
    def shapes(self) -> list[Capacity]:
        """Static shapes of the graphs, for the cutoff of the latest ``graphs`` call."""
        return list(self._builder(self._cutoff, self._count).shapes)

    def padding(self) -> Padding:
        """Padding and shapes of the batches that this loader has yielded so far."""
        return self._padding.report()

    def subset(
        self, indices: Array | list[int], *, shuffle: bool | None = None
    ) -> "PackedMemmapLoader":
        """A loader over some molecules of the dataset, at the start of epoch 0.

        Args:
            indices: Molecule indices of the dataset, each once.
            shuffle: As in the constructor; None keeps this loader's. False also turns
                blocks, balance and ladders off.

        Raises:
            ValueError: No indices, repeated ones, or ones outside of the dataset.
        """
        chosen = checked_subset(indices, self.dataset.num_molecules)
        loader = copy.copy(self)
        mine = self.sampling
        if shuffle is not None and shuffle != mine.shuffle:
            loader.sampling = Sampling(shuffle, mine.bucket_size, mine.seed)
        loader._select(chosen)
        return loader

    def state(self) -> dict[str, Any]:
        """The position, JSON-serialisable: a batch counts as soon as it is yielded."""
        position = {"epoch": self._walk.epoch, "index": self._walk.index}
        return position | self._settings()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state`` was taken, with the identical remaining batches.

        Raises:
            ValueError: The state belongs to a loader with other settings.
        """
        self._walk.restore(state, self._settings())

    def _settings(self) -> dict[str, Any]:
        settings = self.sampling._asdict()
        if not self.sampling.keep_ladders:
            del settings["keep_ladders"]  # states of before there were any still fit
        return settings | {
            "batch_size": self.batch_size,
            "process_count": self.process_count,
            "num_molecules": self.num_molecules,
        }

    def molecules(self, epoch: int, index: int) -> Array:
        """Dataset indices of this process's batch ``index`` of an epoch.

        A short last batch is shared evenly: a process may get fewer, or none.
        """
        return self._walk.molecules(epoch, index)

    def all_molecules(self, epoch: int, index: int) -> Array:
        """Dataset indices of batch ``index`` of an epoch, all processes together."""
        return self.indices[self._sampler.whole(epoch, index)]

    def batches(
        self, num_atoms: int | None = None, physnet_format: bool = True
    ) -> Iterator[dict[str, Array]]:
        """The rest of the current epoch as dense arrays.

        Args:
            num_atoms: Fixes A, the atoms per molecule; None takes the lowest of at
                most eight sizes that holds the batch.
            physnet_format: Add ``dst_idx``, ``src_idx`` (all pairs of real atoms) and
                ``batch_segments``, flat over B·A.

        Yields:
            ``Z`` (B,A), ``R`` ``F`` (B,A,3) Å, eV/Å, ``E`` (B,) eV float64, ``N``
            ``total_charge`` ``total_spin`` (B,), ``mask`` (B,A), ``index`` (B,) the
            molecule's index in the dataset, ``weight`` (B,) where the loader has
            weights. B is always ``batch_size``; filler rows have N = 0 and index -1.
            A missing label, or multiplicity, is NaN.

        Raises:
            ValueError: ``num_atoms`` is below the largest molecule.
        """
        largest = int(self._sizes.max())
        if num_atoms is not None and num_atoms < largest:
            row = int(self.indices[int(np.argmax(self._sizes))])
            raise ValueError(
                f"num_atoms must be at least {largest}, the size of molecule {row} of "
                f"{self.dataset.path}, got {num_atoms}"
            )
        return self._walk_batches(num_atoms, physnet_format)

    def graphs(self, cutoff: float | None = None) -> Iterator[Graph]:
        """The rest of the current epoch as padded graphs with labels.

        Args:
            cutoff: Pairs closer than this (Å); None keeps all pairs of a molecule.

        Raises:
            ValueError: Periodic molecules without a cutoff, or molecules without a
                stored multiplicity.
        """
        return (graph for [graph] in self.shares(cutoff, 1))

    def shares(self, cutoff: float | None, count: int) -> Iterator[list[Graph]]:
        """As ``graphs``, each batch divided evenly among devices of this process.

        Args:
            cutoff: As for ``graphs``.
            count: Graphs per batch; those of a batch have one shape.

        Raises:
            ValueError: ``batch_size`` is no multiple of ``count``.
        """
        if self.batch_size % count:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of the {count} shares"
            )
        builder = self._builder(cutoff, count)  # complains here, not at the first batch
        self._cutoff, self._count = cutoff, count
        return self._walk_shares(builder, count)

    def names(self, cutoff: float | None, count: int) -> tuple[str, ...]:
        """Quantities that graphs are made of; arguments as for ``shares``."""
        return self._builder(cutoff, count).names

    def expect(self, others: Elsewhere) -> None:
        """Choose shapes for batches from elsewhere, too, that ``shares_of`` will get.

        Args:
            others: From names of quantities to some of these batches, and how many of
                them come for each of this loader's own.
        """
        self._elsewhere = others
        self._builders.clear()

    def shares_of(
        self,
        molecules: Molecules,
        cutoff: float | None,
        count: int,
        weights: Array | None = None,
    ) -> list[Graph]:
        """Padded graphs of molecules from elsewhere, in this loader's shapes.

        Args:
            molecules: At most ``batch_size`` for each process, with whole states; the
                same in all processes.
            cutoff: As for ``graphs``.
            count: As for ``shares``.
            weights: [molecules of the dataset] weights in the loss; None: 1 for each.
        """
        shares = self._divided(molecules)
        own = self._sampler.divided(shares[self.process_index], count)
        mine = [molecules.take(share) for share in own]
        builder = self._builder(cutoff, count)
        sizes = self._sizes_of(shares, count, molecules)
        return builder.build(mine, weights, sizes)

    def _divided(self, molecules: Molecules) -> list[Array]:
        """Positions of the molecules of every process."""
        whole = np.arange(len(molecules))
        return self._sampler.divided(whole, self.process_count)

    def _sizes_of(
        self, shares: list[Array], count: int, molecules: Molecules | None = None
    ) -> list[Array] | None:
        """Sizes of the molecules of all graphs of a batch, of several processes."""
        if self.process_count == 1:
            return None
        sizes = self._sizes if molecules is None else molecules.n_atoms
        divided = self._sampler.divided
        return [sizes[own] for share in shares for own in divided(share, count)]

    def _walk_shares(self, builder: GraphBatches, count: int) -> Iterator[list[Graph]]:
        for step in self._walk.steps(builder.names, whole_states=True):
            places = self._sampler.divided(step.places, count)
            chosen = [step.molecules.take(own) for own in places]
            sizes = self._sizes_of(step.shares, count)
            graphs = builder.build(chosen, self.weights, sizes)
            for graph in graphs:
                self._padding.add_graph(graph)
            yield graphs

    def _walk_batches(
        self, num_atoms: int | None, physnet_format: bool
    ) -> Iterator[dict[str, Array]]:
        read: Molecules | None = None
        filled: dict[str, Array] = {}
        for step in self._walk.steps(DENSE_QUANTITIES, whole_states=False):
            if step.molecules is not read:  # many batches come from one read
                read, filled = step.molecules, with_filler(step.molecules)
            atoms = num_atoms
            if atoms is None:
                need = int(step.molecules.n_atoms.take(step.places).max(initial=1))
                widths = self._fitted_widths()
                atoms = int(widths[np.searchsorted(widths, need)])
            batch = dense_batch(
                step.molecules,
                filled,
                step.places,
                self.batch_size,
                num_atoms=atoms,
                with_pairs=physnet_format,
                weights=self.weights,
            )
            self._padding.add_dense(batch)
            yield batch

    def _fitted_widths(self) -> Array:
        if self._widths is None:
            some = self._sampler.spread(_FIT_BATCHES)
            largest = [self._sizes[self._sampler.whole(0, i)].max() for i in some]
            self._widths = choose_widths(np.array(largest), int(self._sizes.max()))
        return self._widths

    def _expected(self) -> float:
        """How many batches will be computed in all."""
        if self._expected_batches is not None:
            return self._expected_batches
        return math.inf if self.sampling.shuffle else self.num_batches

    def _builder(self, cutoff: float | None, count: int) -> GraphBatches:
        if (cutoff, count) not in self._builders:
            builder = GraphBatches(
                self.dataset,
                self.indices,
                self.batch_size // count,
                cutoff=cutoff,
                processes=self.process_count,
                keep_ladders=self.sampling.keep_ladders,
            )
            # No shape for the one short batch: it is not worth its compilation.
            some = self._sampler.spread(_FIT_BATCHES)
            batches = [
                [
                    self._sizes[own]
                    for share in self._sampler.shares(0, index)
                    for own in self._sampler.divided(share, count)
                ]
                for index in some
            ]
            others, per_batch = (
                self._elsewhere(builder.names) if self._elsewhere else ([], 0.0)
            )
            graphs = [
                [
                    molecules.take(own)
                    for share in self._divided(molecules)
                    for own in self._sampler.divided(share, count)
                ]
                for molecules in others
            ]
            expected = self._expected()
            builder.fit_shapes(self._sizes, batches, expected, graphs, per_batch)
            self._builders[cutoff, count] = builder
        return self._builders[cutoff, count]


def split_loader(
    loader: PackedMemmapLoader, train_fraction: float = 0.9, seed: int = 0
) -> tuple[PackedMemmapLoader, PackedMemmapLoader]:
    """Loaders over a training and a validation part of a loader's molecules.

    Membership is a hash of (seed, molecule index) alone. The validation part keeps the
    order of the files.

    Args:
        loader: It stays as it is.
        train_fraction: Expected fraction in the training part, between 0 and 1.
        seed: Seed of the split.

    Raises:
        ValueError: The fraction is out of range, or a part would be empty.
    """
    train, validation = split_indices(loader.indices, train_fraction, seed)
    return loader.subset(train), loader.subset(validation, shuffle=False)
