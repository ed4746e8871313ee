"""Levels of theory as heads: one trunk, and references and answers of their own."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from physnet_training.convert import convert
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.loading.order import state_numbers
from physnet_training.packed import PackedDataset
from physnet_training.train.data import with_heads
from physnet_training.train.evaluate import evaluate_potential
from physnet_training.train.recipe import recipe_from
from physnet_training.train.start import parameters_of_levels
from physnet_training.train.trainer import prepare

from physnet_ase.network.levels import model_of_level
from physnet_ase.potential import Potential, absolute_name, load_potential

LADDERS = Path(__file__).parents[2] / "training/data/states_dft/ladders.npz"
SHIFTS = {1: -0.7, 6: 3.0, 7: -2.0, 8: 1.5, 9: 0.4}
"""eV by which an atom lies elsewhere at the second level."""
UNITS = '{"energy": "eV", "positions": "angstrom", "forces": "eV/angstrom"}'
TINY = {"num_features": 8, "num_radial": 4, "num_blocks": 1, "cutoff": 4.0}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The ladders at their level, and their neutral singlets at another one."""
    folder = tmp_path_factory.mktemp("levels")
    with np.load(LADDERS) as file:
        data = dict(file)
    first = np.cumsum(data["n_atoms"]) - data["n_atoms"]
    shift = np.add.reduceat(np.vectorize(SHIFTS.get)(data["numbers"]), first)
    neutral = (data["charge"] == 0) & (data["multiplicity"] == 1)
    owner = np.repeat(np.arange(len(first)), data["n_atoms"])
    cheap = {
        key: data[key][neutral] for key in ("name", "n_atoms", "charge", "multiplicity")
    } | {key: data[key][neutral[owner]] for key in ("numbers", "positions", "forces")}
    cheap["energy"] = (data["energy"] + shift)[neutral]
    target = folder / "cheap.npz"
    np.savez(target, **cheap, units=UNITS, level_of_theory="cheap/basis")
    return [LADDERS, target]


@pytest.fixture(scope="module")
def dataset(sources: list[Path]) -> PackedDataset:
    target = sources[1].with_name("dataset")
    convert(sources, target)
    return PackedDataset.open(target)


@pytest.fixture(scope="module")
def trained(sources: list[Path], dataset: PackedDataset) -> Potential:
    recipe = recipe_from(
        {
            "data": {"sources": [str(dataset.path)]},
            "model": TINY,
            "loss": {"dipole": 0.0, "charges": 0.0},
            "sampling": {"balance": 0.5},
            "optimizer": {"steps": 20, "batch_size": 16, "validate_every": 20},
        },
        "test",
    )
    trainer = prepare(recipe, dataset, sources[1].with_name("run"))
    return load_potential(trainer.run())


def test_each_level_answers_with_its_own_atoms(trained: Potential) -> None:
    expensive, cheap = trained.levels
    assert expensive.startswith("wB97X/def2-SVPD")
    assert cheap == "cheap/basis"
    assert trained.level(expensive) is trained
    other = trained.level("cheap")
    assert other is trained.level(cheap)
    assert other.level("wB97X") is trained
    assert trained.config.num_levels == other.config.num_levels == 1
    # The cheap level has seen neutral singlets only, and says so.
    assert {(s.charge, s.multiplicity) for s in other.states} == {(0, 1)}
    with pytest.raises(ValueError, match="not trained on"):
        other.evaluate(molecule("H2O"), [(1, 2)])
    assert len(trained.evaluate(molecule("H2O"), [(1, 2), (0, 1)])) == 2


def test_an_unknown_level_is_refused_by_name(trained: Potential) -> None:
    with pytest.raises(ValueError, match=r"'PBE' is unknown.*cheap/basis"):
        trained.level("PBE")
    with pytest.raises(ValueError, match="ambiguous"):
        trained.level("/")


def test_a_level_stands_behind_the_name_of_a_model(trained: Potential) -> None:
    water = molecule("H2O")
    cheap = load_potential(f"{trained.path}@cheap/basis")
    assert cheap.evaluate(water).energy == trained.level("cheap").evaluate(water).energy


def test_a_level_is_stored_alone_and_answers_as_it_did(
    trained: Potential, tmp_path: Path
) -> None:
    water = molecule("H2O")
    cheap = trained.level("cheap")
    alone = load_potential(cheap.save(tmp_path / "alone"))
    assert alone.levels == ("cheap/basis",)
    assert alone.evaluate(water).energy == cheap.evaluate(water).energy
    # A run folder and a fine-tuning keep the level that was asked for.
    shutil.copytree(tmp_path / "alone", tmp_path / "whole")
    trained.save(tmp_path / "whole")
    name = absolute_name("whole@cheap", tmp_path)
    assert name == f"{(tmp_path / 'whole').resolve()}@cheap"
    assert load_potential(name).levels[1] == "cheap/basis"
    assert absolute_name("states-organic@SVP", tmp_path) == "states-organic@SVP"


def test_the_first_level_is_stored_with_all_others(
    trained: Potential, tmp_path: Path
) -> None:
    water, cheap = molecule("H2O"), trained.level("cheap")
    again = load_potential(trained.save(tmp_path / "model"))
    assert again.levels == trained.levels
    for name in again.levels:
        ours, theirs = (p.level(name).evaluate(water) for p in (trained, again))
        assert ours.energy == theirs.energy
        assert np.array_equal(ours.forces, theirs.forces)
    assert trained.evaluate(water).energy != cheap.evaluate(water).energy


def test_molecules_are_evaluated_at_their_level(
    trained: Potential, dataset: PackedDataset
) -> None:
    cheap = np.flatnonzero(dataset.take("level", np.arange(len(dataset))) == 1)[:4]
    loader = PackedMemmapLoader(dataset, 4).subset(cheap, shuffle=False)
    values = evaluate_potential(trained, loader).values
    found = dataset.molecules(cheap)
    numbers = found.values["atomic_numbers"]
    fitting = trained.level("cheap")
    for row, atoms in enumerate(np.split(numbers, np.cumsum(found.n_atoms)[:-1])):
        label = found.values["energy"][row] - fitting.reference_energy(atoms, (0, 1))
        assert values["energy_label"][row] == pytest.approx(label, abs=1e-4)
    one = Atoms(
        numbers[: found.n_atoms[0]], found.values["positions"][: found.n_atoms[0]]
    )
    energy = fitting.evaluate(one, properties=("energy",)).energy
    expected = energy - fitting.reference_energy(one.numbers, (0, 1))
    assert values["energy"][0] == pytest.approx(expected, abs=1e-4)


def test_states_of_another_level_are_drawn_by_themselves(
    dataset: PackedDataset,
) -> None:
    rows = np.arange(len(dataset))
    kinds = state_numbers(dataset, rows)
    charge, spin = dataset.states_of(rows)
    level = dataset.take("level", rows)
    assert len(set(kinds.tolist())) == len({*zip(charge, spin, level, strict=True)})


def test_a_wrong_number_of_heads_is_refused(dataset: PackedDataset) -> None:
    recipe = recipe_from({"model": {**TINY, "num_levels": 3}}, "test")
    with pytest.raises(ValueError, match="num_levels is 3.*holds 2 levels"):
        with_heads(recipe, dataset)


def test_a_fine_tuning_takes_the_heads_it_finds(trained: Potential) -> None:
    there = trained.level("cheap")
    params = parameters_of_levels(trained, ["cheap/basis", "new/basis"])
    config = trained.config.model_copy(update={"num_levels": 2})
    for level, expected in enumerate((there, trained)):  # the new one starts as ours
        _, found = model_of_level(config, params, level)
        for ours, theirs in zip(
            jax.tree.leaves(found), jax.tree.leaves(expected.params), strict=True
        ):
            assert np.array_equal(ours, theirs)
    assert parameters_of_levels(trained, ["any"]) is trained.params
    assert parameters_of_levels(trained, ["cheap/basis"]) is there.params
