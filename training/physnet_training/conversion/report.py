"""What a conversion took from its sources, left there, and wrote."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from physnet_ase.quantities import labels
from physnet_training.packed.files import sha256
from physnet_training.sources.keys import field_of


@dataclass(frozen=True)
class SourceReport:
    """What was taken from one source.

    Attributes:
        path: Its name.
        sha256: Of its content.
        num_molecules: Molecules written.
        units: Quantity -> unit and how it is known.
        notes: What had to be assumed, and for how many molecules.
        num_skipped: Invalid molecules that were left out.
        num_kept: Invalid molecules that were taken all the same.
        unused: Keys that mean nothing here.
        ignored: Keys that were left out because the user said so.
    """

    path: str
    sha256: str
    num_molecules: int
    units: dict[str, str]
    notes: list[str]
    num_skipped: int = 0
    num_kept: int = 0
    unused: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion wrote.

    Attributes:
        target: The packed dataset.
        num_molecules: Molecules written; after ``append``, those that were added.
        num_atoms: Their atoms.
        sources: What was taken from each source.
        num_shards: Shards written.
        validation: What the audit of the whole dataset found, see ``audit``.
    """

    target: str
    num_molecules: int
    num_atoms: int
    sources: list[SourceReport] = field(default_factory=list)
    num_shards: int = 1
    validation: dict[str, Any] = field(default_factory=dict)


@dataclass
class Taken:
    """What was taken from a source so far; kept with each piece, so JSON-serialisable.

    Attributes:
        first_row: First row of the source that belongs to it.
        end_row: One behind the last.
        num_molecules: Molecules written.
        units: Quantity -> unit and how it is known.
        unused: Keys that mean nothing here.
        ignored: Keys that were left out because the user said so.
        assumed: What had to be assumed -> for how many molecules.
        invalid: Action -> number of invalid molecules.
    """

    first_row: int = 0
    end_row: int = 0
    num_molecules: int = 0
    units: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    assumed: dict[str, int] = field(default_factory=dict)
    invalid: dict[str, int] = field(default_factory=dict)

    def extend(self, other: "Taken") -> None:
        """Add what was taken from the rows behind these."""
        self.end_row = other.end_row
        self.num_molecules += other.num_molecules
        self.units |= other.units
        self.unused = list(dict.fromkeys([*self.unused, *other.unused]))
        self.ignored = list(dict.fromkeys([*self.ignored, *other.ignored]))
        self.assumed = dict(Counter(self.assumed) + Counter(other.assumed))
        self.invalid = dict(Counter(self.invalid) + Counter(other.invalid))

    def report(self, path: Path, checksum: str) -> SourceReport:
        """The report of a source that was read to its end."""
        notes = [f"{number} molecules: {what}" for what, number in self.assumed.items()]
        notes += [
            f"{label.name} is stored, but no loss trains it"
            for label in labels()
            if label.loss_weight is None
            and any(field_of(quantity) == label.name for quantity in self.units)
        ]
        return SourceReport(
            path.name,
            checksum,
            self.num_molecules,
            self.units,
            notes,
            self.invalid.get("skipped", 0),
            self.invalid.get("kept", 0),
            self.unused,
            self.ignored,
        )


def source_sha256(path: Path) -> str:
    """SHA-256 of a file, or of a directory's file names and their checksums."""
    if path.is_file():
        return sha256(path)
    lines = [
        f"{file.relative_to(path).as_posix()} {sha256(file)}\n"
        for file in sorted(path.rglob("*"))
        if file.is_file()
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
