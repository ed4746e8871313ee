"""Feeding a training: the position is that of what was used, not of what was read."""

import numpy as np
import pytest
from physnet_training import PackedMemmapLoader
from physnet_training.loading.prefetch import Feed

SIZES = tuple(np.random.default_rng(2).integers(1, 9, 37).tolist())


@pytest.fixture(scope="module")
def folder(make_dataset):
    return make_dataset(SIZES, seed=1)


def make(folder):
    return PackedMemmapLoader(folder, 8, seed=3)


def take(feed, count):
    return [feed.take(lambda: True) for _ in range(count)]


def test_batches_are_those_of_the_loader_over_epochs(folder):
    with Feed(make(folder), None, lambda graphs: graphs[0]) as feed:
        batches = take(feed, 12)
    expected = make(folder)
    graphs = [graph for _ in range(3) for graph in expected.graphs()]
    for batch, graph in zip(batches, graphs, strict=False):
        np.testing.assert_array_equal(batch.graph.positions, graph.positions)
    assert [b.epoch for b in batches] == [0] * 5 + [1] * 5 + [2] * 2
    assert [b.number for b in batches] == [0, 1, 2, 3, 4] * 2 + [0, 1]


@pytest.mark.parametrize("taken", [0, 1, 4, 5, 7])
def test_position_continues_behind_what_was_taken(folder, taken):
    loader = make(folder)
    with Feed(loader, None, lambda graphs: graphs[0].positions) as feed:
        take(feed, taken)
        position = feed.position
    assert loader.state() == position  # although the thread had read further
    again = make(folder)
    again.restore(position)
    with Feed(again, None, lambda graphs: graphs[0].positions) as feed:
        rest = take(feed, 6)
    with Feed(make(folder), None, lambda graphs: graphs[0].positions) as feed:
        straight = take(feed, taken + 6)
    for batch, expected in zip(rest, straight[taken:], strict=True):
        np.testing.assert_array_equal(batch.graph, expected.graph)
        assert (batch.epoch, batch.number) == (expected.epoch, expected.number)


def test_waiting_counts_only_while_nothing_is_computed(folder):
    import time

    def slow(graph):
        time.sleep(0.02)
        return graph

    with Feed(make(folder), None, slow) as feed:
        take(feed, 4)
        assert feed.waited == 0.0
    with Feed(make(folder), None, slow) as feed:
        feed.take(lambda: False)  # nothing could be computed before the first batch
        assert feed.waited == 0.0
        for _ in range(4):
            feed.take(lambda: False)
        assert feed.waited > 0.02


def test_error_of_the_data_reaches_the_training(make_molecules, make_dataset):
    molecules = make_molecules([2, 3, 2])
    molecules["values"]["spin_multiplicity"] = np.array([1.0, np.nan, 1.0])
    loader = PackedMemmapLoader(make_dataset(molecules=molecules), 2)
    with (
        Feed(loader, None, lambda graphs: graphs[0]) as feed,
        pytest.raises(ValueError, match="no spin multiplicity for molecule 1"),
    ):
        take(feed, 2)
