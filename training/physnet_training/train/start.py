"""What a fine-tuning starts from: a checkpoint, its architecture, what it may learn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from physnet_ase.config import ModelConfig, resolve_config
from physnet_training.packed import PackedDataset
from physnet_training.packed.reader import parts
from physnet_training.train.growth import GROWING, may_grow

if TYPE_CHECKING:
    from physnet_ase.potential import Potential
    from physnet_training.train.recipe import Recipe

START_FOLDER = "start"
"""Copy of the checkpoint in the folder of a run, which resumes without the other."""
_OUTPUTS = ("output_", "scale", "shift")
"""How the parameters begin that are no part of the trunk."""


def with_architecture(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A recipe's content with the architecture of the checkpoint that it starts from.

    Args:
        content: As read from TOML.
        folder: From where a relative path counts.

    Raises:
        FileNotFoundError: No such checkpoint.
        ValueError: The recipe asks for another architecture, and not for a larger one
            as :mod:`physnet_training.train.growth` makes it.
    """
    start = content.get("start")
    name = start.get("model") if isinstance(start, Mapping) else None
    if not isinstance(start, Mapping) or not isinstance(name, str):
        return content
    from physnet_ase.potential import (  # a recipe needs no JAX otherwise
        absolute_name,
        load_potential,
    )

    name = absolute_name(name, folder)
    there = load_potential(name).config
    asked = content.get("model", {})
    if isinstance(asked, str) or "preset" in asked:
        asked = resolve_config(asked).model_dump()
    fields = there.model_dump(mode="json")
    if "num_heads" in asked:  # drawn anew, after the training
        fields["num_heads"] = asked["num_heads"]
        there = there.model_copy(update={"num_heads": asked["num_heads"]})
    wanted = ModelConfig.model_validate({**fields, **asked})
    _check_same(there, wanted, name)
    model = wanted.model_dump(mode="json")
    if start.get("freeze") == "trunk" and wanted != there:
        raise ValueError(
            "start.freeze = 'trunk' holds the new parts of a grown [model] where they "
            "begin, at nothing; leave one of the two out"
        )
    return {**content, "start": {**start, "model": name}, "model": model}


def _check_same(there: ModelConfig, wanted: ModelConfig, name: str) -> None:
    old = there.model_dump(mode="json")
    for key, value in wanted.model_dump(mode="json").items():
        if value != old[key] and not may_grow(key, there, wanted):
            raise ValueError(
                f"model.{key} is {old[key]} in {name} and {value} in the recipe; a "
                "checkpoint brings its architecture with it, leave it out of [model]; "
                f"only {', '.join(GROWING)} may grow, vector_features of a network "
                "with max_degree = 0 alone"
            )


def check_start(
    potential: "Potential",
    recipe: "Recipe",
    dataset: PackedDataset,
    molecules: NDArray[np.int64],
) -> None:
    """Refuse what a checkpoint has no trained weights for.

    Raises:
        ValueError: Another architecture, an element that it has not seen, or a state
            outside its ranges.
    """
    # heads are made for the levels of theory of the data, those of a committee later
    heads = {
        "num_levels": recipe.model.num_levels,
        "num_heads": recipe.model.num_heads,
    }
    there = potential.config.model_copy(update=heads)
    _check_same(there, recipe.model, str(recipe.start.model))
    levels = [potential.level(name) for name in potential.levels] or [potential]
    elements = sorted({number for level in levels for number in level.elements})
    for rows in parts(molecules):
        numbers = np.unique(dataset.take("atomic_numbers", dataset.atom_rows(rows)))
        new = np.setdiff1d(numbers, elements).tolist()
        if new:
            known = ", ".join(chemical_symbols[z] for z in elements)
            raise ValueError(
                f"{dataset.path} holds {', '.join(chemical_symbols[z] for z in new)}, "
                f"the checkpoint {potential.metadata.name!r} has seen {known} only; "
                "train from scratch, or leave these molecules out"
            )
        (low, high), (_, highest) = (
            potential.config.charge_range,
            potential.config.spin_range,
        )
        for charge, spin in dataset.count_states(rows):
            if not (low <= charge <= high and spin <= highest):
                raise ValueError(
                    f"{dataset.path} holds charge {charge:+d}, multiplicity {spin}; "
                    f"the checkpoint {potential.metadata.name!r} takes charges "
                    f"{low}..{high} and multiplicities 1..{highest}; train from "
                    "scratch, or leave these molecules out"
                )


def parameters_of_levels(potential: "Potential", levels: Sequence[str]) -> Any:
    """Weights of a checkpoint with a head for each level of theory of some data.

    Of a committee of heads, the mean.

    Args:
        potential: The checkpoint; a level that it lacks starts from its own one.
        levels: Their names, none where the data say none.
    """
    from physnet_ase.network.heads import without_heads
    from physnet_ase.network.levels import joined_levels

    known = [
        potential.level(name) if name in potential.levels else potential
        for name in levels or ("",)
    ]
    params = [without_heads(each.config, each.params)[1] for each in known]
    return params[0] if len(params) == 1 else joined_levels(params)


def outputs_only(params: Any) -> Any:
    """1 for each weight behind the trunk, 0 for each in it, shaped as ``params``."""
    from flax.traverse_util import flatten_dict, unflatten_dict

    flat = flatten_dict(params)
    return unflatten_dict(
        {
            path: np.full(leaf.shape, float(path[0].startswith(_OUTPUTS)), leaf.dtype)
            for path, leaf in flat.items()
        }
    )
