"""A position in the epochs of a dataset, and the way from there."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from physnet_training.loading.reading import Gathered, atoms_at_once, gather
from physnet_training.loading.sampler import Sampler
from physnet_training.packed import PackedDataset

Array = NDArray[Any]
_FIRST = 4  # batches read at first


class Step(NamedTuple):
    """One batch on its way out."""

    found: Gathered  # this batch and some others
    rows: Array  # its molecules among them
    shares: list[Array]  # positions of the molecules of every process


class Walk:
    """Reads the batches of one process from a position on.

    Args:
        dataset: Where the molecules are.
        indices: Those that take part.
        sampler: Which of them is in which batch.
        process_index: Number of this process.
        weights: [molecules of the dataset] weights in the loss, or None.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        indices: Array,
        sampler: Sampler,
        *,
        process_index: int,
        weights: Array | None,
    ) -> None:
        self._dataset = dataset
        self._indices = indices
        self._sampler = sampler
        self._process_index = process_index
        self._weights = weights
        self.epoch = self.index = 0

    def restore(self, state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Go to a stored position.

        Args:
            state: The position and the settings it was taken with.
            settings: Those of this loader.

        Raises:
            ValueError: The settings differ, or there is no such position.
        """
        for name in ("epoch", "index", *settings):
            if name not in state:
                raise ValueError(f"the loader's state lacks {name!r}: {dict(state)}")
        for name, mine in settings.items():
            if state[name] != mine:
                raise ValueError(
                    f"the loader's state was taken with {name} = {state[name]}, this "
                    f"loader has {mine}; make the loader with the same settings"
                )
        last = self._sampler.num_batches - 1
        if not 0 <= state["index"] <= last or state["epoch"] < 0:
            raise ValueError(
                f"the loader's state names batch {state['index']} of epoch "
                f"{state['epoch']}; an epoch has batches 0..{last}"
            )
        self.epoch, self.index = int(state["epoch"]), int(state["index"])

    def molecules(self, epoch: int, index: int) -> Array:
        """Dataset indices of this process's batch ``index`` of an epoch."""
        return self._indices[self._sampler.shares(epoch, index)[self._process_index]]

    def steps(
        self, fills: Mapping[str, float], *, whole_states: bool
    ) -> Iterator[Step]:
        """The rest of the epoch; each batch counts before it is used.

        Args:
            fills: As for ``gather``.
            whole_states: As for ``gather``.
        """
        sampler, epoch = self._sampler, self.epoch
        for some in self._spans(self.index):
            shares = [sampler.shares(epoch, index) for index in some]
            found, rows = gather(
                self._dataset,
                [self._indices[share[self._process_index]] for share in shares],
                fills,
                whole_states=whole_states,
                weights=self._weights,
            )
            for index, mine, share in zip(some, rows, shares, strict=True):
                last = index + 1 == sampler.num_batches
                self.epoch, self.index = (epoch + 1, 0) if last else (epoch, index + 1)
                yield Step(found, mine, share)

    def _spans(self, start: int) -> Iterator[range]:
        """Batches to read at once: few at first, so that the first one comes soon."""
        sampler = self._sampler
        own = sampler.group / sampler.process_count
        atoms = own * float(sampler.sizes.mean())
        limit = max(int(atoms_at_once(self._dataset) / atoms), 1)
        ahead = min(_FIRST, limit)
        while start < sampler.num_batches:
            end = min(start + ahead, sampler.num_batches)
            yield range(start, end)
            start, ahead = end, min(2 * ahead, limit)
