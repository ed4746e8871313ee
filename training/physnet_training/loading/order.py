"""The order of an epoch: which molecules are in which batch of which process.

Order, and membership in a split, are pure functions of integers.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from physnet_training.distinct_states import distinct_states
from physnet_training.hashing import hash_uniform
from physnet_training.loading.geometries import together
from physnet_training.packed import PackedDataset
from physnet_training.packed.reader import parts

Array = NDArray[Any]
_AT_ONCE = 1 << 18  # molecules sorted or hashed at once


class Sampling(NamedTuple):
    """How the molecules of an epoch are drawn and mixed; see ``PackedMemmapLoader``."""

    shuffle: bool = True
    bucket_size: int = 8192
    seed: int = 0
    block_size: int | None = None
    mixed_blocks: int = 16
    balance: float = 0.0
    keep_ladders: bool = False

    def check(self) -> None:
        """Refuse impossible settings.

        Raises:
            ValueError: A number is out of range; the message names it.
        """
        for name, lowest in (
            ("bucket_size", 1),
            ("seed", 0),
            ("block_size", 1),
            ("mixed_blocks", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {value}")
        if not 0 <= self.balance <= 1:
            raise ValueError(
                "balance must lie between 0 (as in the data) and 1 (every state as "
                f"often as the others), got {self.balance}"
            )
        for name in ("block_size", "balance", "keep_ladders"):
            if getattr(self, name) and not self.shuffle:
                raise ValueError(
                    f"{name} = {getattr(self, name)} changes a random order, but "
                    "shuffle is off; turn shuffle on"
                )


def epoch_order(
    sizes: Array,
    sampling: Sampling,
    epoch: int,
    *,
    group: int,
    states: Array | None = None,
    ladders: Array | None = None,
) -> Array:
    """The molecules of an epoch, neighbours of similar size.

    The molecules are shuffled; inside windows of the shuffled order they are sorted by
    size, cut into groups of consecutive ones, and the groups are shuffled. The short
    last group is a random sample.

    Args:
        sizes: [molecules] number of atoms.
        sampling: Seed, windows, blocks and balance.
        epoch: Number of the epoch.
        group: Molecules per batch, over all processes.
        states: [molecules] number of each one's state, from 0, for a balance above 0:
            the epoch then holds as many draws as there are molecules.
        ladders: [molecules] number of each one's geometry, from 0: those of one
            geometry then stand together.

    Returns:
        [molecules] int32 (int64 for more than 2³¹) positions in ``sizes``.
    """
    count = len(sizes)
    dtype = np.int32 if count < 2**31 else np.int64
    if not sampling.shuffle:
        return np.arange(count, dtype=dtype)
    rng = np.random.default_rng([sampling.seed, epoch])
    order = _shuffled(count, sampling, rng).astype(dtype, copy=False)
    if states is not None and sampling.balance > 0:
        order = balanced_draws(states, sampling.balance, rng).astype(dtype)[order]
    if ladders is not None:
        order = together(order, ladders)
    whole = count // group * group
    # One batch per window needs no order of batches: all of them are sorted at once.
    single = sampling.bucket_size < 2 * group
    window = max(sampling.bucket_size // group, 1) * group
    step = window if not single else max(_AT_ONCE // group, 1) * group
    for start in range(0, whole, step):
        piece = order[start : min(start + step, whole)]
        if single and ladders is not None:
            continue  # sorted by size, devices could not be given whole ladders
        if single:
            rows = piece.reshape(-1, group)
            ranks = np.argsort(sizes[rows], axis=1, kind="stable")
            rows[:] = np.take_along_axis(rows, ranks, axis=1)
        else:
            ranked = piece[np.argsort(sizes[piece], kind="stable")]
            piece[:] = rng.permutation(ranked.reshape(-1, group)).ravel()
    return order


def _shuffled(count: int, sampling: Sampling, rng: np.random.Generator) -> Array:
    """A permutation of ``count``: of all at once, or of blocks and inside windows."""
    dtype = np.int32 if count < 2**31 else np.int64
    if sampling.block_size is None:
        order = np.arange(count, dtype=dtype)
        rng.shuffle(order)
        return order
    size = min(sampling.block_size, count)
    starts: Array = rng.permutation(-(-count // size)).astype(dtype) * size
    order = (starts[:, None] + np.arange(size, dtype=dtype)).ravel()
    order = order[order < count]  # the last block of the data may be short
    window = size * sampling.mixed_blocks
    for start in range(0, count, window):
        rng.shuffle(order[start : start + window])
    return order


def balanced_draws(states: Array, balance: float, rng: np.random.Generator) -> Array:
    """As many draws as there are molecules, states in other proportions.

    A state of n molecules gets a share proportional to n^(1 - balance). Within a state
    every molecule is drawn equally often, but for one draw more of some random ones.

    Args:
        states: [molecules] number of each one's state, from 0.
        balance: 0 as in the data, 1 every state as often as the others.
        rng: Decides which molecules get a draw more.

    Returns:
        [molecules] positions in ``states``, ascending, some repeated, some absent.
    """
    counts = np.bincount(states)
    share = np.where(counts > 0, np.maximum(counts, 1.0) ** (1.0 - balance), 0.0)
    exact = share / share.sum() * len(states)
    draws = np.floor(exact).astype(np.int64)
    # What rounding left over goes to the largest remainders.
    rest = len(states) - int(draws.sum())
    draws[np.argsort(draws - exact, kind="stable")[:rest]] += 1
    times = np.zeros(len(states), dtype=np.int32)
    for state in np.flatnonzero(draws):
        members = np.flatnonzero(states == state)
        whole, more = divmod(int(draws[state]), len(members))
        times[members] = whole
        times[rng.choice(members, more, replace=False, shuffle=False)] += 1
    return np.repeat(np.arange(len(states)), times)


def split_indices(
    molecules: int | Array, train_fraction: float, seed: int
) -> tuple[Array, Array]:
    """Two parts whose membership depends on (seed, molecule index) alone.

    Args:
        molecules: Their number, or the molecule indices themselves.
        train_fraction: Expected fraction of the first part, between 0 and 1.
        seed: Any integer.

    Returns:
        Ascending positions' indices of the training and of the validation part.

    Raises:
        ValueError: The fraction is out of range, or a part would be empty.
    """
    if not 0 < train_fraction < 1:
        raise ValueError(
            f"train_fraction must lie between 0 and 1, got {train_fraction}"
        )
    indices = np.arange(molecules) if isinstance(molecules, int) else molecules
    inside = hash_uniform(indices, seed) < train_fraction
    return both_parts(indices, inside, f"train_fraction {train_fraction}, seed {seed}")


def both_parts(indices: Array, inside: Array, what: str) -> tuple[Array, Array]:
    """Indices inside and outside.

    Raises:
        ValueError: One of them is empty.
    """
    if inside.all() or not inside.any():
        raise ValueError(
            f"{len(indices)} molecules with {what} leave one part of the split empty; "
            "use another fraction or seed, or more molecules"
        )
    return indices[inside], indices[~inside]


class Sampler:
    """Batches of molecules as a function of epoch and index alone.

    Args:
        sizes: [molecules] atoms of each.
        sampling: How they are drawn and mixed.
        group: Molecules per batch, over all processes.
        process_count: Processes that share each batch.
        states: Gives the number of each molecule's state, where these are balanced.
        ladders: Gives the number of each molecule's geometry, where these are kept.
    """

    def __init__(
        self,
        sizes: Array,
        sampling: Sampling,
        *,
        group: int,
        process_count: int,
        states: Callable[[], Array] | None = None,
        ladders: Callable[[], Array] | None = None,
    ) -> None:
        self.sizes = sizes
        self.sampling = sampling
        self.group = group
        self.process_count = process_count
        self.num_batches = -(-len(sizes) // group)
        self._find_states = states
        self._find_ladders = ladders
        self._order: tuple[int, Array] | None = None

    @cached_property
    def _states(self) -> Array | None:
        return None if self._find_states is None else self._find_states()

    @cached_property
    def ladders(self) -> Array | None:
        """[molecules] number of each one's geometry, where these are kept."""
        return None if self._find_ladders is None else self._find_ladders()

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
                ladders=self.ladders,
            )
            self._order = order = (epoch, made)
        return order[1][index * self.group : (index + 1) * self.group]

    def shares(self, epoch: int, index: int) -> list[Array]:
        """Positions of the molecules of a batch, for each process."""
        whole = self.whole(epoch, index)
        return self.divided(whole, self.process_count)

    def divided(self, places: Array, count: int) -> list[Array]:
        """Places of a batch for each of several processes or devices.

        Their number is alike, and so are their sizes. Kept ladders stay whole but
        where one lies across the border between two.
        """
        if self.sampling.keep_ladders:
            return np.array_split(places, count)
        return [places[each::count] for each in range(count)]

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
    """A number from 0 for each molecule's state. [molecules] int16.

    States of another level of theory are others, so that a small level is not lost
    beside a large one.

    Raises:
        ValueError: The multiplicity of a molecule is not known.
    """
    known: dict[tuple[int, int, int], int] = {}
    found = []
    several = len(dataset.levels) > 1
    for rows in parts(molecules):
        unique, inverse, _ = distinct_states(*dataset.states_of(rows))
        level = dataset.take("level", rows) if several else np.zeros(len(rows), int)
        kinds = np.stack([inverse, level], axis=1)
        kinds, inverse = np.unique(kinds, axis=0, return_inverse=True)
        numbers = [
            known.setdefault((*unique[state].tolist(), own), len(known))
            for state, own in kinds.tolist()
        ]
        found.append(np.array(numbers, np.int16)[inverse.reshape(-1)])
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
