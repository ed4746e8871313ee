"""The model directory: ``model.json`` and ``weights.safetensors``, no pickle."""

import json
import os
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from physnet_ase import __version__
from physnet_ase.metadata import SCHEMA_VERSION, ModelMetadata
from physnet_ase.potential import Potential
from physnet_ase.terms import Params

MODEL_FILE, WEIGHTS_FILE = "model.json", "weights.safetensors"


def pretrained_names() -> list[str]:
    """Names that :func:`load_potential` accepts besides paths."""
    folder = resources.files("physnet_ase") / "pretrained"
    return sorted(
        item.name for item in folder.iterdir() if (item / MODEL_FILE).is_file()
    )


def load_potential(path_or_name: "str | Path") -> Potential:
    """Load a model directory, or a pretrained model by its name.

    Args:
        path_or_name: A directory with ``model.json`` and ``weights.safetensors``, or
            one of :func:`pretrained_names`. A directory of that name goes first.

    Raises:
        FileNotFoundError: No such directory or name, or a file of it is missing.
        ValueError: A file is damaged, of a newer schema, or the weights do not have
            the names and shapes that the configuration asks for.
    """
    path = Path(path_or_name)
    if not path.exists():
        names = pretrained_names()
        if str(path_or_name) not in names:
            raise FileNotFoundError(
                f"no model at {str(path_or_name)!r}: neither a directory nor a "
                f"pretrained model; pretrained: {', '.join(names) or 'none'}"
            )
        bundled = resources.files("physnet_ase") / "pretrained" / str(path_or_name)
        path = Path(str(bundled))
    metadata = _read_metadata(path / MODEL_FILE)
    params = _read_weights(path / WEIGHTS_FILE, metadata)
    return Potential(metadata, params, path=path)


def _check_present(file: Path) -> None:
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing; a model directory holds {MODEL_FILE} and "
            f"{WEIGHTS_FILE}"
        )


def _read_metadata(file: Path) -> ModelMetadata:
    _check_present(file)
    try:
        content = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file} is not valid JSON ({error}); copy the model directory again"
        ) from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise ValueError(
            f"{file} has no schema_version; it is not a model of physnet-ase"
        )
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"{file} has schema_version {version}, this package reads up to "
            f"{SCHEMA_VERSION}; install a newer physnet-ase"
        )
    try:
        return ModelMetadata.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"{file}: key {key!r}: {first['msg']}") from error


def _read_weights(file: Path, metadata: ModelMetadata) -> Params:
    _check_present(file)
    try:
        stored = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{file} cannot be read ({error}); copy the model directory again"
        ) from error
    expected = parameter_shapes(metadata)
    for key in sorted(expected.keys() | stored.keys()):
        if key not in stored:
            raise ValueError(f"{file} lacks weight {key!r} of shape {expected[key]}")
        if key not in expected:
            raise ValueError(
                f"{file} holds weight {key!r} of shape {stored[key].shape}, which the "
                f"configuration in {MODEL_FILE} does not have"
            )
        if stored[key].shape != expected[key]:
            raise ValueError(
                f"{file}: weight {key!r} has shape {stored[key].shape}, the "
                f"configuration in {MODEL_FILE} needs {expected[key]}"
            )
        if not np.isfinite(stored[key]).all():
            raise ValueError(f"{file}: weight {key!r} holds NaN or infinity; retrain")
    return unflatten_dict({tuple(key.split("/")): a for key, a in stored.items()})


def parameter_shapes(metadata: ModelMetadata) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights of a configuration, by path; nothing is computed."""
    import jax

    from physnet_ase.network.physnet import PhysNet
    from physnet_ase.untrained import random_molecules

    graph = random_molecules((1,), [(0, 1)], seed=0)
    count = len(graph.senders)
    # NumPy arrays and an abstract key: making a real one would compile programs.
    shapes = jax.eval_shape(
        PhysNet(metadata.config).init,
        jax.eval_shape(lambda: jax.random.key(0)),
        graph,
        np.ones(count, np.float32),
        np.ones((count, 3), np.float32),
    )["params"]
    return {key: leaf.shape for key, leaf in _flatten(shapes).items()}


def _flatten(params: Params) -> dict[str, Any]:
    return {"/".join(key): leaf for key, leaf in flatten_dict(params).items()}


def save_potential(potential: Potential, path: "str | Path") -> Path:
    """Write a model directory; it appears under its name only when complete.

    An existing model at ``path`` is replaced; anything else there is an error.

    Raises:
        FileExistsError: ``path`` exists and is not a model directory.
    """
    target = Path(path)
    if (
        target.exists()
        and not (target / MODEL_FILE).is_file()
        and (not target.is_dir() or any(target.iterdir()))
    ):
        raise FileExistsError(
            f"{target} exists and is not a model directory; choose another name"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = potential.metadata.model_copy(update={"package_version": __version__})
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        weights = {
            key: np.ascontiguousarray(leaf)
            for key, leaf in _flatten(potential.params).items()
        }
        save_file(weights, staging / WEIGHTS_FILE)
        (staging / MODEL_FILE).write_text(
            json.dumps(metadata.model_dump(mode="json"), indent=2) + "\n"
        )
        staging.chmod(0o755)  # made private; a model may be installed for everybody
        (staging / WEIGHTS_FILE).chmod(0o644)
        if target.exists():
            for name in (WEIGHTS_FILE, MODEL_FILE):
                os.replace(staging / name, target / name)
        else:
            os.rename(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target
