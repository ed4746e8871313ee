"""What a simulation can be told; validated before anything runs."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class SimulationSettings(BaseModel):
    """What ``simulate.run`` accepts by keyword; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ensemble: Literal["nve", "nvt-langevin", "nvt-nose-hoover", "npt"] = "nve"
    charge: int | None = Field(None, description="e; None: from the atoms")
    multiplicity: int | None = Field(None, description="2S+1; None: from the atoms")
    allow_unseen_states: bool = False
    temperature_K: float = Field(300.0, ge=0, description="initial, and of the bath")
    timestep_fs: float = Field(0.5, gt=0)
    steps: int = Field(1000, ge=1, description="total, those before a restart included")
    save_every: int = Field(10, ge=1, description="steps between saved frames")
    block_steps: int = Field(100, ge=1, description="steps in one compiled call")
    seed: int = Field(0, ge=0)
    checkpoint_every: int = Field(1000, ge=1, description="steps between checkpoints")
    skin: float = Field(0.5, gt=0, description="Å the neighbour list reaches further")
    friction_per_ps: float = Field(10.0, gt=0, description="Langevin")
    thermostat_fs: float = Field(50.0, gt=0, description="Nosé-Hoover period")
    pressure_GPa: float = Field(1e-4, description="NPT, isotropic; 1e-4 is 1 bar")
    barostat_fs: float = Field(500.0, gt=0, description="NPT barostat period")

    max_temperature_K: float = Field(
        20_000.0, gt=0, description="stop when the atoms become hotter than this"
    )

    @model_validator(mode="after")
    def _check_bath(self) -> "SimulationSettings":
        if self.ensemble != "nve" and self.temperature_K == 0:
            raise ValueError(f"{self.ensemble} needs temperature_K above 0")
        return self
