"""One source to finished pieces; a conversion that was stopped goes on behind them."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from physnet_training.conversion.intake import Intake, Policy, examine
from physnet_training.conversion.job import Source
from physnet_training.conversion.source_report import SourceReport, Taken, source_sha256
from physnet_training.sources.formats import find_format
from physnet_training.sources.molecules import Molecules
from physnet_training.storage.durable import write_json
from physnet_training.storage.layout import FIELDS
from physnet_training.storage.shard import Shard
from physnet_training.writer import PackedWriter

DONE = "done.json"
MAX_SHARDS = 100_000
"""Numbers have five digits."""


def convert_source(
    source: Source,
    folder: Path,
    *,
    piece_molecules: int,
    on_invalid: Policy,
    on_progress: Callable[[int], None],
) -> SourceReport:
    """Convert one source to ``piece-00000``, ``piece-00001``, … in a folder.

    Args:
        source: The source and what the user says about it.
        folder: For the pieces; finished ones in it are kept, the source is read on
            behind them.
        piece_molecules: Most molecules of a piece.
        on_invalid: What to do with invalid molecules.
        on_progress: Called with the number of molecules of this source so far.

    Raises:
        ValueError: Bad input; the message names the source, the molecule and what to
            do.
    """
    done = folder / DONE
    if done.exists():
        report = SourceReport(**json.loads(done.read_text(encoding="utf-8")))
        on_progress(report.num_molecules)
        return report
    folder.mkdir(parents=True, exist_ok=True)
    taken = Taken()
    for finished in finished_pieces(folder):
        taken.extend(piece_taken(finished))
    if taken.num_molecules:
        on_progress(taken.num_molecules)
    options = replace(source.options, first_row=taken.end_row)
    with _Cutter(folder, piece_molecules, on_invalid) as cutter:
        cutter.units = dict(taken.units)
        before = taken.num_molecules
        for piece in find_format(source.path).read(source.path, options, cutter.units):
            for head in cutter.cut(piece):
                intake = examine(head, options, on_invalid, str(source.path))
                cutter.add(head, intake)
            on_progress(before + cutter.num_molecules)
        taken.extend(cutter.finish())
        _check_found(source, taken)
    report = taken.report(source.path, source_sha256(source.path))
    write_json(done, asdict(report))
    return report


def finished_pieces(folder: Path) -> list[Path]:
    """The pieces of a source, in order."""
    return sorted(folder.glob("piece-*"))


def piece_taken(folder: Path) -> Taken:
    """What a finished piece holds of its source.

    Raises:
        ValueError: The piece is damaged; the message names the file.
    """
    manifest = Shard(folder).manifest
    return Taken(**manifest["provenance"][0])


class _Cutter:
    """Writes molecules into one piece after another; a context manager.

    Where rows may be left out, a full piece is finished when the next molecule comes,
    so that those between are listed with it.
    """

    def __init__(self, folder: Path, size: int, on_invalid: Policy) -> None:
        self.folder, self.size, self.on_invalid = folder, size, on_invalid
        self.units: dict[str, str] = {}
        self._before = Taken()  # in pieces that are finished
        self._now = Taken()
        self._writer: PackedWriter | None = None

    def __enter__(self) -> "_Cutter":
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the unfinished piece."""
        if self._writer is not None:
            self._writer.abort()

    @property
    def num_molecules(self) -> int:
        """Molecules written so far."""
        return self._before.num_molecules + self._now.num_molecules

    def cut(self, piece: Molecules) -> Iterator[Molecules]:
        """Parts of which each fits into the piece that is open then."""
        start, count = 0, len(piece.n_atoms)
        while start < count:
            room = self.size - self._now.num_molecules or self.size
            yield _part(piece, start, min(start + room, count))
            start += room

    def add(self, read: Molecules, intake: Intake) -> None:
        """Write what remained of a part."""
        molecules = intake.molecules
        writer = self._writer
        full = self._now.num_molecules == self.size and len(molecules.n_atoms) > 0
        if writer is None or full:
            writer = self._next(int(read.rows[0]))
        writer.report_invalid(intake.invalid)
        if len(molecules.n_atoms):
            writer.append(
                molecules.n_atoms,
                molecules.values,
                names=molecules.names,
                levels=molecules.levels,
            )
        self._now.extend(
            Taken(
                first_row=int(read.rows[0]),
                end_row=int(read.rows[-1]) + 1,
                num_molecules=len(molecules.n_atoms),
                units=self.units,
                assumed=intake.assumed,
                invalid=Counter(row.action for row in intake.invalid),
            )
        )
        if self.on_invalid == "error" and self._now.num_molecules == self.size:
            self._close()

    def finish(self) -> Taken:
        """Finish the last piece; what was taken in all."""
        if self._now.num_molecules:
            self._close()
        else:
            self._before.extend(self._now)
        return self._before

    def _next(self, row: int) -> PackedWriter:
        """Begin a piece with this row."""
        self._close()
        number = len(finished_pieces(self.folder))
        if number == MAX_SHARDS:
            raise ValueError(
                f"more than {MAX_SHARDS} shards of {self.size} molecules; say a larger "
                "--shard-molecules"
            )
        self._writer = PackedWriter(self.folder / f"piece-{number:05d}")
        self._now = Taken(first_row=row)
        return self._writer

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.provenance.append(asdict(self._now))
            self._writer.finish()
            self._writer = None
            self._before.extend(self._now)
            self._now = Taken(self._now.end_row, self._now.end_row)


def _check_found(source: Source, taken: Taken) -> None:
    if taken.num_molecules == 0:
        asked = f" with {dict(source.options.where)}" if source.options.where else ""
        skipped = taken.invalid.get("skipped", 0)
        left = f", all {skipped} were invalid and skipped" if skipped else ""
        raise ValueError(
            f"{source.path}: zero molecules{asked}{left}, nothing to convert; check "
            "the file"
        )
    if not {"energy", "forces", "gradient"} & set(taken.units):
        raise ValueError(
            f"{source.path}: neither energies nor forces found; name their keys with "
            "--key energy=NAME, --key forces=NAME"
        )


def _part(piece: Molecules, start: int, end: int) -> Molecules:
    """Consecutive molecules of a piece, without copying."""
    if start == 0 and end == len(piece.n_atoms):
        return piece
    ends = np.cumsum(piece.n_atoms)
    bounds = [int(ends[place - 1]) if place else 0 for place in (start, end)]
    atoms, rows = slice(*bounds), slice(start, end)
    return replace(
        piece,
        rows=piece.rows[rows],
        n_atoms=piece.n_atoms[rows],
        values={
            name: array[atoms if FIELDS[name].per_atom else rows]
            for name, array in piece.values.items()
        },
        names=None if piece.names is None else piece.names[rows],
        levels=None if piece.levels is None else piece.levels[rows],
        absent={name: array[rows] for name, array in piece.absent.items()},
    )
