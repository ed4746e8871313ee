"""A ragged batch of molecules on its way from a file to a packed dataset."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from physnet_training.layout import FIELDS

Array = NDArray[Any]


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
    where: Mapping[str, str] = field(default_factory=dict)
    level: str | None = None
    allow_missing: bool = False
    assume_multiplicity: Literal["lowest"] | None = None
    first_row: int = 0


@dataclass(frozen=True)
class Molecules:
    """Flat arrays of some molecules, in eV, Å and e.

    Attributes:
        rows: [molecules] 0-based number of each in its file.
        n_atoms: [molecules] int32.
        values: Field of ``layout.FIELDS`` -> array, one row per molecule or atom.
        names: [molecules] names, or None.
        levels: [molecules] level of theory of each, or None; empty where unknown.
        absent: Field -> [molecules] bool, where the file has no such entry at all, as
            opposed to one that is NaN.
        facts: What holds for all of them by definition of the source's format although
            the source does not say it, for the report.
    """

    rows: Array
    n_atoms: Array
    values: dict[str, Array]
    names: Array | None = None
    levels: Array | None = None
    absent: dict[str, Array] = field(default_factory=dict)
    facts: tuple[str, ...] = ()

    def keep(self, chosen: Array) -> "Molecules":
        """The molecules for which ``chosen`` (bool) is true."""
        atoms = np.repeat(chosen, self.n_atoms)
        return Molecules(
            self.rows[chosen],
            self.n_atoms[chosen],
            {
                name: array[atoms if FIELDS[name].per_atom else chosen]
                for name, array in self.values.items()
            },
            None if self.names is None else self.names[chosen],
            None if self.levels is None else self.levels[chosen],
            {name: rows[chosen] for name, rows in self.absent.items()},
            self.facts,
        )
