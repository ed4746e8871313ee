"""Batches made in a background thread while the device computes."""

import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

from physnet_ase.graph import Graph
from physnet_training.loading.loader import PackedMemmapLoader

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Failure(NamedTuple):
    error: BaseException


class _Ended(NamedTuple):
    pass


class Prefetched(Generic[Result]):
    """An iterator over ``transform(item)`` that stays a few items ahead.

    One thread iterates the source and transforms; an error there is raised here, in
    its place in the sequence. Use it as a context manager, or ``close`` it: the thread
    then ends before the call returns. An abandoned one ends its thread as well.

    Args:
        source: Iterated in the thread only.
        transform: Applied in the thread, for example a copy to the device.
        depth: Most results that wait.

    Raises:
        ValueError: ``depth`` is below 1.
    """

    def __init__(
        self,
        source: Iterable[Item],
        transform: Callable[[Item], Result],
        depth: int = 2,
    ) -> None:
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        channel = _Channel(depth)
        self._channel = channel
        self._ended = False
        # The thread knows the channel only, so that an abandoned iterator can go.
        self._thread = threading.Thread(
            target=_produce,
            args=(channel, source, transform),
            name="prefetch",
            daemon=True,
        )
        self._thread.start()
        self._finalizer = weakref.finalize(self, channel.stop)

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        if self._ended:
            raise StopIteration
        result = self._channel.results.get()
        self._channel.free.release()
        if isinstance(result, _Ended | _Failure):
            self.close()
            if isinstance(result, _Failure):
                raise result.error
            raise StopIteration
        return result

    def __enter__(self) -> "Prefetched[Result]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread and wait for its end; what was made ahead is dropped."""
        self._ended = True
        self._channel.stop()
        if self._thread is not threading.current_thread():
            self._thread.join()


class _Channel:
    """What the two threads share."""

    def __init__(self, depth: int) -> None:
        self.results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.free = threading.Semaphore(depth)
        self.stopped = threading.Event()

    def stop(self) -> None:
        self.stopped.set()
        self.free.release()  # the thread may be waiting for a place


def _produce(
    channel: _Channel, source: Iterable[Item], transform: Callable[[Item], Any]
) -> None:
    """Body of the thread."""
    last: Any = _Ended()
    try:
        items = iter(source)
        while True:
            channel.free.acquire()
            if channel.stopped.is_set():
                return
            try:
                item = next(items)
            except StopIteration:
                break
            channel.results.put(transform(item))
            del item
    except BaseException as error:  # raised again where the results are used
        last = _Failure(error)
    channel.results.put(last)


class Batch(NamedTuple):
    """A batch and where it stands in the order."""

    graph: Any  # what the transform made of the graphs
    epoch: int
    number: int  # of the batch in its epoch
    after: dict[str, Any]  # the loader's state that continues behind it


class Feed:
    """Batches of a loader without end, made in a background thread.

    The loader runs ahead; ``position`` is that of the batches handed out, and closing
    brings the loader back to it. A context manager.

    Args:
        loader: Nobody else may use it meanwhile, but for looking up molecules.
        cutoff: Of the graphs, in Å.
        transform: Applied in the thread to the graphs of each batch.
        extra: Gives the graphs of a batch that does not come from the loader, or None,
            from the batch's number.
        first: Number of the first batch.
        shares: Graphs per batch, see ``PackedMemmapLoader.shares``.

    Attributes:
        position: Loader state behind the batches handed out so far.
        waited: Seconds in which nothing was computed for want of a batch. The first
            batch does not count: nothing could be computed before.
    """

    def __init__(
        self,
        loader: PackedMemmapLoader,
        cutoff: float | None,
        transform: Callable[[list[Graph]], Any],
        *,
        extra: Callable[[int], list[Graph] | None] = lambda number: None,
        first: int = 0,
        shares: int = 1,
    ) -> None:
        self.position = loader.state()
        self.waited = 0.0
        self._loader = loader
        self._started = False

        def finish(batch: Batch) -> Batch:
            return batch._replace(graph=transform(batch.graph))

        batches = _endless(loader, partial(loader.shares, cutoff, shares), extra, first)
        self._batches = Prefetched(batches, finish)

    def __enter__(self) -> "Feed":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._batches.close()
        self._loader.restore(self.position)

    def take(self, busy: Callable[[], bool]) -> Batch:
        """The next batch.

        Args:
            busy: Whether the device still computes: then waiting cost nothing.
        """
        started = time.monotonic()
        batch = next(self._batches)
        if self._started and not busy():
            self.waited += time.monotonic() - started
        self._started = True
        self.position = batch.after
        return batch


def _endless(
    loader: PackedMemmapLoader,
    epoch: Callable[[], Iterator[list[Graph]]],
    extra: Callable[[int], list[Graph] | None],
    number: int,
) -> Iterator[Batch]:
    while True:
        before = loader.state()
        for graphs in epoch():
            after = loader.state()
            while (other := extra(number)) is not None:
                yield Batch(other, before["epoch"], before["index"], before)
                number += 1
            yield Batch(graphs, before["epoch"], before["index"], after)
            number += 1
            before = after
