"""Batches from a packed dataset: shuffled, sharded, resumable, without JAX."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.graph import Graph
from physnet_training.batching import Shape
from physnet_training.dense import dense_batch
from physnet_training.graphs import GraphBuilder
from physnet_training.order import epoch_order
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
    ) -> None:
        for name, value, lowest in (
            ("batch_size", batch_size, 1),
            ("bucket_size", bucket_size, 1),
            ("seed", seed, 0),
            ("process_count", process_count, 1),
        ):
            if value < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {value}")
        if not 0 <= process_index < process_count:
            raise ValueError(
                f"process_index must be in 0..{process_count - 1}, got {process_index}"
            )
        self.dataset: PackedDataset = (
            path if isinstance(path, PackedDataset) else PackedDataset.open(path)
        )
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.bucket_size = bucket_size
        self.seed = seed
        self.process_index = process_index
        self.process_count = process_count
        self._select(np.arange(self.dataset.num_molecules))

    def _select(self, indices: Array) -> None:
        self.indices = indices
        self._sizes = self.dataset.n_atoms[indices]
        self._epoch = self._index = 0
        self._order: tuple[int, Array] | None = None
        self._cutoff: float | None = None
        self._builders: dict[float | None, GraphBuilder] = {}

    @property
    def num_molecules(self) -> int:
        """Molecules per epoch, over all processes."""
        return len(self.indices)

    @property
    def num_batches(self) -> int:
        """Batches per epoch, the same in every process."""
        return -(-self.num_molecules // (self.batch_size * self.process_count))

    @property
    def shapes(self) -> list[Shape]:
        """Static shapes of the graphs, for the cutoff of the latest ``graphs`` call."""
        return list(self._builder(self._cutoff).shapes)

    def subset(
        self, indices: Array | list[int], *, shuffle: bool | None = None
    ) -> "PackedMemmapLoader":
        """A loader over some molecules of the dataset, at the start of epoch 0.

        Args:
            indices: Molecule indices of the dataset, each once.
            shuffle: As in the constructor; None keeps this loader's.

        Raises:
            ValueError: No indices, repeated ones, or ones outside of the dataset.
        """
        chosen, total = np.asarray(indices, np.int64), self.dataset.num_molecules
        if chosen.ndim != 1 or len(chosen) == 0:
            raise ValueError("a subset needs at least one molecule, got none")
        if chosen.min() < 0 or chosen.max() >= total:
            bad = chosen[(chosen < 0) | (chosen >= total)][0]
            raise ValueError(
                f"molecule {bad} is outside of the dataset's 0..{total - 1}"
            )
        if len(np.unique(chosen)) != len(chosen):
            raise ValueError("a subset must name each molecule once")
        loader = PackedMemmapLoader(
            self.dataset,
            self.batch_size,
            self.shuffle if shuffle is None else shuffle,
            self.bucket_size,
            self.seed,
            self.process_index,
            self.process_count,
        )
        loader._select(chosen)
        return loader

    def state(self) -> dict[str, int]:
        """The position, JSON-serialisable: a batch counts as soon as it is yielded."""
        return {
            "epoch": self._epoch,
            "index": self._index,
            "seed": self.seed,
            "shuffle": int(self.shuffle),
            "batch_size": self.batch_size,
            "bucket_size": self.bucket_size,
            "process_count": self.process_count,
            "num_molecules": self.num_molecules,
        }

    def restore(self, state: dict[str, int]) -> None:
        """Continue where ``state`` was taken, with the identical remaining batches.

        Raises:
            ValueError: The state belongs to a loader with other settings.
        """
        for name, mine in self.state().items():
            if name not in state:
                raise ValueError(f"the loader's state lacks {name!r}: {state}")
            if name not in ("epoch", "index") and state[name] != mine:
                raise ValueError(
                    f"the loader's state was taken with {name} = {state[name]}, this "
                    f"loader has {mine}; make the loader with the same settings"
                )
        if not 0 <= state["index"] < self.num_batches or state["epoch"] < 0:
            raise ValueError(
                f"the loader's state names batch {state['index']} of epoch "
                f"{state['epoch']}; an epoch has batches 0..{self.num_batches - 1}"
            )
        self._epoch, self._index = int(state["epoch"]), int(state["index"])

    def molecules(self, epoch: int, index: int) -> Array:
        """Dataset indices of this process's batch ``index`` of an epoch.

        A short last batch is shared evenly: a process may get fewer, or none.
        """
        return self.indices[self._shares(epoch, index)[self.process_index]]

    def batches(
        self, num_atoms: int | None = None, physnet_format: bool = True
    ) -> Iterator[dict[str, Array]]:
        """The rest of the current epoch as dense arrays.

        Args:
            num_atoms: Fixes A, the atoms per molecule; None takes the lowest of four
                sizes that holds the batch.
            physnet_format: Add ``dst_idx``, ``src_idx`` (all pairs of real atoms) and
                ``batch_segments``, flat over B·A.

        Yields:
            ``Z`` (B,A), ``R`` ``F`` (B,A,3) Å, eV/Å, ``E`` (B,) eV float64, ``N``
            ``total_charge`` ``total_spin`` (B,), ``mask`` (B,A), ``index`` (B,) the
            molecule's index in the dataset. B is always ``batch_size``; filler rows
            have N = 0 and index -1. A missing label, or multiplicity, is NaN.

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

    def _walk(self) -> Iterator[tuple[int, int]]:
        """(epoch, index) of the remaining batches; counts each before it is used."""
        epoch, index = self._epoch, self._index
        while index < self.num_batches:
            last = index + 1 == self.num_batches
            self._epoch, self._index = (epoch + 1, 0) if last else (epoch, index + 1)
            yield epoch, index
            index += 1

    def _walk_graphs(self, builder: GraphBuilder) -> Iterator[Graph]:
        several = self.process_count > 1
        for epoch, index in self._walk():
            shares = [self.indices[s] for s in self._shares(epoch, index)]
            mine = shares[self.process_index]
            yield builder.build(mine, shares if several else None)

    def _walk_batches(
        self, num_atoms: int | None, physnet_format: bool
    ) -> Iterator[dict[str, Array]]:
        largest = int(self._sizes.max())
        for epoch, index in self._walk():
            rows = self.molecules(epoch, index)
            atoms = num_atoms
            if atoms is None:  # the lowest quarter of the largest size that holds it
                need = int(self.dataset.n_atoms[rows].max(initial=1))
                atoms = -(-largest * -(-4 * need // largest) // 4)
            yield dense_batch(
                self.dataset,
                rows,
                self.batch_size,
                num_atoms=atoms,
                with_pairs=physnet_format,
            )

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
            full = self.num_molecules // (self.batch_size * self.process_count)
            some = range(min(max(full, 1), _FIT_BATCHES))
            builder.fit_shapes(
                self._sizes, [self._sizes[self._shares(0, i)[0]] for i in some]
            )
            self._builders[cutoff] = builder
        return self._builders[cutoff]

    def _shares(self, epoch: int, index: int) -> list[Array]:
        """Positions in ``indices`` of a batch, for each process."""
        group = self.batch_size * self.process_count
        if self._order is None or self._order[0] != epoch:
            order = np.arange(self.num_molecules)
            if self.shuffle:
                order = epoch_order(
                    self._sizes, self.seed, epoch, group=group, window=self.bucket_size
                )
            self._order = (epoch, order)
        whole = self._order[1][index * group : (index + 1) * group]
        return [whole[p :: self.process_count] for p in range(self.process_count)]


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
