"""What a training needs to know of its data first: the split and the references."""

import numpy as np
from numpy.typing import NDArray

from physnet_training.config import SplitConfig
from physnet_training.packed import PackedDataset
from physnet_training.references import References, fit_references
from physnet_training.splits import (
    Split,
    geometry_split,
    group_indices,
    permutation_split,
    split_indices,
)


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
    rows = np.arange(len(dataset))
    held = (
        group_indices(dataset, config.holdout_groups)
        if config.holdout_groups
        else np.zeros(0, np.int64)
    )
    rest = np.setdiff1d(rows, held)
    if config.kind == "geometry":
        inside, outside = geometry_split(
            dataset, config.train_fraction, config.seed, molecules=rest
        )
    else:
        inside, outside = split_indices(rest, config.train_fraction, config.seed)
    return Split(inside, outside, held)


def dataset_references(
    dataset: PackedDataset, rows: NDArray[np.int64]
) -> tuple[References, float]:
    """References of some molecules, and the size (eV per atom) of what is left."""
    sizes = dataset.n_atoms[rows]
    numbers = dataset.take("atomic_numbers", dataset.atom_rows(rows))
    elements, column = np.unique(numbers, return_inverse=True)
    composition = np.zeros((len(rows), len(elements)))
    np.add.at(composition, (np.repeat(np.arange(len(rows)), sizes), column), 1.0)
    states = np.stack(dataset.states_of(rows), axis=1)
    energies = dataset.take("energy", rows).astype(np.float64)
    found = fit_references(energies, composition, elements, states)
    left = (energies - found.energies(composition, elements, states)) / sizes
    left = left[np.isfinite(left)]
    return found, max(float(np.sqrt(np.mean(left**2))), 0.1)
