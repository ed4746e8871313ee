"""A network that grows begins where the smaller one ended; all of it learns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from physnet_training.packed import PackedDataset
from physnet_training.train.growth import GROWING
from physnet_training.train.recipe import load_recipe
from physnet_training.train.trainer import prepare
from structures import TINY, TINY_STATES

from physnet_ase.untrained import untrained_potential

LARGER: dict[str, Any] = {
    "max_degree": 2,
    "vector_features": True,
    "num_residual_atomic": TINY.num_residual_atomic + 1,
    "num_residual_interaction": TINY.num_residual_interaction + 2,
    "num_residual_output": TINY.num_residual_output + 1,
}


def write_recipe(folder: Path, model: dict[str, Any], start: str = "") -> Path:
    """A recipe that starts from the checkpoint "old" beside it."""
    fields = "\n".join(f"{key} = {str(value).lower()}" for key, value in model.items())
    file = folder / "recipe.toml"
    file.write_text(
        f"[start]\nmodel = 'old'\n{start}\n[model]\n{fields}\n"
        "[split]\ntrain_fraction = 0.7\n"
        "[optimizer]\nsteps = 4\nbatch_size = 4\nvalidate_every = 4\nwarmup_steps = 1\n"
    )
    return file


@pytest.fixture(scope="module")
def data(make_molecules: Callable[..., Any], make_dataset: Callable[..., Path]) -> Path:
    return make_dataset(molecules=make_molecules([3] * 24, labels=("energy", "forces")))


def test_every_growing_part_is_tried() -> None:
    assert set(LARGER) == set(GROWING)


@pytest.mark.parametrize(
    ("there", "larger"),
    [
        ({}, LARGER),
        (
            {"max_degree": 1, "vector_features": True, "num_blocks": 2},
            {"max_degree": 2},
        ),
    ],
)
def test_a_grown_network_computes_the_same_and_learns_with_all_of_it(
    there: dict[str, Any], larger: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    config = TINY.model_copy(update=there)
    small = untrained_potential(config, elements=(1, 8), states=TINY_STATES)
    small.save(tmp_path / "old")
    recipe = load_recipe(write_recipe(tmp_path, larger))
    dataset = PackedDataset.open(data)
    trainer = prepare(recipe, dataset, tmp_path / "run")
    grown = trainer.potential()
    several = dataset.molecules(range(8))
    atoms = [several.to_atoms(i) for i in range(8)]
    for before, after in zip(small.evaluate(atoms), grown.evaluate(atoms), strict=True):
        np.testing.assert_allclose(after.forces, before.forces, atol=2e-5)
    new = flatten_dict(grown.params)
    old = flatten_dict(small.params)
    added = [p for p in new if p not in old or new[p].shape != old[p].shape]
    assert added
    trainer.run()
    learned = flatten_dict(trainer.potential().params)
    for path in added:
        assert np.abs(learned[path] - new[path]).max() > 0, path


@pytest.mark.parametrize(
    ("model", "start", "said"),
    [
        ({"num_features": TINY.num_features * 2}, "", "only max_degree, .* may grow"),
        ({"max_degree": 0}, "", r"model\.max_degree is 1 in .* and 0"),
        ({"vector_features": True}, "", r"vector_features is False .* max_degree = 0"),
        ({"max_degree": 2}, "freeze = 'trunk'", "leave one of the two out"),
    ],
)
def test_what_cannot_grow_is_refused(
    model: dict[str, Any], start: str, said: str, tmp_path: Path
) -> None:
    config = TINY.model_copy(update={"max_degree": 1})
    untrained_potential(config, elements=(1, 8), states=TINY_STATES).save(
        tmp_path / "old"
    )
    with pytest.raises(ValueError, match=said):
        load_recipe(write_recipe(tmp_path, model, start))
