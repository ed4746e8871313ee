"""What a step of a training gets: new molecules, old ones again, or separated pairs."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from physnet_ase.graph import Graph
from physnet_ase.molecules import Molecules
from physnet_training.loading.batches import read_batches
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.loading.pairs import SeparatedPairs
from physnet_training.loading.prefetch import Feed
from physnet_training.packed import PackedDataset
from physnet_training.train.data import levels_of
from physnet_training.train.devices import Devices
from physnet_training.train.recipe import Recipe
from physnet_training.train.replay import Replay, replayed

_LOOKED_AT = 64  # batches from elsewhere that the shapes are chosen for


class StepBatches:
    """Batches of the training part, as functions of their number.

    Args:
        recipe: Sizes, sampling and seed.
        dataset: The molecules.
        training: Rows of those to train on.
        devices: Which share of each batch this process computes.

    Attributes:
        loader: Walks over the new molecules.
        old: [molecules of the dataset] bool, which are there to be replayed.

    Raises:
        ValueError: The loss asks for ladders of states, and there are none.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: PackedDataset,
        training: NDArray[np.int64],
        devices: Devices,
    ) -> None:
        self._recipe, self._dataset, self._training = recipe, dataset, training
        options, sampling = recipe.optimizer, recipe.sampling
        self._shares = devices.local * options.accumulate  # graphs of a step, here
        # flat graphs pad a batch, not a molecule: sorting by size would save little and
        # make batches of one kind of molecule each
        whole = PackedMemmapLoader(
            dataset,
            options.molecules_per_step // devices.process_count,
            bucket_size=1,
            seed=options.seed,
            process_index=devices.process_index,
            process_count=devices.process_count,
            keep_ladders=recipe.loss.vertical > 0,
            expected_batches=options.steps,
            **sampling.model_dump(exclude={"separated_pairs", "replay_share"}),
        )
        self.old = np.zeros(len(dataset), bool)
        if recipe.data.replay:
            self.old = replayed(dataset, len(recipe.data.replay))
        old = self.old[training]
        self._replay = Replay(training[old], sampling.replay_share, options.seed)
        self.loader = whole.subset(training[~old])
        if recipe.loss.vertical > 0 and not self.loader.num_ladders:
            raise ValueError(
                f"{dataset.path}: loss.vertical = {recipe.loss.vertical} needs "
                "training molecules whose geometry is labelled in several states; set "
                "it to 0, or label vertical ladders"
            )
        self._pairs: SeparatedPairs | None = None

    def separate_pairs(self, states: Sequence[tuple[int, int]]) -> None:
        """Mix in far pairs of molecules, as often as the recipe says.

        Args:
            states: Charge and multiplicity that a pair may have: those the model knows.

        Raises:
            ValueError: Fewer than two geometries are labelled in two states.
        """
        if self._recipe.sampling.separated_pairs > 0:
            first_level = levels_of(self._dataset, self._training) == 0
            rows, seed = self._training[first_level], self._recipe.optimizer.seed
            self._pairs = SeparatedPairs(self._dataset, rows, seed, states)
        if self._recipe.data.replay or self._pairs is not None:
            self.loader.expect(self._some)

    def feed(self, prepare: Callable[[list[Graph]], Graph], first: int) -> Feed:
        """Batches from the one of number ``first`` on, prepared ahead of their use."""
        return Feed(
            self.loader,
            self._recipe.model.cutoff,
            prepare,
            extra=self._extra,
            first=first,
            shares=self._shares,
        )

    def _extra(self, number: int) -> list[Graph] | None:
        """Graphs of the batch of this number where it is not of the new molecules."""
        cutoff = self._recipe.model.cutoff
        rows = self._replayed(number)
        if rows is not None:
            names = self.loader.names(cutoff, self._shares)
            some, weights = self._read(rows, names), self.loader.weights
            return self.loader.shares_of(some, cutoff, self._shares, weights)
        pairs = self._separated(number)
        if pairs is None:
            return None
        return self.loader.shares_of(pairs, cutoff, self._shares)

    def _some(self, names: tuple[str, ...]) -> tuple[list[Molecules], float]:
        """Some batches that are not of the new molecules, and how many for each."""
        found: list[Molecules] = []
        number, steps = 0, min(self._recipe.optimizer.steps, 100 * _LOOKED_AT)
        while len(found) < _LOOKED_AT and number < steps:
            rows = self._replayed(number)
            some = self._separated(number) if rows is None else self._read(rows, names)
            found += [] if some is None else [some]
            number += 1
        return found, len(found) / max(number - len(found), 1)

    def _replayed(self, number: int) -> NDArray[np.int64] | None:
        """Rows of the batch of this number where it is one of old molecules."""
        return self._replay.batch(number, self._recipe.optimizer.molecules_per_step)

    def _read(self, rows: NDArray[np.int64], names: tuple[str, ...]) -> Molecules:
        some, [places] = read_batches(self._dataset, [rows], names, whole_states=True)
        return some.take(places)

    def _separated(self, number: int) -> Molecules | None:
        """Separated pairs where the batch of this number is one of those."""
        if self._pairs is None:
            return None
        options, share = self._recipe.optimizer, self._recipe.sampling.separated_pairs
        if np.random.default_rng([options.seed, 0x5E9, number]).random() >= share:
            return None
        return self._pairs.batch(number, max(options.molecules_per_step // 2, 1))
