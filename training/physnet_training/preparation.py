"""What a training needs to know of its data first: the split and the references."""

from collections import Counter

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from physnet_ase.config import ModelConfig
from physnet_ase.metadata import ModelMetadata, StateRecord
from physnet_ase.state import ElectronicState
from physnet_training.config import Recipe, SplitConfig
from physnet_training.packed import PackedDataset
from physnet_training.packed.reader import parts
from physnet_training.references import ReferenceFit, References
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


def dataset_references(
    dataset: PackedDataset, rows: NDArray[np.int64]
) -> tuple[References, float]:
    """References of some molecules, and the size (eV per atom) of what is left."""
    numbers: set[int] = set()
    states: Counter[tuple[int, int]] = Counter()
    for some in parts(rows):
        atoms = dataset.take("atomic_numbers", dataset.atom_rows(some))
        numbers.update(np.flatnonzero(np.bincount(atoms)).tolist())
        states.update(dataset.count_states(some))
    elements = np.array(sorted(numbers))
    fit = ReferenceFit(elements, {ElectronicState(*s): n for s, n in states.items()})
    for some in parts(rows):
        fit.add(
            dataset.take("energy", some).astype(np.float64),
            composition(dataset, some, elements),
            np.stack(dataset.states_of(some), axis=1),
        )
    return fit.references(), max(fit.residual_per_atom(), 0.1)


def composition(
    dataset: PackedDataset, rows: NDArray[np.int64], elements: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Number of atoms of each element in some molecules. [molecules, elements]."""
    column = np.zeros(int(elements.max()) + 1, dtype=np.int64)
    column[elements] = np.arange(len(elements))
    molecule = np.repeat(np.arange(len(rows)) * len(elements), dataset.n_atoms[rows])
    numbers = dataset.take("atomic_numbers", dataset.atom_rows(rows))
    counts = np.bincount(
        molecule + column[numbers], minlength=len(rows) * len(elements)
    )
    return counts.reshape(len(rows), len(elements))


def check_states(
    dataset: PackedDataset, split: Split, found: References, model: ModelConfig
) -> None:
    """Refuse states that cannot be validated, or that the model cannot take.

    Raises:
        ValueError: A state stands in the validation part only, or is out of range.
    """
    seen = {(s.charge, s.multiplicity) for s in found.state_energies}
    for pair in dataset.count_states(split.validation):
        if pair not in seen:
            raise ValueError(
                f"charge {pair[0]:+d}, multiplicity {pair[1]} stands in the "
                "validation part but not in the training part; use another "
                "split.seed or more molecules"
            )
    for charge, spin in sorted(seen):
        low, high = model.charge_range
        if not (low <= charge <= high and spin <= model.spin_range[1]):
            raise ValueError(
                f"the data holds charge {charge:+d}, multiplicity {spin}, outside "
                f"model.charge_range {model.charge_range} or model.spin_range "
                f"{model.spin_range}; widen them in the recipe"
            )


def describe(
    recipe: Recipe, dataset: PackedDataset, found: References
) -> ModelMetadata:
    """What a model that is trained on these data says of itself."""
    return ModelMetadata(
        name=recipe.name,
        description=recipe.description,
        config=recipe.model,
        element_energies={
            chemical_symbols[z]: e for z, e in found.element_energies.items()
        },
        states=[
            StateRecord(
                charge=state.charge,
                multiplicity=state.multiplicity,
                count=found.state_counts[state],
                reference_energy=energy,
            )
            for state, energy in sorted(found.state_energies.items())
        ],
        levels_of_theory=list(dataset.levels),
    )
