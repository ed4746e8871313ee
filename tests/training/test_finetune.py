"""Fine-tuning starts where the checkpoint is, and learns what it may."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from physnet_training.cli import app
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.packed import PackedDataset
from physnet_training.train.evaluate import evaluate_potential
from physnet_training.train.recipe import load_recipe
from physnet_training.train.trainer import prepare, reopen
from structures import TINY, TINY_STATES
from typer.testing import CliRunner

from physnet_ase.potential import Potential
from physnet_ase.untrained import untrained_potential

SHIFTS = {1: -13.0, 8: -2000.0}  # eV of each atom at another level of theory


@pytest.fixture(scope="module")
def checkpoint() -> Potential:
    return untrained_potential(TINY, elements=(1, 8), states=TINY_STATES)


@pytest.fixture(scope="module")
def model(checkpoint: Potential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.save(tmp_path_factory.mktemp("models") / "old")


@pytest.fixture(scope="module")
def data(
    checkpoint: Potential,
    make_molecules: Callable[..., Any],
    make_dataset: Callable[..., Path],
) -> Path:
    """Molecules with the checkpoint's own energies, but for constants of the atoms."""
    molecules = make_molecules([3] * 24, labels=("energy",))
    dataset = PackedDataset.open(make_dataset(molecules=molecules))
    several = dataset.molecules(range(24))
    atoms = [several.to_atoms(i) for i in range(24)]
    energies = [
        result.energy + sum(SHIFTS[z] for z in each.numbers.tolist())
        for each, result in zip(
            atoms, checkpoint.evaluate(atoms, properties=("energy",)), strict=True
        )
    ]
    molecules["values"]["energy"] = np.array(energies)
    return make_dataset(molecules=molecules)


def write_recipe(folder: Path, model: Path, more: str = "") -> Path:
    file = folder / "recipe.toml"
    file.write_text(
        f"[start]\nmodel = '{model}'\nfreeze = 'trunk'\n"
        "[split]\ntrain_fraction = 0.7\n"
        "[optimizer]\nsteps = 6\nbatch_size = 4\nvalidate_every = 3\nwarmup_steps = 1\n"
        f"weight_decay = 0.1\nlearning_rate = 0.01\n{more}"
    )
    return file


def test_a_frozen_trunk_stays_and_the_start_is_the_checkpoint(
    model: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "old")
    recipe = load_recipe(write_recipe(tmp_path, Path("old")))
    assert recipe.model == TINY
    trainer = prepare(recipe, PackedDataset.open(data), tmp_path / "run")
    before = flatten_dict(trainer.potential().params)
    loader = PackedMemmapLoader(data, 4).subset(trainer.split.train, shuffle=False)
    row = evaluate_potential(trainer.potential(), loader).errors()[0]
    # new references take up all that is new
    assert row["energy_mae_ev"] < 1e-3
    trainer.run()
    for path, leaf in flatten_dict(trainer.potential().params).items():
        learns = path[0] in ("output_0", "scale", "shift")
        assert np.array_equal(leaf, before[path]) != learns, path
    # The run has what it started from, and resumes without the checkpoint.
    shutil.rmtree(tmp_path / "old")
    again = reopen(tmp_path / "run")
    np.testing.assert_array_equal(again.state.weights, trainer.state.weights)
    ours, theirs = (t.references[0].element_energies for t in (again, trainer))
    assert ours == theirs
    stored = Potential(again.metadata, again.potential().params).metadata
    assert stored.elements == (1, 8)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("[model]\ncutoff = 5.0", r"model\.cutoff is 8\.0 in .*old and 5\.0 in the"),
        (
            "[model]\npreset = 'small'",
            r"model\.\w+ is .* in .*old and .* in the recipe",
        ),
    ],
)
def test_another_architecture_is_refused(
    model: Path, tmp_path: Path, more: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(write_recipe(tmp_path, model, more))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("atomic_numbers", 6, "holds C, the checkpoint .* has seen H, O only"),
        ("total_charge", -3, r"holds charge -3, .* takes charges -1\.\.1"),
    ],
)
def test_what_the_checkpoint_does_not_know_is_refused(
    model: Path,
    tmp_path: Path,
    make_molecules: Callable[..., Any],
    make_dataset: Callable[..., Path],
    name: str,
    value: int,
    message: str,
) -> None:
    molecules = make_molecules([3] * 24, labels=("energy",))
    values = molecules["values"]
    values[name] = np.full_like(values[name], value)
    electrons = values["atomic_numbers"].reshape(-1, 3).sum(1) - values["total_charge"]
    values["spin_multiplicity"] = 1 + electrons % 2
    dataset = PackedDataset.open(make_dataset(molecules=molecules))
    recipe = load_recipe(write_recipe(tmp_path, model))
    with pytest.raises(ValueError, match=message):
        prepare(recipe, dataset, tmp_path / "run")


def test_the_command_takes_a_name_and_settings(data: Path, tmp_path: Path) -> None:
    command = ["finetune", "no-such-model", str(data), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "states-dft-small" in done.stderr
    command[1] = "states-dft-small"
    done = CliRunner().invoke(app, [*command, "--set", "model.cutoff=4"])
    assert done.exit_code == 2
    assert "model.cutoff is 6.0 in states-dft-small and 4.0" in done.stderr
    done = CliRunner().invoke(app, [*command, "--freeze", "all"])
    assert done.exit_code == 2
    assert "start.freeze" in done.stderr
