"""What only a level that teaches shapes holds in several states is not familiar."""

import numpy as np
import pytest
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset
from physnet_training.train.data import describe
from physnet_training.train.recipe import recipe_from
from physnet_training.train.split import make_split

from physnet_ase.checkpoint import ModelMetadata
from physnet_ase.molecules import Molecules
from physnet_ase.references import References
from physnet_ase.state import ElectronicState

UNITS = '{"energy": "eV", "positions": "angstrom"}'
LEVELS = ("good/basis", "coarse")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    """Hydrogen at the first level, its fluoride at the other, both in two states."""
    folder = tmp_path_factory.mktemp("levels")
    lengths = np.repeat(np.linspace(0.7, 1.1, 20), 2)
    positions = np.zeros((len(lengths), 2, 3), np.float32)
    positions[:, 1, 2] = lengths
    for level, partner in zip(LEVELS, (1, 9), strict=True):
        np.savez(
            folder / f"{level[:4]}.npz",
            name=np.array(["H2" if partner == 1 else "HF"] * len(lengths)),
            n_atoms=np.full(len(lengths), 2),
            charge=np.tile([0, 1], 20),
            multiplicity=np.tile([1, 2], 20),
            energy=np.tile([-30.0, -15.0], 20),
            numbers=np.tile([1, partner], len(lengths)).astype(np.uint8),
            positions=positions.reshape(-1, 3),
            units=UNITS,
            level_of_theory=level,
        )
    convert([folder / "good.npz", folder / "coar.npz"], folder / "dataset")
    return PackedDataset.open(folder / "dataset")


def described(dataset: PackedDataset, coarse: tuple[str, ...]) -> ModelMetadata:
    content = {
        "data": {"sources": [str(dataset.path)], "coarse_levels": list(coarse)},
        "model": {"num_levels": 2, "charge_range": [0, 1]},
    }
    recipe = recipe_from(content, "test")
    states = {ElectronicState(0, 1): 0.0, ElectronicState(1, 2): 15.0}
    references = [References({1: -15.0, 9: -90.0}, states)] * 2
    split = make_split(dataset, recipe.split)
    return describe(recipe, dataset, split, references)


def test_states_of_a_coarse_level_are_not_familiar(dataset: PackedDataset) -> None:
    positions, numbers = np.array([[0, 0, 0], [0, 0, 0.92]]), np.array([1, 9], np.int32)
    fluoride = Molecules(
        np.array([2], np.int32),
        {
            "atomic_numbers": numbers,
            "positions": positions,
            "total_charge": np.array([1], np.int32),
            "spin_multiplicity": np.array([2], np.int32),
        },
        np.array([0]),
    )

    def score(coarse: tuple[str, ...]) -> float:
        environments = described(dataset, coarse).environments
        assert environments is not None
        return float(environments.scores(fluoride, 6.0).max())

    assert score(()) < 1.0
    assert score(("coarse",)) == np.inf


def test_a_level_that_the_data_lack_is_refused(dataset: PackedDataset) -> None:
    with pytest.raises(ValueError, match="coarse_levels names other; .*good/basis"):
        described(dataset, ("other",))
