"""Batches made in a background thread while the device computes."""

import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

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
