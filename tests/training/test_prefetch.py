"""Prefetching: the same sequence, errors in their place, threads that end."""

import gc
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from physnet_training.loading.prefetch import Prefetched


def prefetching():
    """Threads of this kind that are still alive."""
    return [t for t in threading.enumerate() if t.name == "prefetch" and t.is_alive()]


def until(condition, seconds=5.0):
    """Wait for a condition of another thread."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


@settings(deadline=None, max_examples=20)
@given(items=st.lists(st.integers()), depth=st.integers(1, 5))
def test_sequence_is_that_of_the_source(items, depth):
    assert list(Prefetched(items, lambda x: -x, depth)) == [-x for x in items]
    assert not prefetching()


def test_results_are_made_in_another_thread_and_at_most_depth_ahead():
    made, threads = [], set()

    def note(item):
        made.append(item)
        threads.add(threading.current_thread())
        return item

    with Prefetched(range(100), note, depth=3) as results:
        assert until(lambda: len(made) == 3)
        time.sleep(0.02)
        assert len(made) == 3  # waits for a place
        assert next(results) == 0
        assert until(lambda: len(made) == 4)
    assert len(made) <= 5
    assert threads
    assert threading.main_thread() not in threads
    assert not prefetching()


@pytest.mark.parametrize("where", ["source", "transform"])
def test_error_comes_in_its_place(where):
    def source():
        yield from (0, 1)
        if where == "source":
            raise OSError("disk gone")
        yield 2

    def transform(item):
        if item == 2:
            raise OSError("disk gone")
        return item

    results = Prefetched(source(), transform)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="disk gone"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    assert not prefetching()


def test_closing_ends_the_thread_and_the_iteration():
    results = Prefetched(iter(int, 1), lambda x: x)  # without end
    assert next(results) == 0
    results.close()
    results.close()
    assert not prefetching()
    with pytest.raises(StopIteration):
        next(results)


def test_error_of_the_consumer_ends_the_thread():
    def consume():
        with Prefetched(iter(int, 1), lambda x: x) as results:
            for _ in results:
                raise KeyError("consumer")

    with pytest.raises(KeyError):
        consume()
    assert not prefetching()


def test_abandoned_iterator_ends_its_thread():
    results = Prefetched(iter(int, 1), lambda x: x)
    next(results)
    del results
    gc.collect()
    assert until(lambda: not prefetching())


def test_depth_below_one_is_refused():
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        Prefetched([], lambda x: x, 0)
