"""What a training needs to know of its data: references, states, identity."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from physnet_ase.checkpoint import LevelRecord, ModelMetadata, stored_references
from physnet_ase.config import ModelConfig
from physnet_ase.familiarity import Environments, environments_of
from physnet_ase.molecules import Molecules
from physnet_ase.references import ReferenceFit, References, Seen
from physnet_ase.state import ElectronicState
from physnet_training.hashing import hash_uniform
from physnet_training.loading.batches import read_batches
from physnet_training.loading.geometries import keys_of
from physnet_training.packed import PackedDataset
from physnet_training.packed.reader import parts
from physnet_training.train.recipe import Recipe
from physnet_training.train.split import Split

_MOST_DESCRIBED = 20_000  # molecules whose atoms are described, of one level
_PARTS = 5  # of them, each left out once
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


def levels_of(dataset: PackedDataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of the level of theory of each molecule, [molecules]; one level is 0.

    Raises:
        ValueError: There are several levels, and some molecule says none of them.
    """
    if len(dataset.levels) < 2:
        return np.zeros(len(rows), np.int64)
    levels = dataset.take("level", rows).astype(np.int64)
    unknown = np.flatnonzero(levels < 0)
    if len(unknown):
        raise ValueError(
            f"{dataset.path} holds the levels of theory {'; '.join(dataset.levels)}, "
            f"but {len(unknown)} molecules, the first of them {int(rows[unknown[0]])}, "
            "say none: convert their files with --level NAME"
        )
    return levels


def with_heads(recipe: Recipe, dataset: PackedDataset) -> Recipe:
    """The recipe with a head for each level of theory of the dataset.

    Raises:
        ValueError: The recipe asks for another number.
    """
    heads, wanted = max(len(dataset.levels), 1), recipe.model.num_levels
    if wanted not in (1, heads):
        raise ValueError(
            f"model.num_levels is {wanted}, but {dataset.path} holds {heads} levels of "
            f"theory: {'; '.join(dataset.levels)}; leave it out"
        )
    model = recipe.model.model_copy(update={"num_levels": heads})
    return recipe.model_copy(update={"model": model})


def dataset_references(
    dataset: PackedDataset,
    rows: NDArray[np.int64],
    *,
    additive: bool = False,
    less: NDArray[np.float64] | None = None,
) -> tuple[list[References], float]:
    """References of each level of theory, and the size of what is left in eV per atom.

    Args:
        dataset: Where they are.
        rows: Those that train.
        additive: Constants of states that far fragments add up to.
        less: Energies to take off before, NaN where a molecule does not take part:
            those of a network that is there already. [molecules of the dataset] eV

    Raises:
        ValueError: A level has no molecule among the rows.
    """
    count = max(len(dataset.levels), 1)
    numbers: list[set[int]] = [set() for _ in range(count)]
    states: list[Counter[ElectronicState]] = [Counter() for _ in range(count)]
    for some in parts(rows):
        own = levels_of(dataset, some)
        for level in np.unique(own).tolist():
            mine = some[own == level]
            atoms = dataset.take("atomic_numbers", dataset.atom_rows(mine))
            numbers[level].update(np.flatnonzero(np.bincount(atoms)).tolist())
            for pair, number in dataset.count_states(mine).items():
                states[level][ElectronicState(*pair)] += number
    for level, found in enumerate(states):
        if not found:
            raise ValueError(
                f"{dataset.path}: no molecule of level {dataset.levels[level]!r} "
                "trains; use another split or leave its source out"
            )

    def batches() -> Iterator[Molecules]:
        names = ("atomic_numbers", "energy", *(("level",) if count > 1 else ()))
        for some in parts(rows):
            batch = read_batches(dataset, [some], names, whole_states=True)[0]
            if less is not None:
                rest = batch.values["energy"] - less[batch.rows]
                batch = batch.with_values(energy=rest)
            yield batch

    seen = [Seen(*each) for each in zip(numbers, states, strict=True)]
    fit = ReferenceFit(seen, additive)
    for batch in batches():
        fit.add(batch)
    return fit.references(), max(fit.residual_per_atom(), _LEAST_SCALE)


def _in_parts(
    dataset: PackedDataset, rows: NDArray[np.int64]
) -> tuple[list[Molecules], list[NDArray[np.bool_]]]:
    """Some molecules from everywhere, geometry by geometry in a few parts.

    Returns:
        The parts; and which molecules of each stand in the others, too, in other
        geometries: those of the same name, or all where the dataset has no names.
    """
    rows = np.sort(rows[:: max(len(rows) // _MOST_DESCRIBED, 1)])
    part = (hash_uniform(keys_of(dataset, rows), 0) * _PARTS).astype(int)
    name = dataset.take("group", rows) if dataset.groups else np.zeros(len(rows))
    columns = ["atomic_numbers", "positions"]
    columns += [column for column in ("cell", "pbc") if column in dataset.fields]
    molecules, known = [], []
    for index in np.unique(part):
        own = part == index
        known.append(np.isin(name[own], name[~own]))
        batch = read_batches(dataset, [rows[own]], tuple(columns), whole_states=True)
        molecules.append(batch[0])
    return molecules, known


def check_states(
    dataset: PackedDataset,
    validation: NDArray[np.int64],
    references: Sequence[References],
    model: ModelConfig,
) -> None:
    """Refuse states that cannot be validated, or that the model cannot take.

    Raises:
        ValueError: A state stands in the validation part only, or is out of range.
    """
    own = levels_of(dataset, validation)
    for level, each in enumerate(references):
        seen = {(s.charge, s.multiplicity) for s in each.state_energies}
        for pair in dataset.count_states(validation[own == level]):
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


def _in_several_states(
    dataset: PackedDataset, rows: NDArray[np.int64], levels: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which rows are of molecules that their level of theory has in several states.

    What a state costs is learned from these at any level; from a molecule in one state
    only its shape.
    """
    if len(dataset.levels) < 2 or not dataset.groups:
        return np.zeros(len(rows), bool)
    charge, spin = dataset.states_of(rows)
    molecule = np.stack([dataset.take("group", rows), levels], axis=1)
    _, which = np.unique(molecule, axis=0, return_inverse=True)
    which = which.reshape(-1)
    states = np.unique(np.stack([which, charge, spin], axis=1), axis=0)
    return np.bincount(states[:, 0].astype(int))[which] > 1


def describe(
    recipe: Recipe,
    dataset: PackedDataset,
    split: Split,
    references: Sequence[References],
) -> ModelMetadata:
    """What a model that is trained on these molecules says of itself."""
    train = split.train
    periodic = 0
    if "pbc" in dataset.fields:
        for rows in parts(train):
            periodic += int(np.count_nonzero(dataset.take("pbc", rows).any(axis=1)))
    training = levels_of(dataset, train)
    ladders = _in_several_states(dataset, train, training)
    coarse = set(recipe.data.coarse_levels)
    unknown = sorted(coarse - {*dataset.levels})
    if unknown:
        raise ValueError(
            f"data.coarse_levels names {', '.join(unknown)}; {dataset.path} holds "
            f"{', '.join(dataset.levels)}"
        )
    counts = np.array([name not in coarse for name in dataset.levels] or [True])
    ladders &= counts[training]
    known: list[Environments] = []
    for level in range(len(references)):
        rows = train[(training == level) | (ladders & (level == 0))]
        first = known[0] if known else None
        known.append(environments_of(*_in_parts(dataset, rows), first))
    records = [
        {**stored_references(each), "environments": environments}
        for each, environments in zip(references, known, strict=True)
    ]
    return ModelMetadata(
        name=recipe.name,
        description=recipe.description,
        config=recipe.model,
        levels_of_theory=list(dataset.levels),
        periodic_structures=periodic,
        other_levels=[LevelRecord(**record) for record in records[1:]],
        **records[0],
    )
