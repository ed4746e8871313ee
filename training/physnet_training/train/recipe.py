"""The recipe of a training: one TOML file, validated before anything runs."""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from physnet_ase.config import ModelConfig, resolve_config
from physnet_ase.quantities import trained


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(_Section):
    """Where the molecules come from; ``--data`` on the command line goes first."""

    sources: tuple[str, ...] = Field(
        (), description="a packed dataset, or files to convert; relative to the recipe"
    )
    assume_multiplicity: Literal["lowest"] | None = Field(
        None, description="for data without spin: take the lowest of the right parity"
    )


class SplitConfig(_Section):
    """Which molecules train, validate and test; stored with the run."""

    kind: Literal["molecule", "geometry", "permutation"] = Field(
        "molecule",
        description="molecule: by index; geometry: all states of one geometry stay "
        "together; permutation: first num_train, next num_validation, rest tests",
    )
    train_fraction: float = Field(0.9, gt=0, lt=1)
    num_train: int | None = Field(None, ge=1)
    num_validation: int | None = Field(None, ge=1)
    holdout_groups: tuple[str, ...] = Field(
        (), description="names of whole molecules kept for testing"
    )
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check_counts(self) -> "SplitConfig":
        counted = self.num_train is not None and self.num_validation is not None
        if (self.kind == "permutation") != counted:
            raise ValueError(
                "num_train and num_validation belong to split.kind = 'permutation', "
                "which needs both"
            )
        return self


class SamplingConfig(_Section):
    """How training molecules are drawn; see ``PackedMemmapLoader``."""

    block_size: int | None = Field(
        None,
        ge=1,
        description="for network storage and spinning disks: shuffle blocks of this "
        "many consecutive molecules, then inside mixed_blocks of them together",
    )
    mixed_blocks: int = Field(16, ge=1)
    balance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="0: states as in the data, 1: all equally often; those of each "
        "level of theory count by themselves",
    )
    separated_pairs: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of batches made of two molecules far apart, each in the "
        "state that makes the pair's energy lowest; needs vertical ladders",
    )
    weights: str | None = Field(
        None, description=".npy file, one weight in the loss per molecule"
    )


class LossConfig(BaseModel):
    """Weights of the loss terms: one of each trained quantity, by its name.

    Defaults stand in ``physnet_ase.quantities``. Gaps between states live in the
    energies, so these weigh them more than PhysNet's own weights do (energy 1, forces
    52.9177, dipole 27.2114, charges 14.3996 in eV, Å, e), which suit one state and
    accurate forces.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, float]

    nonhierarchicality: float = Field(0.01, ge=0)
    huber_delta: float = Field(
        0.0, ge=0, description="errors below it count quadratically; 0 is plain |error|"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, content: Any) -> Any:
        defaults = {q.name: q.loss_weight for q in trained()}
        return {**defaults, **content} if isinstance(content, dict) else content

    @model_validator(mode="after")
    def _check_weights(self) -> "LossConfig":
        known = [q.name for q in trained()]
        for name, weight in self.__pydantic_extra__.items():
            if name not in known:
                raise ValueError(
                    f"{name}: unknown; there are weights of {', '.join(known)}, "
                    "nonhierarchicality and huber_delta"
                )
            if weight < 0:
                raise ValueError(f"{name}: must be 0 or more, got {weight}")
        return self

    def weight(self, name: str) -> float:
        """The weight of a trained quantity."""
        return self.__pydantic_extra__[name]


class OptimizerConfig(_Section):
    """Adam with warm-up, cosine decay, clipping and an averaged copy of the weights."""

    steps: int = Field(100_000, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    final_learning_rate: float = Field(1e-6, ge=0)
    warmup_steps: int = Field(500, ge=0)
    clip_norm: float = Field(1000.0, gt=0, description="global norm of the gradient")
    weight_decay: float = Field(0.0, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    validate_every: int = Field(2_000, ge=1, description="steps")
    seed: int = Field(0, ge=0, description="of the initial weights and of the order")


class Recipe(_Section):
    """Everything that decides a training."""

    name: str = "untitled"
    description: str = ""
    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    split: SplitConfig = Field(default_factory=SplitConfig)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)

    @model_validator(mode="before")
    @classmethod
    def _resolve_preset(cls, content: Any) -> Any:
        if isinstance(content, dict) and isinstance(content.get("model"), (dict, str)):
            return {**content, "model": resolve_config(content["model"])}
        return content


def recipe_from(content: dict[str, Any], origin: "str | Path") -> Recipe:
    """Validate a recipe's content; ``origin`` is named in errors.

    Raises:
        ValueError: A key is unknown or a value out of range; the message names it.
    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, problem['loc'])) or 'recipe'}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise ValueError(f"{origin}: " + "; ".join(lines)) from error


def load_recipe(path: "str | Path") -> Recipe:
    """Read and validate a recipe; relative paths count from its folder.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not TOML, an unknown key, or a value out of range.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    recipe = recipe_from(content, path)
    sources = tuple(str((path.parent / s).resolve()) for s in recipe.data.sources)
    update: dict[str, BaseModel] = {
        "data": recipe.data.model_copy(update={"sources": sources})
    }
    if recipe.sampling.weights is not None:
        weights = str((path.parent / recipe.sampling.weights).resolve())
        update["sampling"] = recipe.sampling.model_copy(update={"weights": weights})
    return recipe.model_copy(update=update)
