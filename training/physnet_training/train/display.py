"""What a training shows in the terminal: a progress bar and tables of errors."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from physnet_training.train.trainer import TrainingProgress

LINE_EVERY = 60.0  # s, between lines where there is no terminal


class _Printing(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        kind = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        self._console.print(
            kind + record.getMessage(), highlight=False, markup=False, soft_wrap=True
        )


@contextmanager
def stages_shown(console: Console) -> Iterator[None]:
    """Print what a training says before its first step and after its last."""
    ours, printing = logging.getLogger("physnet_training"), _Printing(console)
    level, propagate = ours.level, ours.propagate
    ours.setLevel(logging.INFO)
    ours.addHandler(printing)
    # Libraries give the root logger a handler, which would say it again.
    ours.propagate = False
    try:
        yield
    finally:
        ours.removeHandler(printing)
        ours.setLevel(level)
        ours.propagate = propagate


class TrainingBar:
    """A progress bar with the latest loss and validation errors; a context manager.

    Without a terminal it prints one line per validation and minute instead, so that a
    log file stays readable and says that it goes on.
    """

    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=steps, note="compiling…")
        self._errors = ""
        self._printed = time.monotonic()

    def __enter__(self) -> "TrainingBar":
        if not self._console.is_terminal:
            self._console.print("compiling")
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, progress: TrainingProgress) -> None:
        """Show one report of the trainer."""
        if progress.validation is not None:
            self._errors = _short(progress.validation)
        due = time.monotonic() - self._printed > LINE_EVERY
        if not self._console.is_terminal and (progress.validation is not None or due):
            self._printed = time.monotonic()
            left = progress.seconds * (progress.steps / progress.step - 1.0)
            line = (
                f"step {progress.step}/{progress.steps}  {progress.seconds:.0f} s, "
                f"{left:.0f} s left  loss {progress.loss:.4g}  {self._errors}"
            )
            self._console.print(
                line.rstrip(),  # no errors before the first validation
                highlight=False,
                soft_wrap=True,
            )
        note = f"loss {progress.loss:.3g}  {self._errors}"
        self._bar.update(self._task, completed=progress.step, note=note)


def _short(row: dict[str, Any]) -> str:
    energy, forces = row["energy_mae_ev"], row["forces_mae_ev_per_angstrom"]
    parts = []
    if energy is not None:
        parts.append(f"E {1000 * energy:.3g} meV")
    if forces is not None:
        parts.append(f"F {1000 * forces:.3g} meV/Å")
    if "vertical_mae_ev" in row:
        parts.append(f"between states {1000 * row['vertical_mae_ev']:.3g} meV")
    return "validation MAE " + ", ".join(parts)


def data_line(data: dict[str, float]) -> str:
    """What ``Trainer.data_report`` says, in a sentence."""
    return (
        f"waited for data {data['wait_fraction']:.1%} of the time; padding "
        f"{data['padding_of_atoms']:.1%} of the atoms, {data['padding_of_pairs']:.1%} "
        f"of the pairs, in {data['shapes']} shapes"
    )


def worst_table(worst: dict[str, list[dict[str, Any]]], most: int = 5) -> Table:
    """The molecules with the largest errors of energy and forces."""
    table = Table(title="largest errors", title_justify="left")
    for heading in ("of", "molecule", "charge", "2S+1", "error"):
        table.add_column(heading, justify="right")
    units = {"energy": "meV", "forces": "meV/Å"}
    for name in units.keys() & worst.keys():
        for row in worst[name][:most]:
            error = next(row[key] for key in row if key.startswith("error_"))
            table.add_row(
                *(name, str(row["molecule"])),
                *(f"{row['charge']:+d}", str(row["multiplicity"])),
                f"{1000 * error:.3g} {units[name]}",
            )
    return table


def calibration_table(rows: list[dict[str, Any]]) -> Table:
    """What the spread of a model's heads is worth, see ``calibration.calibration``."""
    table = Table(title="spread of the heads against errors", title_justify="left")
    for heading in ("of", "number", "rank correlation", "RMSE", "spread", "ratio"):
        table.add_column(heading, justify="right")
    units = {"energy": "meV", "forces": "meV/Å"}
    for row in rows:
        sizes = [
            f"{1000 * value:.3g} {units[row['quantity']]}"
            for key, value in row.items()
            if key.startswith(("rmse_ev", "spread_"))
        ]
        rank, ratio = (
            "–" if row[key] is None else f"{row[key]:.2f}"
            for key in ("spearman", "rmse_per_spread")
        )
        table.add_row(row["quantity"], str(row["count"]), rank, *sizes, ratio)
    return table


def gap_error_table(gaps: dict[str, dict[str, float]]) -> Table:
    """Errors of vertical gaps in meV."""
    table = Table(
        title="differences between states of a geometry", title_justify="left"
    )
    for heading in ("of", "number", "MAE (meV)", "RMSE (meV)"):
        table.add_column(heading, justify="right")
    for kind, found in gaps.items():
        errors = (f"{1000 * found[key]:.3g}" for key in ("mae_ev", "rmse_ev"))
        table.add_row(kind.replace("_", " "), str(found["count"]), *errors)
    return table


def error_table(
    title: str, rows: list[dict[str, Any]], more: Mapping[str, str] | None = None
) -> Table:
    """Errors per group as a table in meV, meV/Å and e.

    Args:
        title: Above the table.
        rows: Each begins with the key of its group, then says how many molecules.
        more: Further columns of numbers: key -> heading in thousandths of its unit.
    """
    table = Table(title=title, title_justify="left")
    numbers = _NUMBERS | {
        key: heading
        for key, heading in (more or {}).items()
        if any(row[key] is not None for row in rows)
    }
    keys = [key for key in _GROUPS if key in rows[0]]
    for key in keys:
        table.add_column(_GROUPS[key], justify="right")
    for heading in ("molecules", *numbers.values()):
        table.add_column(heading, justify="right")
    for row in rows:
        whole = all(row[key] is None for key in keys)
        table.add_row(
            *("all" if whole else _cell(key, row[key]) for key in keys),
            str(row["molecules"]),
            *("–" if row[key] is None else f"{1000 * row[key]:.3g}" for key in numbers),
            end_section=whole,
        )
    return table


_GROUPS = {
    "charge": "charge",
    "multiplicity": "2S+1",
    "element": "element",
    "atoms_from": "atoms from",
    "atoms_to": "to",
    "level": "level of theory",
}
_NUMBERS = {
    "energy_mae_ev": "E MAE (meV)",
    "energy_rmse_ev": "E RMSE (meV)",
    "forces_mae_ev_per_angstrom": "F MAE (meV/Å)",
    "forces_rmse_ev_per_angstrom": "F RMSE (meV/Å)",
}
_OF_ATOMS = {
    "charges_mae_e": "q MAE (me)",
    "spin_populations_mae_e": "s MAE (me)",
}


def _cell(key: str, value: Any) -> str:
    return f"{value:+d}" if key == "charge" else str(value)


def tables_by(errors: dict[str, list[dict[str, Any]]]) -> list[Table]:
    """Errors per element, size and level; what all molecules share has no table."""
    titles = {
        "element": "by element: of its atoms, energies of molecules that contain it",
        "size": "by number of atoms",
        "level": "by level of theory",
    }
    return [
        error_table(titles[name], rows, _OF_ATOMS if name == "element" else None)
        for name, rows in errors.items()
        if len(rows) > 1
    ]
