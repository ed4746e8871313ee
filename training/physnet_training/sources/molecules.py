"""A ragged batch of molecules on its way from a file to a packed dataset."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from physnet_training.storage.layout import FIELDS

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


def concatenate(pieces: Sequence[Molecules]) -> Molecules:
    """Pieces one after another; what a piece lacks is NaN and counts as absent."""
    if len(pieces) == 1:
        return pieces[0]
    names = sorted(set().union(*(piece.values for piece in pieces)))
    values, absent = {}, {}
    for name in names:
        field_, parts, gone = FIELDS[name], [], []
        for piece in pieces:
            count = len(piece.n_atoms)
            part = piece.values.get(name)
            if part is None:
                rows = int(piece.n_atoms.sum()) if field_.per_atom else count
                empty = 0 if np.dtype(field_.dtype).kind == "u" else np.nan
                part = np.full((rows, *field_.shape), empty)
            parts.append(part)
            nowhere = np.full(count, name not in piece.values)
            gone.append(piece.absent.get(name, nowhere))
        values[name] = np.concatenate(parts)
        absent[name] = np.concatenate(gone)
    return Molecules(
        np.concatenate([piece.rows for piece in pieces]),
        np.concatenate([piece.n_atoms for piece in pieces]),
        values,
        _joined_words([piece.names for piece in pieces], pieces),
        _joined_words([piece.levels for piece in pieces], pieces),
        {name: rows for name, rows in absent.items() if rows.any()},
        tuple(dict.fromkeys(fact for piece in pieces for fact in piece.facts)),
    )


def gather(
    pieces: Iterable[Molecules], count: int = 10_000, num_atoms: int = 300_000
) -> Iterator[Molecules]:
    """Join small pieces until there are ``count`` molecules or ``num_atoms`` atoms.

    A new piece begins where the facts change, so that they stay with their molecules.
    """
    held: list[Molecules] = []
    molecules = atoms = 0
    for piece in pieces:
        if len(piece.n_atoms) == 0:
            continue
        size = int(piece.n_atoms.sum())
        full = molecules + len(piece.n_atoms) > count or atoms + size > num_atoms
        if held and (full or piece.facts != held[-1].facts):
            yield concatenate(held)
            held, molecules, atoms = [], 0, 0
        held.append(piece)
        molecules += len(piece.n_atoms)
        atoms += size
    if held:
        yield concatenate(held)


def _joined_words(
    words: Sequence[Array | None], pieces: Sequence[Molecules]
) -> Array | None:
    """Names or levels of all pieces, empty where a piece has none."""
    if all(part is None for part in words):
        return None
    return np.concatenate(
        [
            np.full(len(piece.n_atoms), "") if part is None else part
            for part, piece in zip(words, pieces, strict=True)
        ]
    )
