"""What a simulation can be told; validated before anything runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from physnet_ase.state import ElectronicState, as_state

Ensemble = Literal[
    "nve", "nvt-langevin", "nvt-nose-hoover", "nvt-csvr", "npt", "npt-flexible"
]
CELL_ENSEMBLES = ("npt", "npt-flexible")
"""Those in which the cell changes."""

OWN = ("charge", "multiplicity", "temperature_K", "final_temperature_K", "seed")
"""Settings that each replica can have its own value of."""


class SimulationSettings(BaseModel):
    """What ``simulate.run`` accepts by keyword; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ensemble: Ensemble = "nve"
    charge: int | None = Field(None, description="e; None: from the atoms")
    multiplicity: int | None = Field(None, description="2S+1; None: from the atoms")
    allow_unseen_states: bool = False
    temperature_K: float = Field(300.0, ge=0, description="initial, and of the bath")
    final_temperature_K: float | None = Field(
        None, gt=0, description="the bath reaches it by a straight line"
    )
    ramp_steps: int | None = Field(
        None, ge=1, description="length of that line; None: steps"
    )
    timestep_fs: float = Field(0.5, gt=0)
    steps: int = Field(1000, ge=1, description="total, those before a restart included")
    save_every: int = Field(10, ge=1, description="steps between saved frames")
    block_steps: int = Field(100, ge=1, description="steps between progress reports")
    seed: int = Field(0, ge=0)
    checkpoint_every: int = Field(1000, ge=1, description="steps between checkpoints")
    skin: float = Field(0.5, gt=0, description="Å the neighbour list reaches further")
    friction_per_ps: float = Field(10.0, gt=0, description="Langevin")
    thermostat_fs: float = Field(50.0, gt=0, description="Nosé-Hoover, CSVR, NPT")
    pressure_GPa: float = Field(1e-4, description="NPT; 1e-4 is 1 bar")
    barostat_fs: float = Field(500.0, gt=0, description="NPT barostat period")
    compressibility_per_GPa: float = Field(
        0.45, gt=0, description="flexible NPT: about that of the matter; 0.45 is water"
    )
    max_temperature_K: float = Field(
        20_000.0, gt=0, description="stop when the atoms become hotter than this"
    )
    stop_familiarity: float | None = Field(
        None, gt=0, description="stop above this score; 1 is the edge of what is known"
    )
    stop_forces_std: float | None = Field(
        None, gt=0, description="eV/Å; stop where a committee deviates more on an atom"
    )
    stop_distance: float | None = Field(
        None, gt=0, description="Å; stop when two atoms come closer"
    )
    stop_bond_stretch: float | None = Field(
        None, gt=1, description="stop when a bond is so many times as long as at start"
    )

    @model_validator(mode="after")
    def _check_bath(self) -> "SimulationSettings":
        if self.ensemble != "nve" and self.temperature_K == 0:
            raise ValueError(f"{self.ensemble} needs temperature_K above 0")
        if self.ensemble == "nve" and self.final_temperature_K is not None:
            raise ValueError(
                "final_temperature_K needs a bath, which nve does not have"
            )
        if self.ramp_steps is not None and self.final_temperature_K is None:
            raise ValueError("ramp_steps needs final_temperature_K, where it leads")
        return self


@dataclass(frozen=True)
class Event:
    """A change of the electronic state in the middle of a simulation."""

    step: int
    state: ElectronicState


def checked_events(
    events: Sequence[tuple[float, Any]], timestep_fs: float
) -> list[Event]:
    """Events in their order, times (fs) as steps.

    Raises:
        ValueError: A time is not above zero or no multiple of the time step, or two
            events share a step.
    """
    found = []
    for time_fs, state in events:
        step = round(time_fs / timestep_fs)
        if step < 1 or not np.isclose(step * timestep_fs, time_fs, rtol=1e-6):
            raise ValueError(
                f"an event at {time_fs} fs: times must be above 0 and multiples of "
                f"timestep_fs = {timestep_fs}"
            )
        found.append(Event(step, as_state(state)))
    found.sort(key=lambda event: event.step)
    for one, two in pairwise(found):
        if one.step == two.step:
            raise ValueError(f"two events at {one.step * timestep_fs} fs; keep one")
    return found


def replica_settings(
    settings: Mapping[str, Any], num_structures: int, replicas: int
) -> list[SimulationSettings]:
    """Settings of each replica, from values that are shared or one of each.

    Args:
        settings: Fields of :class:`SimulationSettings`; those in ``OWN`` may be lists.
        num_structures: Structures that were passed.
        replicas: How often each of them is run.

    Returns:
        One for each replica; a shared seed counts up.

    Raises:
        ValueError: A list has another length than there are structures.
    """
    listed = {
        name: list(value)
        for name, value in settings.items()
        if name in OWN and isinstance(value, list | tuple | np.ndarray)
    }
    lengths = {"structures": num_structures} if num_structures > 1 else {}
    lengths |= {name: len(entries) for name, entries in listed.items()}
    count = max(lengths.values(), default=1)
    total = count * replicas
    wrong = {
        name: length
        for name, length in lengths.items()
        if length != count and not (name == "seed" and length == total)
    }
    if wrong or not count:
        shown = ", ".join(f"{length} of {name}" for name, length in lengths.items())
        raise ValueError(
            f"one value for each replica, or one for all of them; got {shown}"
        )
    shared = {name: value for name, value in settings.items() if name not in listed}
    first = SimulationSettings(**shared)
    found = []
    for index in range(total):
        seed = first.seed + index
        own = {
            name: entries[index if len(entries) == total else index // replicas]
            for name, entries in listed.items()
        }
        found.append(SimulationSettings(**{**shared, "seed": seed, **own}))
    return found
