"""Orders of an epoch: every molecule in its share, whatever the options."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from physnet_training.loading.order import Sampling, balanced_draws, epoch_order


def sizes_of(count, seed=0):
    return np.random.default_rng(seed).integers(1, 41, count).astype(np.uint16)


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 300),
    group=st.integers(1, 40),
    bucket=st.integers(1, 100),
    block=st.none() | st.integers(1, 400),
    mixed=st.integers(1, 5),
    epoch=st.integers(0, 3),
)
def test_order_is_a_permutation(count, group, bucket, block, mixed, epoch):
    sampling = Sampling(bucket_size=bucket, block_size=block, mixed_blocks=mixed)
    order = epoch_order(sizes_of(count), sampling, epoch, group=group)
    assert order.dtype == np.int32
    assert sorted(order.tolist()) == list(range(count))


@pytest.mark.parametrize("bucket", [1, 8, 64, 1000])
def test_groups_hold_ascending_sizes(bucket):
    sizes = sizes_of(200)
    order = epoch_order(sizes, Sampling(bucket_size=bucket), 0, group=8)
    assert (np.diff(sizes[order].reshape(-1, 8).astype(int), axis=1) >= 0).all()


def test_wider_buckets_make_groups_more_alike():
    sizes = sizes_of(4000)

    def spread(bucket):
        order = epoch_order(sizes, Sampling(bucket_size=bucket), 0, group=8)
        return np.ptp(sizes[order].reshape(-1, 8).astype(int), axis=1).mean()

    assert spread(8000) < 0.1 * spread(1)


def test_blocks_stay_together():
    sampling = Sampling(bucket_size=1, block_size=50, mixed_blocks=4)
    order = epoch_order(sizes_of(1000), sampling, 0, group=10)
    windows = order.reshape(-1, 200) // 50
    assert [len(set(window)) for window in windows.tolist()] == [4] * 5
    assert len({tuple(sorted(set(w))) for w in windows.tolist()}) == 5
    # and molecules of the blocks of a window are mixed
    assert all(len(set(window[:40])) > 1 for window in windows.tolist())
    other = epoch_order(sizes_of(1000), sampling, 1, group=10)
    assert order.tolist() != other.tolist()


@settings(deadline=None, max_examples=40)
@given(
    states=st.lists(st.integers(0, 4), min_size=1, max_size=200),
    balance=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_draws_have_the_shares_asked_for(states, balance, seed):
    states = np.array(states)
    draws = balanced_draws(states, balance, np.random.default_rng(seed))
    assert len(draws) == len(states)
    counts = np.bincount(states, minlength=5)
    share = np.where(counts, np.maximum(counts, 1.0) ** (1 - balance), 0)
    expected = share / share.sum() * len(states)
    found = np.bincount(states[draws], minlength=5)
    assert (np.abs(found - expected) < 1).all()
    for state in np.flatnonzero(found):
        times = np.bincount(draws, minlength=len(states))[states == state]
        assert times.max() - times.min() <= 1  # nobody is preferred


def test_even_balance_draws_rare_states_often():
    states = np.array([0] * 90 + [1] * 10)
    draws = balanced_draws(states, 1.0, np.random.default_rng(0))
    assert np.bincount(states[draws]).tolist() == [50, 50]
    assert np.bincount(draws, minlength=100)[90:].tolist() == [5] * 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bucket_size": 0}, "bucket_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        ({"mixed_blocks": 0}, "mixed_blocks must be at least 1, got 0"),
        ({"balance": 1.5}, r"balance must lie between 0 .* got 1\.5"),
        ({"shuffle": False, "balance": 0.5}, "balance = 0.5 .* turn shuffle on"),
        ({"shuffle": False, "block_size": 9}, "block_size = 9 .* turn shuffle on"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**options).check()
