"""What a training eats: batches made ahead, and how long it waited for them."""

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple

from physnet_ase.graph import Graph
from physnet_training.loader import PackedMemmapLoader
from physnet_training.loading.prefetch import Prefetched


class Batch(NamedTuple):
    """A batch and where it stands in the order."""

    graph: Any  # what the transform made of the graph
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
        transform: Applied to each graph in the thread.

    Attributes:
        position: Loader state behind the batches handed out so far.
        waited: Seconds in which nothing was computed for want of a batch. The first
            batch does not count: nothing could be computed before.
    """

    def __init__(
        self,
        loader: PackedMemmapLoader,
        cutoff: float | None,
        transform: Callable[[Graph], Any],
    ) -> None:
        self.position = loader.state()
        self.waited = 0.0
        self._loader = loader
        self._started = False

        def finish(batch: Batch) -> Batch:
            return batch._replace(graph=transform(batch.graph))

        self._batches = Prefetched(_endless(loader, cutoff), finish)

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


def _endless(loader: PackedMemmapLoader, cutoff: float | None) -> Iterator[Batch]:
    while True:
        before = loader.state()
        for graph in loader.graphs(cutoff):
            after = loader.state()
            yield Batch(graph, before["epoch"], before["index"], after)
            before = after
