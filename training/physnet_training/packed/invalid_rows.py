"""Rows of the sources that were not taken as they stand, listed beside the data."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TextIO

from physnet_training.packed.layout import INVALID_ROWS

Action = Literal["skipped", "kept"]


class InvalidRow(NamedTuple):
    """One such molecule; the fields are the columns of the file."""

    source: str
    row: int  # 0-based, in the source
    action: Action
    reason: str


class InvalidRowsFile:
    """``invalid_rows.csv``, made with its first row.

    Args:
        folder: Where the file shall stand.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / INVALID_ROWS
        self.counts: Counter[str] = Counter()
        self._file: TextIO | None = None

    def write(self, rows: Iterable[InvalidRow]) -> None:
        """Append rows."""
        for row in rows:
            if self._file is None:
                self._file = self.path.open("w", encoding="utf-8", newline="")
                csv.writer(self._file).writerow(InvalidRow._fields)
            csv.writer(self._file).writerow(row)
            self.counts[row.action] += 1

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            self._file.close()


def read_invalid_rows(folder: Path) -> Iterator[InvalidRow]:
    """The rows listed in a packed directory, none where nothing was invalid."""
    path = folder / INVALID_ROWS
    if not path.exists():
        return
    with path.open(encoding="utf-8", newline="") as file:
        for entry in csv.DictReader(file):
            yield InvalidRow(
                entry["source"],
                int(entry["row"]),
                "kept" if entry["action"] == "kept" else "skipped",
                entry["reason"],
            )
