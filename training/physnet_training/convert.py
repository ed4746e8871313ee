"""Convert data files to one packed dataset, validated on the way."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from physnet_training.formats import Reader, find_format
from physnet_training.layout import sha256
from physnet_training.molecules import Molecules, ReadOptions
from physnet_training.naming import ALIASES
from physnet_training.validate import check_molecules
from physnet_training.writer import PackedWriter

Progress = Callable[[Path, int], None]
"""Called with the source and the number of molecules written so far."""


@dataclass(frozen=True)
class SourceReport:
    """What was taken from one file."""

    path: str
    sha256: str
    num_molecules: int
    units: dict[str, str]  # quantity -> unit and how it is known
    notes: list[str]


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion wrote."""

    target: str
    num_molecules: int
    num_atoms: int
    sources: list[SourceReport] = field(default_factory=list)


def convert(
    sources: str | Path | Sequence[str | Path],
    target: str | Path,
    *,
    on_progress: Progress | None = None,
    **options: Any,
) -> ConversionReport:
    """Convert one or several files to one packed dataset.

    Args:
        sources: What ``formats.find_format`` knows, in the order of the dataset.
        target: The directory to make; it must not exist. After an error it does not.
        on_progress: Called after each piece that was written.
        **options: Fields of ``ReadOptions``: ``energy_unit``, ``length_unit``,
            ``force_unit``, ``dipole_unit``, ``keys``, ``where``, ``level``,
            ``allow_missing``, ``assume_multiplicity``.

    Returns:
        Counts, and for each source the units taken and what was assumed.

    Raises:
        ValueError: Bad input; the message names the file, the molecule and what to do.
        TypeError: An unknown option.
    """
    read_options = _options(options)
    paths = [
        Path(s) for s in ([sources] if isinstance(sources, str | Path) else sources)
    ]
    if not paths:
        raise ValueError("convert needs at least one source file, got none")
    readers = [find_format(path).read for path in paths]
    with PackedWriter(target) as writer:
        reports = []
        for path, reader in zip(paths, readers, strict=True):
            report = _convert_one(
                path,
                reader,
                writer,
                options=read_options,
                progress=on_progress,
            )
            writer.provenance.append(asdict(report))
            reports.append(report)
        _check_used(read_options, reports)
    return ConversionReport(
        str(target), writer.num_molecules, writer.num_atoms, reports
    )


def _convert_one(
    path: Path,
    reader: Reader,
    writer: PackedWriter,
    *,
    options: ReadOptions,
    progress: Progress | None,
) -> SourceReport:
    """Stream one file into the writer."""
    units: dict[str, str] = {}
    assumed: Counter[str] = Counter()
    before = writer.num_molecules
    for piece in reader(path, options, units):
        if len(piece.n_atoms) == 0:
            continue
        molecules = _with_state(piece, options, assumed)
        try:
            check_molecules(molecules, allow_missing=options.allow_missing)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        writer.append(
            molecules.n_atoms,
            molecules.values,
            names=molecules.names,
            levels=molecules.levels,
        )
        if progress is not None:
            progress(path, writer.num_molecules)
    count = writer.num_molecules - before
    if count == 0:
        asked = f" with {dict(options.where)}" if options.where else ""
        raise ValueError(
            f"{path}: zero molecules{asked}, nothing to convert; check the file"
        )
    if not {"energy", "forces", "gradient"} & set(units):
        raise ValueError(
            f"{path}: neither energies nor forces found; name their keys with --key "
            "energy=NAME, --key forces=NAME"
        )
    notes = [f"{number} molecules: {what}" for what, number in assumed.items()]
    return SourceReport(path.name, sha256(path), count, units, notes)


def _with_state(
    piece: Molecules, options: ReadOptions, assumed: Counter[str]
) -> Molecules:
    """Fill in charges, and multiplicities if the user says how; count both."""
    values = dict(piece.values)
    count = len(piece.n_atoms)
    assumed.update(dict.fromkeys(piece.facts, count))
    nowhere = np.full(count, "total_charge" not in values)
    unknown = piece.absent.get("total_charge", nowhere)
    if unknown.any():
        assumed["no charge stored, 0 taken"] += int(unknown.sum())
    charge = np.asarray(values.get("total_charge", np.zeros(count)), float)
    values["total_charge"] = np.where(unknown, 0.0, charge)
    spin = np.asarray(values.get("spin_multiplicity", np.full(count, np.nan)), float)
    unknown = np.isnan(spin)
    if unknown.any() and options.assume_multiplicity == "lowest":
        first = np.cumsum(piece.n_atoms) - piece.n_atoms
        protons = np.add.reduceat(values["atomic_numbers"].astype(np.int64), first)
        electrons = protons - np.rint(values["total_charge"])
        spin = np.where(unknown, 1 + electrons % 2, spin)
        assumed["no multiplicity stored, the lowest possible taken"] += int(
            unknown.sum()
        )
    elif unknown.any():
        assumed["no multiplicity stored, it stays unknown"] += int(unknown.sum())
    values["spin_multiplicity"] = spin
    return replace(piece, values=values)


def _options(options: dict[str, Any]) -> ReadOptions:
    known = {entry.name for entry in fields(ReadOptions)}
    if set(options) - known:
        raise TypeError(
            f"unknown options {sorted(set(options) - known)}; known: {sorted(known)}"
        )
    chosen = ReadOptions(**{k: v for k, v in options.items() if v is not None})
    wrong = sorted(set(chosen.keys) - set(ALIASES))
    if wrong:
        raise ValueError(
            f"keys: unknown quantities {wrong}; known: {', '.join(ALIASES)}"
        )
    if chosen.assume_multiplicity not in (None, "lowest"):
        raise ValueError(
            "assume_multiplicity must be 'lowest' or left out, got "
            f"{chosen.assume_multiplicity!r}"
        )
    return chosen


def _check_used(options: ReadOptions, reports: list[SourceReport]) -> None:
    """A unit given for something that no source holds is a mistake."""
    seen = {quantity for report in reports for quantity in report.units}
    if options.dipole_unit and "dipole" not in seen:
        raise ValueError("--dipole-unit was given but no source holds dipoles")
