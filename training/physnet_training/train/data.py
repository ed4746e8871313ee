"""What a training needs to know of its data: references, states, identity."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from physnet_ase.checkpoint import ModelMetadata
from physnet_ase.config import ModelConfig
from physnet_ase.familiarity import environments_of
from physnet_ase.molecules import Molecules
from physnet_ase.references import References
from physnet_ase.state import ElectronicState
from physnet_training.loading.batches import read_batches
from physnet_training.packed import PackedDataset
from physnet_training.packed.reader import parts
from physnet_training.train.recipe import Recipe
from physnet_training.train.split import Split

_MOST_TRAINING, _MOST_VALIDATION = 20_000, 2_000  # molecules whose atoms are described
_LEAST_SCALE = 0.1  # eV per atom that one unit of the energy head has at the start


def dataset_fingerprint(dataset: PackedDataset) -> str:
    """Hash of what a dataset holds: its checksums, or where it has none its sizes.

    Moving or copying a dataset changes nothing.
    """
    digest = hashlib.sha256()
    for manifest in dataset.manifests:
        said = {key: manifest.get(key) for key in ("sha256", "num_molecules")}
        digest.update(json.dumps(said, sort_keys=True).encode())
    if not all(manifest.get("sha256") for manifest in dataset.manifests):
        digest.update(np.ascontiguousarray(dataset.n_atoms).tobytes())
        for rows in parts(range(len(dataset))):
            digest.update(dataset.take("energy", rows).tobytes())
    return digest.hexdigest()


def dataset_references(
    dataset: PackedDataset,
    rows: NDArray[np.int64],
    *,
    additive: bool = False,
    less: NDArray[np.float64] | None = None,
) -> tuple[References, float]:
    """References of some molecules, and the size (eV per atom) of what is left.

    Args:
        dataset: Where they are.
        rows: Those that train.
        additive: Constants of states that far fragments add up to.
        less: Energies to take off before, NaN where a molecule does not take part:
            those of a network that is there already. [molecules of the dataset] eV
    """
    numbers: set[int] = set()
    states: Counter[tuple[int, int]] = Counter()
    for some in parts(rows):
        atoms = dataset.take("atomic_numbers", dataset.atom_rows(some))
        numbers.update(np.flatnonzero(np.bincount(atoms)).tolist())
        states.update(dataset.count_states(some))

    def batches() -> Iterator[Molecules]:
        for some in parts(rows):
            names = ("atomic_numbers", "energy")
            batch = read_batches(dataset, [some], names, whole_states=True)[0]
            if less is not None:
                rest = batch.values["energy"] - less[batch.rows]
                batch = batch.with_values(energy=rest)
            yield batch

    counts = {ElectronicState(*pair): count for pair, count in states.items()}
    references, left = References.fit(batches(), numbers, counts, additive=additive)
    return references, max(left, _LEAST_SCALE)


def _sample(
    dataset: PackedDataset, rows: NDArray[np.int64], most: int
) -> Iterator[Molecules]:
    """Some molecules from everywhere in a part, in batches."""
    chosen = np.sort(rows[:: max(len(rows) // most, 1)])
    for some in parts(chosen):
        names = ["atomic_numbers", "positions"]
        names += [name for name in ("cell", "pbc") if name in dataset.fields]
        yield read_batches(dataset, [some], tuple(names), whole_states=True)[0]


def check_states(
    dataset: PackedDataset,
    validation: NDArray[np.int64],
    references: References,
    model: ModelConfig,
) -> None:
    """Refuse states that cannot be validated, or that the model cannot take.

    Raises:
        ValueError: A state stands in the validation part only, or is out of range.
    """
    seen = {(s.charge, s.multiplicity) for s in references.state_energies}
    for pair in dataset.count_states(validation):
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
    recipe: Recipe,
    dataset: PackedDataset,
    split: Split,
    references: References,
) -> ModelMetadata:
    """What a model that is trained on these molecules says of itself."""
    train = split.train
    periodic = 0
    if "pbc" in dataset.fields:
        for rows in parts(train):
            periodic += int(np.count_nonzero(dataset.take("pbc", rows).any(axis=1)))
    return ModelMetadata(
        name=recipe.name,
        description=recipe.description,
        config=recipe.model,
        levels_of_theory=list(dataset.levels),
        periodic_structures=periodic,
        environments=environments_of(
            _sample(dataset, train, _MOST_TRAINING),
            _sample(dataset, split.validation, _MOST_VALIDATION),
        ),
        **ModelMetadata.stored_references(references),
    )
