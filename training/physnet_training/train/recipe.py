"""The recipe of a training: one TOML file, validated before anything runs."""

import difflib
import json
import re
import textwrap
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from physnet_ase.config import ModelConfig, resolve_config
from physnet_ase.quantities import QUANTITIES, trained
from physnet_training.train.start import with_architecture


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(_Section):
    """Where the molecules come from; ``--data`` on the command line goes first."""

    sources: tuple[str, ...] = Field(
        (), description="a packed dataset, or files to convert; relative to the recipe"
    )
    replay: tuple[str, ...] = Field(
        (),
        description="like sources: sampling.replay_share of the batches is of them, "
        "such as old data of a start.model, so that the model keeps what it knew",
    )
    coarse_levels: tuple[str, ...] = Field(
        (),
        description="levels of theory that only teach shapes: what they alone hold in "
        "several states is not called familiar",
    )
    assume_multiplicity: Literal["lowest"] | None = Field(
        None, description="for data without spin: take the lowest of the right parity"
    )


class StartConfig(_Section):
    """What a training starts from: random weights, or those of a checkpoint."""

    model: str | None = Field(
        None,
        description="model directory, relative to the recipe, or pretrained name to "
        "fine-tune; it brings the architecture",
    )
    freeze: Literal["nothing", "trunk"] = Field(
        "nothing", description="trunk: only the output blocks, scales and shifts learn"
    )

    @model_validator(mode="after")
    def _check_freeze(self) -> "StartConfig":
        if self.freeze != "nothing" and self.model is None:
            raise ValueError(f"freeze = {self.freeze!r} needs a start.model")
        return self


class SplitConfig(_Section):
    """Which molecules train, validate and test; stored with the run."""

    kind: Literal["molecule", "geometry", "permutation"] = Field(
        "molecule",
        description="molecule: by index; geometry: all states of one geometry stay "
        "together; permutation: first num_train, next num_validation, rest tests",
    )
    train_fraction: float = Field(
        0.9, gt=0, lt=1, description="the rest validates; not for permutation"
    )
    num_train: int | None = Field(None, ge=1, description="for permutation only")
    num_validation: int | None = Field(None, ge=1, description="for permutation only")
    holdout_groups: tuple[str, ...] = Field(
        (), description="names of whole molecules kept for testing"
    )
    seed: int = Field(0, ge=0, description="another division")

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
    mixed_blocks: int = Field(
        16, ge=1, description="blocks whose molecules are shuffled together"
    )
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
    replay_share: float = Field(
        0.2, ge=0, lt=1, description="share of batches of old molecules, of data.replay"
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

    nonhierarchicality: float = Field(
        0.01, ge=0, description="keeps the contributions of later blocks small"
    )
    vertical: float = Field(
        0.0,
        ge=0,
        description="of the error of energy differences between states of one "
        "geometry, per eV; batches then hold ladders of states together",
    )
    kind: Literal["l1", "huber", "squared"] = Field(
        "l1",
        description="how an error counts: by its size, quadratically below "
        "huber_delta, by its square",
    )
    huber_delta: float = Field(
        0.0, ge=0, description="errors below it count quadratically in huber"
    )
    late_energy: float = Field(
        1.0,
        gt=0,
        description="factor on the energy's weight in the last decay_fraction of the "
        "steps; for the schedules cosine and wsd",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, content: Any) -> Any:
        defaults = {q.name: q.loss_weight for q in trained()}
        return {**defaults, **content} if isinstance(content, dict) else content

    @model_validator(mode="after")
    def _check_weights(self) -> "LossConfig":
        if (self.kind == "huber") != (self.huber_delta > 0):
            raise ValueError(
                "kind = 'huber' and a huber_delta above 0 belong together, got "
                f"{self.kind!r} and {self.huber_delta}"
            )
        if self.vertical > 0 and not self.weight("energy"):
            raise ValueError(
                f"vertical = {self.vertical} is about energies, whose weight is 0; "
                "raise energy, or leave vertical out"
            )
        known = [q.name for q in trained()]
        for name, weight in self.__pydantic_extra__.items():
            if name not in known:
                others = ", ".join([*known, *type(self).model_fields])
                raise ValueError(
                    f"{name}: unknown; there are weights of {others}"
                    f"{_nearest(f'loss.{name}')}"
                )
            if weight < 0:
                raise ValueError(f"{name}: must be 0 or more, got {weight}")
        return self

    def weight(self, name: str) -> float:
        """The weight of a trained quantity."""
        return self.__pydantic_extra__[name]


class OptimizerConfig(_Section):
    """Optimiser, schedule of the learning rate, clipping, average of the weights."""

    steps: int = Field(100_000, ge=1, description="length of the training")
    batch_size: int = Field(32, ge=1, description="molecules computed at once")
    accumulate: int = Field(
        1, ge=1, description="batches per step, one after another: less memory"
    )
    kind: Literal["amsgrad", "muon"] = Field(
        "amsgrad",
        description="amsgrad: as PhysNet was published; muon: orthogonalized momentum "
        "for the matrices of the network, amsgrad for the rest",
    )
    schedule: Literal["cosine", "wsd", "constant", "plateau", "schedule-free"] = Field(
        "cosine",
        description="of the learning rate after its rise; cosine: down to the end; "
        "wsd: constant, then down in the last decay_fraction; plateau: halved when "
        "validations stop improving; schedule-free: constant with an average in its "
        "place. All but cosine can be extended by resume --steps",
    )
    learning_rate: float = Field(1e-3, gt=0, description="the highest rate")
    final_learning_rate: float = Field(
        1e-6, ge=0, description="at the end of cosine and wsd, the lowest of plateau"
    )
    warmup_steps: int = Field(500, ge=0, description="linear rise at the start")
    decay_fraction: float = Field(
        0.2, gt=0, le=1, description="last part of the steps: wsd decays there"
    )
    plateau_patience: int = Field(
        5, ge=1, description="validations without a better one before plateau halves"
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="stop early after so many validations without a better one",
    )
    clip_norm: float = Field(1000.0, gt=0, description="global norm of the gradient")
    weight_decay: float = Field(0.0, ge=0, description="pulls weights to zero")
    ema_decay: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="memory of the averaged weights, about 1/(1 - x) steps; "
        "schedule-free has its own average",
    )
    validate_every: int = Field(
        2_000, ge=1, description="steps between validations, which also store the state"
    )
    seed: int = Field(0, ge=0, description="of the initial weights and of the order")

    @property
    def molecules_per_step(self) -> int:
        """Over all devices and all batches of a step."""
        return self.batch_size * self.accumulate

    @property
    def decay_start(self) -> int:
        """The step up to which learning rates do not depend on ``steps``."""
        if self.schedule == "cosine":
            return 0
        return self.late_start if self.schedule == "wsd" else self.steps

    @property
    def late_start(self) -> int:
        """The step at which the last ``decay_fraction`` begins."""
        return self.steps - round(self.decay_fraction * self.steps)


class Recipe(_Section):
    """Everything that decides a training."""

    name: str = Field("untitled", description="stands in model.json")
    description: str = Field("", description="what the model is for, in model.json")
    data: DataConfig = Field(default_factory=DataConfig)
    start: StartConfig = Field(default_factory=StartConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    split: SplitConfig = Field(default_factory=SplitConfig)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)

    @model_validator(mode="after")
    def _check_late_energy(self) -> "Recipe":
        schedule = self.optimizer.schedule
        if self.loss.late_energy != 1.0 and schedule not in ("cosine", "wsd"):
            raise ValueError(
                "loss.late_energy needs an end to be late before: set "
                f"optimizer.schedule to 'cosine' or 'wsd', not {schedule!r}"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _resolve_preset(cls, content: Any) -> Any:
        model = content.get("model") if isinstance(content, dict) else None
        if isinstance(model, str):
            model = {"preset": model}
        if not isinstance(model, dict):
            return content
        preset = resolve_config(str(model.get("preset", "paper"))).model_dump()
        return {
            **content,
            "model": preset | {k: model[k] for k in model.keys() - {"preset"}},
        }


def recipe_keys() -> list[str]:
    """Every key of a recipe as ``--set`` names it: "optimizer.steps"."""
    keys = ["name", "description", "model.preset"]
    for section, field in Recipe.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(
            field.annotation, BaseModel
        ):
            keys += [f"{section}.{name}" for name in field.annotation.model_fields]
    return keys + [f"loss.{quantity.name}" for quantity in trained()]


def _nearest(key: str) -> str:
    """What a misspelt key may have meant, for the end of a message."""
    keys = recipe_keys()
    last = key.rpartition(".")[2]  # the right name in a wrong section
    near = [k for k in keys if k.rpartition(".")[2] == last]
    if "." not in key:
        keys = [*keys, *Recipe.model_fields]
    near = near or difflib.get_close_matches(key, keys, n=1, cutoff=0.0)
    return f"; nearest is {near[0]}" if near else ""


def recipe_from(content: dict[str, Any], origin: "str | Path") -> Recipe:
    """Validate a recipe's content; ``origin`` is named in errors.

    Raises:
        ValueError: A key is unknown or a value out of range; the message names it.
    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(map(str, problem["loc"]))
            unknown = problem["type"] == "extra_forbidden"
            text = f"unknown key{_nearest(key)}" if unknown else problem["msg"]
            lines.append(f"{key or 'recipe'}: {text}")
        raise ValueError(f"{origin}: " + "; ".join(lines)) from error


def with_settings(content: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A recipe's content with ``KEY=VALUE`` settings in their places.

    Args:
        content: As read from TOML.
        settings: Such as ``optimizer.learning_rate=5e-4``. Values are TOML; a word
            needs no quotes.

    Raises:
        ValueError: Not of that form.
    """
    content = {k: dict(v) if isinstance(v, dict) else v for k, v in content.items()}
    for setting in settings:
        key, equals, text = setting.partition("=")
        path = key.strip().split(".")
        if not equals or len(path) > 2 or not all(path):
            raise ValueError(
                f"--set {setting}: expected KEY=VALUE such as "
                f"optimizer.learning_rate=5e-4{_nearest(key.strip())}"
            )
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError as error:
            value = text.strip()
            if not re.fullmatch(r"[\w./-]+", value):
                raise ValueError(f"--set {setting}: {text} is no TOML value") from error
        table = content
        if len(path) == 2:
            table = content.setdefault(path[0], {})
            if path[0] == "model" and isinstance(table, str):
                table = content["model"] = {"preset": table}
            if not isinstance(table, dict):
                raise ValueError(f"--set {setting}: {path[0]} is no section")
        table[path[-1]] = value
    return content


def load_recipe(path: "str | Path", settings: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe; relative paths count from its folder.

    Args:
        path: A TOML file.
        settings: ``KEY=VALUE`` that go first, see :func:`with_settings`.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not TOML, an unknown key, or a value out of range.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    origin = f"{path} with {', '.join(settings)}" if settings else path
    content = with_architecture(with_settings(content, settings), path.parent)
    recipe = recipe_from(content, origin)
    data = {
        name: tuple(str((path.parent / each).resolve()) for each in sources)
        for name, sources in (
            ("sources", recipe.data.sources),
            ("replay", recipe.data.replay),
        )
    }
    update: dict[str, BaseModel] = {"data": recipe.data.model_copy(update=data)}
    if recipe.sampling.weights is not None:
        weights = str((path.parent / recipe.sampling.weights).resolve())
        update["sampling"] = recipe.sampling.model_copy(update={"weights": weights})
    return recipe.model_copy(update=update)


def commented(recipe: Recipe, *, only: Sequence[str] = ()) -> str:
    """The recipe as TOML with a comment for each key; it reads back as the same recipe.

    Args:
        recipe: What to write.
        only: Keys as ``recipe_keys`` has them; none: all.
    """

    def lines(prefix: str, model: BaseModel) -> list[str]:
        texts = {
            name: f.description or "" for name, f in type(model).model_fields.items()
        }
        for name in model.__pydantic_extra__ or {}:
            texts[name] = f"weight of the {name} error, {QUANTITIES[name].loss_note}"
        written = []
        for name, text in texts.items():
            value = getattr(model, name)
            if isinstance(value, BaseModel) or (only and prefix + name not in only):
                continue
            comment = " ".join(text.replace("``", "").split())
            written += [f"# {line}" for line in textwrap.wrap(comment, 78)]
            off = "# " if value is None else ""  # TOML has no word for nothing
            shown = "..." if value is None else json.dumps(value, ensure_ascii=False)
            written.append(f"{off}{name} = {shown}")
        return written

    blocks = ["\n".join(lines("", recipe))]
    for section in type(recipe).model_fields:
        model = getattr(recipe, section)
        if isinstance(model, BaseModel) and (body := lines(f"{section}.", model)):
            blocks.append("\n".join([f"[{section}]", *body]))
    return "\n\n".join(blocks) + "\n"
