"""Batches from a packed dataset: shuffled, sharded, resumable, without JAX."""

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.graph import Graph
from physnet_training.loading.batching import Shape
from physnet_training.loading.dense import DENSE_FILLS, dense_batch
from physnet_training.loading.graphs import GraphBuilder
from physnet_training.loading.order import Sampling
from physnet_training.loading.padding import Padding, PaddingCount
from physnet_training.loading.sampler import (
    Sampler,
    check_share,
    checked_subset,
    load_weights,
    state_numbers,
)
from physnet_training.loading.shapes import choose_widths
from physnet_training.loading.walk import Walk
from physnet_training.packed import PackedDataset
from physnet_training.splits import split_indices

Array = NDArray[Any]
_FIT_BATCHES = 2000  # batches looked at to choose the static shapes


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
        weights: Weight in the loss of each molecule of the dataset, from 0, as an
            array or a ``.npy`` file; None: all 1.

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
        weights: Array | str | Path | None = None,
    ) -> None:
        check_share(batch_size, process_index, process_count)
        self.sampling = Sampling(
            shuffle, bucket_size, seed, block_size, mixed_blocks, balance
        )
        self.sampling.check()
        self.dataset: PackedDataset = (
            path if isinstance(path, PackedDataset) else PackedDataset.open(path)
        )
        self.batch_size = batch_size
        self.process_index = process_index
        self.process_count = process_count
        self.weights = load_weights(weights, len(self.dataset))
        self._select(np.arange(len(self.dataset)))

    def _select(self, indices: Array) -> None:
        self.indices = indices
        sizes = self._sizes = self.dataset.n_atoms[indices]
        if int(sizes.max()) < 2**16:
            sizes = self._sizes = sizes.astype(np.uint16)  # sorts several times faster
        find_states = partial(state_numbers, self.dataset, indices)
        self._sampler = Sampler(
            sizes,
            self.sampling,
            group=self.batch_size * self.process_count,
            process_count=self.process_count,
            states=find_states if self.sampling.balance > 0 else None,
        )
        self._walk = Walk(
            self.dataset,
            indices,
            self._sampler,
            process_index=self.process_index,
            weights=self.weights,
        )
        self._cutoff: float | None = None
        self._builders: dict[float | None, GraphBuilder] = {}
        self._widths: Array | None = None
        self._padding = PaddingCount()

    @property
    def num_molecules(self) -> int:
        """Molecules per epoch, over all processes."""
        return len(self.indices)

    @property
    def num_batches(self) -> int:
        """Batches per epoch, the same in every process."""
        return self._sampler.num_batches

    @property
    def shapes(self) -> list[Shape]:
        """Static shapes of the graphs, for the cutoff of the latest ``graphs`` call."""
        return list(self._builder(self._cutoff).shapes)

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
                blocks and balance off.

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
        return self.sampling._asdict() | {
            "batch_size": self.batch_size,
            "process_count": self.process_count,
            "num_molecules": self.num_molecules,
        }

    def molecules(self, epoch: int, index: int) -> Array:
        """Dataset indices of this process's batch ``index`` of an epoch.

        A short last batch is shared evenly: a process may get fewer, or none.
        """
        return self._walk.molecules(epoch, index)

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
        builder = self._builder(cutoff)  # complains here, not at the first batch
        self._cutoff = cutoff
        return self._walk_graphs(builder)

    def _walk_graphs(self, builder: GraphBuilder) -> Iterator[Graph]:
        several = self.process_count > 1
        for found, rows, shares in self._walk.steps(builder.fills, whole_states=True):
            sizes = [self._sizes[share] for share in shares] if several else None
            graph = builder.build(found, rows, sizes)
            self._padding.add_graph(graph)
            yield graph

    def _walk_batches(
        self, num_atoms: int | None, physnet_format: bool
    ) -> Iterator[dict[str, Array]]:
        for found, rows, _ in self._walk.steps(DENSE_FILLS, whole_states=False):
            atoms = num_atoms
            if atoms is None:
                need = int(found.sizes.take(rows).max(initial=1))
                widths = self._fitted_widths()
                atoms = int(widths[np.searchsorted(widths, need)])
            batch = dense_batch(
                found,
                rows,
                self.batch_size,
                num_atoms=atoms,
                with_pairs=physnet_format,
                with_weight=self.weights is not None,
            )
            self._padding.add_dense(batch)
            yield batch

    def _fitted_widths(self) -> Array:
        if self._widths is None:
            some = self._sampler.spread(_FIT_BATCHES)
            largest = [self._sizes[self._sampler.whole(0, i)].max() for i in some]
            self._widths = choose_widths(np.array(largest), int(self._sizes.max()))
        return self._widths

    def _builder(self, cutoff: float | None) -> GraphBuilder:
        if cutoff not in self._builders:
            builder = GraphBuilder(
                self.dataset,
                self.indices,
                self.batch_size,
                cutoff=cutoff,
                processes=self.process_count,
            )
            # No shape for the one short batch: it is not worth its compilation.
            some = self._sampler.spread(_FIT_BATCHES)
            builder.fit_shapes(
                self._sizes, [self._sizes[self._sampler.shares(0, i)[0]] for i in some]
            )
            self._builders[cutoff] = builder
        return self._builders[cutoff]


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
