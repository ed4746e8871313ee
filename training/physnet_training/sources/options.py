"""What the user says about sources, and what a reader says about one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class ReadOptions:
    """What the user says about the sources.

    Attributes:
        energy_unit: Unit of energies, where the file does not carry it.
        length_unit: Unit of positions and cells, where the file does not carry it.
        force_unit: Unit of forces; None: energy unit per length unit.
        dipole_unit: Unit of dipoles, where the file does not carry it.
        keys: Quantity -> key in the file, where the name is not a usual one or several
            compete.
        ignore: Keys that are left out, whatever they look like.
        where: Key -> value: only molecules for which the file says this.
        level: Level of theory, where the file does not carry it.
        allow_missing: Take NaN in a label as "this label is missing".
        assume_multiplicity: ``"lowest"`` fills in missing multiplicities.
        first_row: Only molecules with this 0-based number in the source or a higher
            one; readers seek where the format allows.
    """

    energy_unit: str | None = None
    length_unit: str | None = None
    force_unit: str | None = None
    dipole_unit: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    where: Mapping[str, str] = field(default_factory=dict)
    level: str | None = None
    allow_missing: bool = False
    assume_multiplicity: Literal["lowest"] | None = None
    first_row: int = 0


@dataclass
class Reading:
    """What a reader took from a source and what it left; filled while it reads.

    Attributes:
        units: Quantity -> unit taken and how it is known.
        unused: Keys that mean nothing here, in the order in which they came.
        ignored: Keys that were left out because the user said so.
    """

    units: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
