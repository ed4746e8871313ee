"""Fine-tuning with old data: who is replayed, how often, and that it resumes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset
from physnet_training.train.recipe import recipe_from
from physnet_training.train.replay import Replay, replayed
from physnet_training.train.run import open_data
from physnet_training.train.start import with_architecture
from physnet_training.train.suggest import finetune_content
from physnet_training.train.trainer import Trainer, prepare, reopen

from physnet_ase.config import ModelConfig
from physnet_ase.potential import load_potential
from physnet_ase.untrained import untrained_potential

LADDERS = Path(__file__).parents[2] / "training/data/states_dft/ladders.npz"
TINY = {"num_features": 8, "num_radial": 4, "num_blocks": 1, "cutoff": 4.0}
STATES = [(q, m) for q in (-1, 0, 1) for m in (1, 2, 3, 4)]
UNITS = '{"energy": "eV", "positions": "angstrom", "forces": "eV/angstrom"}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, its data, and labels of water at another level of theory."""
    folder = tmp_path_factory.mktemp("replay")
    potential = untrained_potential(
        ModelConfig(**TINY), elements=(1, 6, 7, 8, 9), states=STATES
    )
    potential.save(folder / "model")
    with np.load(LADDERS) as file:
        data = dict(file)
    water = data["name"] == "H2O"
    atoms = np.repeat(water, data["n_atoms"])
    names = ("name", "n_atoms", "charge", "multiplicity", "energy")
    new = {name: data[name][water] for name in names}
    new |= {name: data[name][atoms] for name in ("numbers", "positions", "forces")}
    np.savez(folder / "new.npz", **new, units=UNITS, level_of_theory="cheap/basis")
    convert([folder / "new.npz", LADDERS], folder / "both")
    return folder


def start(folder: Path, out: Path, share: float) -> Trainer:
    dataset = PackedDataset.open(folder / "both")
    content = finetune_content(
        str(folder / "model"), dataset, "nothing", replay=[LADDERS], replay_share=share
    )
    content["data"]["sources"] = [str(folder / "new.npz")]
    content["optimizer"] |= {"steps": 20, "validate_every": 10, "warmup_steps": 2}
    content["split"] = {"kind": "molecule", "train_fraction": 0.8, "seed": 3}
    recipe = recipe_from(with_architecture(content, Path()), "test")
    return prepare(recipe, dataset, out)


def test_the_last_sources_are_old(folder: Path, tmp_path: Path) -> None:
    dataset = PackedDataset.open(folder / "both")
    old = replayed(dataset, 1)
    assert len(dataset) == len(old)
    assert 0 < np.count_nonzero(~old) == 18
    np.testing.assert_array_equal(
        old, dataset.take("level", np.arange(len(dataset))) == 1
    )
    with pytest.raises(ValueError, match=r"not converted from .* data\.replay"):
        replayed(dataset, 2)
    content = {"data": {"sources": [str(folder / "new.npz")], "replay": [str(LADDERS)]}}
    again = open_data(recipe_from(content, "test"), tmp_path)
    assert len(again) == len(dataset)


def test_a_dataset_that_holds_the_old_data_is_taken_as_it_is(
    folder: Path, tmp_path: Path
) -> None:
    content = {"data": {"sources": [str(folder / "both")], "replay": [str(LADDERS)]}}
    assert open_data(recipe_from(content, "test"), tmp_path).path == folder / "both"
    convert([folder / "new.npz"], tmp_path / "new")
    content["data"]["sources"] = [str(tmp_path / "new")]
    joined = open_data(recipe_from(content, "test"), tmp_path)
    assert joined.path == tmp_path / "dataset"
    assert np.count_nonzero(~replayed(joined, 1)) == 18


def test_batches_of_old_molecules_depend_on_their_number_alone() -> None:
    replay = Replay(np.arange(100, 200), 0.2, seed=1)
    found = [replay.batch(number, 8) for number in range(2000)]
    rows = [each for each in found if each is not None]
    assert len(rows) / 2000 == pytest.approx(0.2, abs=0.03)  # 3 standard deviations
    assert all(len(set(each.tolist())) == 8 for each in rows)
    assert set(np.concatenate(rows).tolist()) == set(range(100, 200))
    number = next(place for place, each in enumerate(found) if each is not None)
    again = Replay(np.arange(100, 200), 0.2, seed=1).batch(number, 8)
    np.testing.assert_array_equal(again, found[number])
    assert Replay(np.arange(0), 0.9, seed=1).batch(0, 8) is None
    few = Replay(np.arange(3), 0.9999, seed=1)
    assert {len(few.batch(number, 8)) for number in range(4)} == {3}


def test_new_molecules_are_walked_old_ones_replayed_and_a_run_resumes(
    folder: Path, tmp_path: Path
) -> None:
    straight = start(folder, tmp_path / "straight", 0.5)
    old = replayed(straight.dataset, 1)
    assert not old[straight.loader.indices].any()
    held = straight.held_out()
    assert not old[held["validation"]].any()
    assert old[held["replay"]].all()
    assert set(straight.validation.indices) == set(held["validation"])
    straight.run()

    class Interruption(Exception):
        pass

    def interrupt(progress: Any) -> None:
        if progress.step == 10:
            raise Interruption

    broken = start(folder, tmp_path / "broken", 0.5)
    with pytest.raises(Interruption):
        broken.run(interrupt)
    again = reopen(tmp_path / "broken")
    again.run()
    np.testing.assert_array_equal(again.state.weights, straight.state.weights)
    model = load_potential(tmp_path / "straight" / "model")
    assert model.levels[0] == "cheap/basis"  # the model answers as the new data
    assert len(model.levels) == 2  # and the old ones keep their head
