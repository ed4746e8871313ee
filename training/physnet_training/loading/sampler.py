"""Which molecules are in which batch of which process, and how much each one counts."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_training.distinct_states import distinct_states
from physnet_training.loading.order import Sampling, epoch_order
from physnet_training.packed import PackedDataset
from physnet_training.packed.reader import parts

Array = NDArray[Any]


class Sampler:
    """Batches of molecules as a function of epoch and index alone.

    Args:
        sizes: [molecules] atoms of each.
        sampling: How they are drawn and mixed.
        group: Molecules per batch, over all processes.
        process_count: Processes that share each batch.
        states: Gives the number of each molecule's state, where these are balanced.
    """

    def __init__(
        self,
        sizes: Array,
        sampling: Sampling,
        *,
        group: int,
        process_count: int,
        states: Callable[[], Array] | None = None,
    ) -> None:
        self.sizes = sizes
        self.sampling = sampling
        self.group = group
        self.process_count = process_count
        self.num_batches = -(-len(sizes) // group)
        self._find_states = states
        self._order: tuple[int, Array] | None = None

    @cached_property
    def _states(self) -> Array | None:
        return None if self._find_states is None else self._find_states()

    def whole(self, epoch: int, index: int) -> Array:
        """Positions of the molecules of a batch, all processes together."""
        order = self._order  # one look: another thread may be in another epoch
        if order is None or order[0] != epoch:
            made = epoch_order(
                self.sizes,
                self.sampling,
                epoch,
                group=self.group,
                states=self._states,
            )
            self._order = order = (epoch, made)
        return order[1][index * self.group : (index + 1) * self.group]

    def shares(self, epoch: int, index: int) -> list[Array]:
        """Positions of the molecules of a batch, for each process."""
        whole = self.whole(epoch, index)
        return [whole[p :: self.process_count] for p in range(self.process_count)]

    def spread(self, count: int) -> list[int]:
        """At most ``count`` full batches from everywhere in an epoch."""
        full = max(len(self.sizes) // self.group, 1)
        return np.unique(
            np.linspace(0, full - 1, min(count, full)).astype(int)
        ).tolist()


def check_share(batch_size: int, process_index: int, process_count: int) -> None:
    """Refuse a share of an epoch that cannot be.

    Raises:
        ValueError: A number is out of range.
    """
    for name, value in (("batch_size", batch_size), ("process_count", process_count)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index must be in 0..{process_count - 1}, got {process_index}"
        )


def checked_subset(indices: Array | list[int], total: int) -> Array:
    """Molecule indices of a dataset of ``total`` molecules, as int64.

    Raises:
        ValueError: No indices, repeated ones, or ones outside of the dataset.
    """
    chosen = np.asarray(indices, np.int64)
    if chosen.ndim != 1 or len(chosen) == 0:
        raise ValueError("a subset needs at least one molecule, got none")
    if chosen.min() < 0 or chosen.max() >= total:
        bad = chosen[(chosen < 0) | (chosen >= total)][0]
        raise ValueError(f"molecule {bad} is outside of the dataset's 0..{total - 1}")
    named = np.zeros(total, dtype=bool)
    named[chosen] = True
    if np.count_nonzero(named) != len(chosen):
        raise ValueError("a subset must name each molecule once")
    return chosen


def state_numbers(dataset: PackedDataset, molecules: Array) -> Array:
    """A number from 0 for each molecule's (charge, multiplicity). [molecules] int16.

    Raises:
        ValueError: The multiplicity of a molecule is not known.
    """
    known: dict[tuple[int, int], int] = {}
    found = []
    for rows in parts(molecules):
        unique, inverse, _ = distinct_states(*dataset.states_of(rows))
        numbers = [known.setdefault((q, m), len(known)) for q, m in unique.tolist()]
        found.append(np.array(numbers, np.int16)[inverse])
    return np.concatenate(found)


def load_weights(source: Array | str | Path | None, count: int) -> Array | None:
    """Weights of a dataset's molecules in the loss, checked.

    Args:
        source: [molecules] numbers, or a ``.npy`` file of them, which stays on disk;
            None: no weights.
        count: Molecules of the dataset.

    Raises:
        ValueError: Not one finite weight from 0 for each molecule, or all are 0.
    """
    if source is None:
        return None
    name = "weights"
    if isinstance(source, (str, Path)):
        name = str(source)
        try:
            source = np.load(source, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(
                f"{name} cannot be read as an array of weights: {error}; write it with "
                "numpy.save, one number for each molecule of the dataset"
            ) from error
    weights = np.asarray(source)
    if weights.shape != (count,) or weights.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} must hold one number for each of the dataset's {count} molecules, "
            f"it holds {weights.dtype} of shape {weights.shape}"
        )
    some = False
    for rows in parts(range(count)):
        values = weights[rows[0] : rows[-1] + 1]
        bad = ~np.isfinite(values) | (values < 0)
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{name}: molecule {int(rows[row])} has the weight {values[row]}; "
                "weights must be finite and not negative"
            )
        some = some or bool(values.any())
    if not some:
        raise ValueError(f"{name}: all weights are 0, so nothing would be learned")
    return weights
