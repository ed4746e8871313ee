"""Hyper-parameters of a model: frozen, validated, written once."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ModelConfig(BaseModel):
    """Architecture of a charge- and spin-conditioned PhysNet.

    The defaults are PhysNet as published (Unke & Meuwly, J. Chem. Theory Comput. 2019,
    15, 3678, Table 1) with charge and spin conditioning added. Lengths are in Å.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    network: str = Field("physnet", description="name in ``network.NETWORKS``")
    num_features: int = Field(
        128, ge=1, le=4096, description="F, length of an atom's vector"
    )
    num_radial: int = Field(
        64, ge=2, le=1024, description="K, number of radial functions"
    )
    num_blocks: int = Field(5, ge=1, le=64, description="number of interaction blocks")
    num_residual_atomic: int = Field(
        2, ge=0, le=64, description="refinement after each exchange"
    )
    num_residual_interaction: int = Field(
        3, ge=0, le=64, description="refinement of each message"
    )
    num_residual_output: int = Field(
        1, ge=0, le=64, description="refinement before each output"
    )
    cutoff: float = Field(
        10.0, gt=0, le=100, description="radius of the local environment, Å"
    )
    max_degree: Literal[0, 1, 2] = Field(
        0, description="angular messages: 0 none, 1 adds p, 2 adds p and d"
    )

    vector_features: bool = Field(
        False,
        description="atoms carry vectors (with max_degree = 2 tensors, too) between "
        "blocks",
    )

    conditioning: Literal["attention", "embedding", "local"] = Field(
        "attention", description="how charge and spin enter; see the theory page"
    )
    charge_range: tuple[int, int] = Field((-2, 2), description="lowest, highest charge")
    spin_range: tuple[int, int] = Field((1, 6), description="lowest, highest 2S+1")
    charge_embedding_size: int = Field(
        16, ge=1, le=4096, description="for conditioning by embedding"
    )
    spin_embedding_size: int = Field(16, ge=1, le=4096, description="likewise")

    num_levels: int = Field(
        1, ge=1, le=64, description="levels of theory of the data; a head for each"
    )
    num_heads: int = Field(
        1,
        ge=1,
        le=64,
        description="heads of a shallow committee, each with output maps of its own: "
        "their mean is the answer, their spread its uncertainty",
    )
    electrostatics: bool = Field(True, description="Coulomb energy of the charges")
    zbl: bool = Field(False, description="Ziegler-Biersack-Littmark repulsion")
    dispersion: Literal[
        "",
        "b3lyp",
        "blyp",
        "bp",
        "hf",
        "pbe",
        "pbe0",
        "r2scan",
        "revpbe",
        "tpss",
        "wb97m",
    ] = Field("", description="D3(BJ) dispersion with a functional's parameters")
    spin_populations: bool = Field(
        False, description="report atomic spin populations (needs them as labels)"
    )

    @property
    def charges_are_shared(self) -> bool:
        """Whether charges and spins come before the heads, which have none."""
        return self.conditioning == "local"

    @model_validator(mode="after")
    def _check_ranges(self) -> "ModelConfig":
        low, high = self.charge_range
        if not low <= 0 <= high:
            raise ValueError(f"charge_range must contain 0, got {low}..{high}")
        low, high = self.spin_range
        if low != 1 or high < low:
            raise ValueError(
                f"spin_range holds multiplicities 2S+1 and must start at 1, got "
                f"{low}..{high}"
            )
        return self


PRESETS: dict[str, ModelConfig] = {
    "paper": ModelConfig(),
    "small": ModelConfig(
        num_features=64,
        num_radial=32,
        num_blocks=3,
        num_residual_atomic=1,
        num_residual_interaction=1,
        cutoff=6.0,
        max_degree=2,
        conditioning="embedding",
    ),
}
"""Named configurations: ``paper`` as published, ``small`` for two cores."""


def resolve_config(config: "ModelConfig | str | dict[str, object]") -> ModelConfig:
    """Return a configuration from itself, a preset's name, or a mapping of fields.

    Raises:
        ValueError: The preset is unknown, or a field is unknown or out of range.
    """
    if isinstance(config, ModelConfig):
        return config
    if isinstance(config, dict):
        fields = dict(config)
        preset = fields.pop("preset", "paper")
        base = resolve_config(str(preset)).model_dump()
        return ModelConfig.model_validate(base | fields)
    if config not in PRESETS:
        raise ValueError(f"config must be one of {sorted(PRESETS)}, got {config!r}")
    return PRESETS[config]
