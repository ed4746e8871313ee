"""What a model knows of itself: the content of ``model.json``."""

from typing import Any, Literal

from ase.data import atomic_numbers as ase_atomic_numbers
from ase.data import chemical_symbols
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from physnet_ase.config import ModelConfig
from physnet_ase.state import ElectronicState

SCHEMA_VERSION = 1
"""Raised when a stored model can no longer be read by older packages."""
UNITS = {"energy": "eV", "length": "angstrom", "charge": "e", "dipole": "e*angstrom"}


class StateRecord(BaseModel):
    """A state the model was trained on, and its constant c[Q, M]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    charge: int
    multiplicity: int = Field(ge=1)
    count: int = Field(0, ge=0, description="training molecules in this state")
    reference_energy: float = Field(0.0, description="c[Q, M] in eV")

    @property
    def state(self) -> ElectronicState:
        """The state itself."""
        return ElectronicState(self.charge, self.multiplicity)


class ModelMetadata(BaseModel):
    """Everything about a model but its weights; validated when read and written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    package_version: str = ""
    name: str = ""
    description: str = ""
    config: ModelConfig
    units: dict[str, str] = Field(default_factory=lambda: dict(UNITS))
    element_energies: dict[str, float] = Field(
        description="e[Z] in eV per element symbol; its keys are the elements seen"
    )
    states: list[StateRecord] = Field(min_length=1)
    levels_of_theory: list[str] = Field(default_factory=list)
    electrostatics: str = Field(
        "all pairs in open systems; force-shifted at the cutoff in periodic ones",
        description="which Coulomb sum the energies hold",
    )
    training: dict[str, Any] = Field(default_factory=dict)
    validation_errors: list[dict[str, Any]] = Field(default_factory=list)

    @field_validator("element_energies")
    @classmethod
    def _known_elements(cls, energies: dict[str, float]) -> dict[str, float]:
        unknown = [symbol for symbol in energies if symbol not in ase_atomic_numbers]
        if unknown or not energies:
            raise ValueError(f"element_energies needs element symbols, got {unknown}")
        return energies

    @model_validator(mode="after")
    def _no_coulomb_sum(self) -> "ModelMetadata":
        if not self.config.electrostatics:
            object.__setattr__(self, "electrostatics", "none")
        return self

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers the model has seen, ascending."""
        return tuple(sorted(ase_atomic_numbers[s] for s in self.element_energies))


def symbols(numbers: "tuple[int, ...] | list[int]") -> str:
    """Element symbols for a message: "H, C, N"."""
    return ", ".join(chemical_symbols[number] for number in numbers)
