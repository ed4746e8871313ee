"""The model directory: ``model.json`` and ``weights.safetensors``, no pickle."""

import hashlib
import json
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase.data import atomic_numbers as ase_atomic_numbers
from ase.data import chemical_symbols
from flax.traverse_util import flatten_dict, unflatten_dict
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from physnet_ase.config import ModelConfig
from physnet_ase.familiarity import Environments
from physnet_ase.network.initial import parameter_shapes
from physnet_ase.physics.dispersion import HEAVIEST
from physnet_ase.references import References
from physnet_ase.state import ElectronicState

Params = Any
"""A nested dict of arrays as flax makes it."""
MODEL_FILE, WEIGHTS_FILE = "model.json", "weights.safetensors"
SCHEMA_VERSION = 1
"""Raised when a stored model can no longer be read by older packages."""
UNITS = {"energy": "eV", "length": "angstrom", "charge": "e", "dipole": "e*angstrom"}


class StateRecord(BaseModel):
    """A state the model was trained on, and its constant c[Q, M]."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    charge: int
    multiplicity: int = Field(ge=1)
    count: int = Field(0, ge=0, description="training molecules in this state")
    reference_energy: float = Field(0.0, description="c[Q, M] in eV")

    @property
    def state(self) -> ElectronicState:
        """The state itself."""
        return ElectronicState(self.charge, self.multiplicity)


class LevelRecord(BaseModel):
    """What a model has seen of one level of theory."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    element_energies: dict[str, float] = Field(
        description="e[Z] in eV per element symbol; its keys are the elements seen"
    )
    states: list[StateRecord] = Field(min_length=1)
    environments: Environments | None = Field(
        None, description="surroundings of atoms in the training data"
    )

    @field_validator("element_energies")
    @classmethod
    def _known_elements(cls, energies: dict[str, float]) -> dict[str, float]:
        unknown = [symbol for symbol in energies if symbol not in ase_atomic_numbers]
        if unknown or not energies:
            raise ValueError(f"element_energies needs element symbols, got {unknown}")
        return energies


class ModelMetadata(LevelRecord):
    """Everything about a model but its weights; validated when read and written.

    What it says of elements, states and surroundings holds for its first level of
    theory; the others have records of their own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    package_version: str = ""
    name: str = ""
    description: str = ""
    config: ModelConfig
    units: dict[str, str] = Field(default_factory=lambda: dict(UNITS))
    levels_of_theory: list[str] = Field(
        default_factory=list, description="of the data; with heads one for each"
    )
    other_levels: list[LevelRecord] = Field(default_factory=list)
    electrostatics: str = Field(
        "all pairs in open molecules; Ewald's sum in periodic cells",
        description="which Coulomb sum the energies hold",
    )
    periodic_structures: int | None = Field(
        None, ge=0, description="of the training data; None: not known"
    )
    training: dict[str, Any] = Field(default_factory=dict)
    validation_errors: list[dict[str, Any]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_head_each(self) -> "ModelMetadata":
        heads, named = self.config.num_levels, len(self.levels_of_theory)
        if heads != 1 + len(self.other_levels) or (heads > 1 and named != heads):
            raise ValueError(
                f"config.num_levels is {heads}, but {1 + len(self.other_levels)} "
                f"levels of theory are described and {named} have a name"
            )
        return self

    @model_validator(mode="after")
    def _dispersion_of_its_elements(self) -> "ModelMetadata":
        numbers = {s: ase_atomic_numbers[s] for s in self.element_energies}
        heavy = [symbol for symbol, z in numbers.items() if z > HEAVIEST]
        if self.config.dispersion and heavy:
            raise ValueError(
                f"config.dispersion = {self.config.dispersion!r} knows elements up to "
                f"radon, not {', '.join(heavy)}; leave dispersion out of [model]"
            )
        return self

    def of_level(self, level: int) -> "ModelMetadata":
        """What a model of one of the levels alone says of itself."""
        if not self.other_levels:
            return self
        update: dict[str, Any] = {
            "config": self.config.model_copy(update={"num_levels": 1}),
            "levels_of_theory": [self.levels_of_theory[level]],
            "other_levels": [],
        }
        if level:
            record = self.other_levels[level - 1]
            update |= {name: getattr(record, name) for name in _OF_A_LEVEL}
            # Errors were measured at the first level.
            update["validation_errors"] = []
        return self.model_copy(update=update)

    @model_validator(mode="after")
    def _no_coulomb_sum(self) -> "ModelMetadata":
        if not self.config.electrostatics:
            object.__setattr__(self, "electrostatics", "none")
        return self

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers the model has seen, ascending."""
        return tuple(sorted(ase_atomic_numbers[s] for s in self.element_energies))

    @property
    def references(self) -> References:
        """Its reference energies."""
        return References(
            {ase_atomic_numbers[s]: e for s, e in self.element_energies.items()},
            {record.state: record.reference_energy for record in self.states},
            {record.state: record.count for record in self.states},
        )


def stored_references(references: References) -> dict[str, Any]:
    """The fields of a record that keep reference energies: elements and states."""
    counts = references.state_counts
    return {
        "element_energies": {
            chemical_symbols[z]: e for z, e in references.element_energies.items()
        },
        "states": [
            StateRecord(
                charge=state.charge,
                multiplicity=state.multiplicity,
                count=counts.get(state, 0),
                reference_energy=energy,
            )
            for state, energy in sorted(references.state_energies.items())
        ],
    }


_OF_A_LEVEL = ("element_energies", "states", "environments")


def symbols(numbers: "tuple[int, ...] | list[int]") -> str:
    """Element symbols for a message: "H, C, N"."""
    return ", ".join(chemical_symbols[number] for number in numbers)


def read_model(folder: Path) -> tuple[ModelMetadata, Params]:
    """What a model directory holds: its metadata and its weights, both verified.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, was changed or belongs to another one, is of
            another schema, or the weights do not have the names, shapes and type that
            the configuration asks for.
    """
    content = _read_json(folder / MODEL_FILE)
    digests = content.pop("sha256", {})
    metadata = _validated(content, folder / MODEL_FILE)
    file = folder / WEIGHTS_FILE
    weights = _read_weights(file, metadata.config)
    # Last: a wrong name or shape says more than a hash.
    if digests.get("model") != _seal(content):
        raise ValueError(
            f"{folder / MODEL_FILE} was changed after it was written (its sha256 does "
            "not match): a model's configuration and references belong to its weights; "
            "copy the model directory again, or retrain"
        )
    if _digest(file.read_bytes()) != digests.get("weights"):
        raise ValueError(
            f"{file} is not the file that {MODEL_FILE} was written with: it was "
            "damaged, changed or belongs to another model; copy the model directory "
            "again"
        )
    return metadata, weights


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _seal(content: dict[str, Any]) -> str:
    """Hash of what ``model.json`` says, however it is laid out."""
    plain = {key: value for key, value in content.items() if key != "sha256"}
    return _digest(json.dumps(plain, sort_keys=True).encode())


def _check_present(file: Path) -> None:
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing; a model directory holds {MODEL_FILE} and "
            f"{WEIGHTS_FILE}"
        )


def _read_json(file: Path) -> dict[str, Any]:
    """Content of ``model.json``, of the version that is read here."""
    _check_present(file)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file} is not valid JSON ({error}); copy the model directory again"
        ) from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise ValueError(
            f"{file} has no schema_version; it is not a model of physnet-ase"
        )
    if version != SCHEMA_VERSION:
        remedy = (
            "install a newer physnet-ase" if version > SCHEMA_VERSION else "retrain"
        )
        raise ValueError(
            f"{file} has schema_version {version}, this package reads "
            f"{SCHEMA_VERSION}; {remedy}"
        )
    if not isinstance(content.get("sha256", {}), dict):
        raise ValueError(f"{file}: sha256 must hold the hashes of both files")
    return dict(content)


def _validated(content: dict[str, Any], file: Path) -> ModelMetadata:
    try:
        return ModelMetadata.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"{file}: key {key!r}: {first['msg']}") from error


_MISFIT = (
    "; the two files are of different models, or were written by a version of the "
    "package with another network: copy the directory again, or train anew"
)


def _read_weights(file: Path, config: ModelConfig) -> Params:
    _check_present(file)
    try:
        stored = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{file} cannot be read ({error}); copy the model directory again"
        ) from error
    expected = parameter_shapes(config)
    for key in sorted(expected.keys() | stored.keys()):
        if key not in stored:
            raise ValueError(
                f"{file} lacks weight {key!r} of shape {expected[key]}{_MISFIT}"
            )
        if key not in expected:
            raise ValueError(
                f"{file} holds weight {key!r} of shape {stored[key].shape}, which the "
                f"configuration in {MODEL_FILE} does not have{_MISFIT}"
            )
        if stored[key].shape != expected[key]:
            raise ValueError(
                f"{file}: weight {key!r} has shape {stored[key].shape}, the "
                f"configuration in {MODEL_FILE} needs {expected[key]}{_MISFIT}"
            )
        if stored[key].dtype.kind != "f":
            raise ValueError(
                f"{file}: weight {key!r} holds {stored[key].dtype}, expected floating-"
                "point numbers; copy the model directory again"
            )
        if not np.isfinite(stored[key]).all():
            raise ValueError(f"{file}: weight {key!r} holds NaN or infinity; retrain")
    return unflatten_dict({tuple(key.split("/")): a for key, a in stored.items()})


def write_model(path: "str | Path", metadata: ModelMetadata, params: Params) -> Path:
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
    metadata = metadata.model_copy(update={"package_version": version("physnet-ase")})
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        weights = {
            "/".join(key): np.ascontiguousarray(leaf)
            for key, leaf in flatten_dict(params).items()
        }
        save_file(weights, staging / WEIGHTS_FILE)
        content = metadata.model_dump(mode="json")
        content["sha256"] = {
            "weights": _digest((staging / WEIGHTS_FILE).read_bytes()),
            "model": _seal(json.loads(json.dumps(content))),
        }
        (staging / MODEL_FILE).write_text(json.dumps(content, indent=2) + "\n")
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
