"""Who trains, who validates, who is never seen: membership stored with the run."""

import difflib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_training.hashing import hash_uniform
from physnet_training.loading.geometries import keys_of
from physnet_training.loading.order import both_parts, split_indices
from physnet_training.packed import PackedDataset
from physnet_training.packed.reader import parts
from physnet_training.train.recipe import SplitConfig

Array = NDArray[Any]
SPLIT_FILE = "split.npz"
"""Name of the stored split in a run's folder."""


@dataclass(frozen=True, eq=False)
class Split:
    """Molecule indices of a dataset, each in at most one part.

    Raises:
        ValueError: Training or validation is empty, or an index stands twice.
    """

    train: Array
    validation: Array
    test: Array

    def __post_init__(self) -> None:
        """Bring the parts to int64 and check them."""
        for name in ("train", "validation", "test"):
            part = np.asarray(getattr(self, name), dtype=np.int64).reshape(-1)
            object.__setattr__(self, name, part)
        for name in ("train", "validation"):
            if len(getattr(self, name)) == 0:
                raise ValueError(
                    f"the {name} part of the split is empty; use more molecules or "
                    "another fraction"
                )
        together = np.concatenate([self.train, self.validation, self.test])
        together.sort()
        twice = together[1:][together[1:] == together[:-1]]
        if len(twice) or together[0] < 0:
            bad = int(twice[0] if len(twice) else together[0])
            raise ValueError(
                f"molecule {bad} must stand in one part of the split once, and indices "
                "count from 0"
            )

    def save(self, path: str | Path) -> Path:
        """Write the indices as an ``.npz`` file; return the path."""
        path = Path(path)
        # a file object, for NumPy would append its own ending to a name
        with path.open("wb") as file:
            np.savez(file, train=self.train, validation=self.validation, test=self.test)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Split":
        """Read what ``save`` wrote.

        Raises:
            ValueError: The file is no split.
        """
        names = ("train", "validation", "test")
        try:
            with (
                Path(path).open("rb") as file,
                np.load(file, allow_pickle=False) as stored,
            ):
                found = [stored[name] for name in names]
        except (
            *(OSError, EOFError, KeyError, ValueError),  # of NumPy
            *(AttributeError, TypeError, zipfile.BadZipFile),
        ) as error:
            raise ValueError(f"{path} is no stored split: {error!r}") from error
        return cls(*found)


def permutation_split(
    num_molecules: int, num_train: int, num_validation: int, seed: int
) -> Split:
    """The field's usual split: a seeded permutation's first, next and other molecules.

    Args:
        num_molecules: Size of the dataset.
        num_train: Molecules to train on.
        num_validation: Molecules to validate on; what is left is the test part.
        seed: Seed of ``np.random.default_rng``.

    Raises:
        ValueError: More molecules asked for than there are, or none.
    """
    if num_train + num_validation > num_molecules:
        raise ValueError(
            f"{num_train} + {num_validation} molecules asked for, the dataset has "
            f"{num_molecules}"
        )
    order = np.random.default_rng(seed).permutation(num_molecules)
    end = num_train + num_validation
    return Split(order[:num_train], order[num_train:end], order[end:])


def geometry_split(
    dataset: PackedDataset,
    fraction: float,
    seed: int,
    *,
    molecules: Array | None = None,
) -> tuple[Array, Array]:
    """A split in which equal geometries stay together, whatever their state.

    Membership is a hash of the seed, the atomic numbers and the positions rounded to
    1e-4 Å, so that a vertical ladder of states is never torn between two parts.

    Args:
        dataset: The molecules.
        fraction: Expected fraction of the first part, between 0 and 1.
        seed: Any integer.
        molecules: Only these; None takes all.

    Returns:
        Indices inside and outside of the fraction, in the order of ``molecules``.

    Raises:
        ValueError: The fraction is out of range, or a part would be empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1, got {fraction}")
    indices = np.arange(len(dataset)) if molecules is None else molecules
    inside = hash_uniform(keys_of(dataset, indices), seed) < fraction
    return both_parts(indices, inside, f"fraction {fraction}, seed {seed}")


def group_indices(dataset: PackedDataset, names: Sequence[str]) -> Array:
    """Indices of every molecule with one of these names, to hold them out whole.

    Raises:
        ValueError: A name is unknown; the message lists similar ones.
    """
    for name in names:
        if name not in dataset.groups:
            near = difflib.get_close_matches(name, dataset.groups, n=5, cutoff=0.3)
            known = ", ".join(near or dataset.groups[:5]) or "none: no names are stored"
            raise ValueError(f"{dataset.path}: no molecule is called {name!r}; {known}")
    wanted = [dataset.groups.index(name) for name in names]
    found = [
        rows[np.isin(dataset.take("group", rows), wanted)]
        for rows in parts(range(len(dataset)))
    ]
    return np.concatenate(found)


def make_split(dataset: PackedDataset, config: SplitConfig) -> Split:
    """Divide a dataset as the recipe says; held-out groups always go to the test part.

    Raises:
        ValueError: Unknown group, or an empty part.
    """
    if config.kind == "permutation":
        if config.num_train is None or config.num_validation is None:
            raise ValueError("split.kind 'permutation' needs num_train, num_validation")
        return permutation_split(
            len(dataset), config.num_train, config.num_validation, config.seed
        )
    free = np.ones(len(dataset), dtype=bool)
    if config.holdout_groups:
        free[group_indices(dataset, config.holdout_groups)] = False
    rest, held = np.flatnonzero(free), np.flatnonzero(~free)
    if config.kind == "geometry":
        inside, outside = geometry_split(
            dataset, config.train_fraction, config.seed, molecules=rest
        )
    else:
        inside, outside = split_indices(rest, config.train_fraction, config.seed)
    return Split(inside, outside, held)
