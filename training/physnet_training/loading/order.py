"""The order of an epoch and membership in a split: pure functions of integers."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
        for name in ("block_size", "balance"):
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
    whole = count // group * group
    # One batch per window needs no order of batches: all of them are sorted at once.
    single = sampling.bucket_size < 2 * group
    window = max(sampling.bucket_size // group, 1) * group
    step = window if not single else max(_AT_ONCE // group, 1) * group
    for start in range(0, whole, step):
        piece = order[start : min(start + step, whole)]
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


def hash_uniform(keys: Array, seed: int) -> Array:
    """A number in [0, 1) for each 64-bit key: splitmix64 of the seed and the key.

    Sebastiano Vigna's finaliser (public domain); one call per key, so the number does
    not depend on how many keys there are or in which order they come.

    Args:
        keys: [n] integers.
        seed: Any integer.

    Returns:
        [n] float64.
    """
    start = splitmix64(np.array([seed & (2**64 - 1)], dtype=np.uint64))
    keys = np.asarray(keys)
    result = np.empty(len(keys), dtype=np.float64)
    for first in range(0, len(keys), _AT_ONCE):
        some = keys[first : first + _AT_ONCE].astype(np.uint64)
        mixed = splitmix64(splitmix64(some) ^ start)
        result[first : first + len(some)] = mixed >> np.uint64(11)
    result *= 2.0**-53
    return result


def splitmix64(values: Array) -> Array:
    """Array arithmetic on uint64 wraps silently, as the algorithm wants."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
