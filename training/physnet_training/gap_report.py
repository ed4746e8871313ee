"""Gaps of a model beside their labels and another model: rows, table, words."""

from collections.abc import Callable
from typing import Any

from rich.table import Table

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.observables import (
    electron_affinity,
    ionization_energy,
    singlet_triplet_gap,
)
from physnet_ase.observables.relaxation import Relaxation
from physnet_ase.potential import Potential
from physnet_training.ladders import (
    GapComparison,
    Ladder,
    compare_gaps,
    frames_by_energy,
    gap_errors,
)
from physnet_training.splits import Split

MOLECULES = ("H2O", "NH3", "CH4", "H2CO", "C2H4", "CH2_s3B1d", "NH2", "CH3")
"""Molecules of the printed table; the errors cover every labelled one."""
SHORT = {
    "ionization_energy": "IE",
    "electron_affinity": "EA",
    "singlet_triplet_gap": "S–T gap",
}
LOWEST_AFFINITY = 0.2
"""eV; below it the anion is not bound and its label an artefact of the basis."""


def adiabatic_gaps(ladder: Ladder, potential: Potential) -> dict[str, float | str]:
    """Adiabatic gaps in eV from the model's own relaxations, or why there is none."""
    calculator = PhysNetCalculator(potential)
    functions: dict[str, Callable[..., Any]] = {
        "ionization_energy": ionization_energy,
        "electron_affinity": electron_affinity,
        "singlet_triplet_gap": singlet_triplet_gap,
    }
    gaps: dict[str, float | str] = {}
    for kind, (upper, lower) in ladder.gap_states().items():
        atoms = ladder.atoms()
        states: dict[str, Any] = {}
        if kind != "singlet_triplet_gap":
            first, last = (
                (lower, upper) if kind == "ionization_energy" else (upper, lower)
            )
            states = {"from_state": first, "to_state": last}
        try:
            result = functions[kind](
                atoms,
                calculator,
                kind="adiabatic",
                relaxation=Relaxation(fmax=0.02, steps=300),
                **states,
            )
            gaps[kind] = float(result.value)
        except RuntimeError as error:
            gaps[kind] = f"not converged: {error}"
    return gaps


def gap_table(rows: list[dict[str, Any]]) -> Table:
    """Vertical gaps of model, labels and pretrained model, and adiabatic ones."""
    table = Table(
        title="Gaps in eV: vertical at the DFT minimum of the neutral, by DFT, by this "
        "model and by the pretrained one; adiabatic by this model's own relaxations. "
        "* not trained on. EA below 0.2 eV: the anion is not bound",
        title_justify="left",
    )
    for heading in ("molecule", "gap"):
        table.add_column(heading, no_wrap=True)
    for heading in ("DFT", "this", "error", "pretr.", "error", "adiab."):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        adiabatic = row["adiabatic_model_ev"]
        table.add_row(
            row["molecule"] + ("*" if row["held_out"] else ""),
            SHORT[row["gap"]],
            f"{row['dft_ev']:.2f}",
            f"{row['model_ev']:.2f}",
            f"{row['error_ev']:+.2f}",
            f"{row['pretrained_ev']:.2f}",
            f"{row['pretrained_error_ev']:+.2f}",
            f"{adiabatic:.2f}" if isinstance(adiabatic, float) else "none",
        )
    for row in rows:
        if isinstance(row["adiabatic_model_ev"], str):
            table.caption = "none: a relaxation did not converge; see report.json"
    return table


def compare(
    ladders: list[Ladder], split: Split, potential: Potential, other: Potential
) -> dict[str, Any]:
    """Errors of all vertical gaps by both models, for each part of the split."""
    return {
        name: {
            which: gap_errors(
                compare_gaps(model, [row for row in ladders if set(row.rows) <= part]),
                lowest_affinity=LOWEST_AFFINITY,
            )
            for which, model in (("this model", potential), ("pretrained", other))
        }
        for name, part in (
            ("training set", set(split.train.tolist())),
            ("held-out geometries", set(split.validation.tolist())),
            ("held-out molecules", set(split.test.tolist())),
        )
    }


def gap_rows(
    ladders: list[Ladder], held_out: set[int], potential: Potential, other: Potential
) -> list[dict[str, Any]]:
    """One row per chosen molecule and gap at the relaxed neutral geometry.

    Args:
        ladders: Labelled geometries in several states.
        held_out: Molecules of the dataset that neither model was trained on.
        potential: The model in question.
        other: The model it is compared with.
    """
    frames = frames_by_energy(ladders)
    rows = []
    for name in MOLECULES:
        ladder = frames[name][0]
        pairs: list[tuple[GapComparison, GapComparison]] = list(
            zip(
                compare_gaps(potential, [ladder]),
                compare_gaps(other, [ladder]),
                strict=True,
            )
        )
        adiabatic = adiabatic_gaps(ladder, potential)
        for mine, theirs in pairs:
            rows.append(
                {
                    "molecule": name,
                    "gap": mine.kind,
                    "held_out": set(ladder.rows) <= held_out,
                    "states": [str(mine.upper), str(mine.lower)],
                    "dft_ev": mine.reference,
                    "model_ev": mine.model,
                    "error_ev": mine.error,
                    "pretrained_ev": theirs.model,
                    "pretrained_error_ev": theirs.error,
                    "adiabatic_model_ev": adiabatic[mine.kind],
                }
            )
    return rows


def summary_table(comparison: dict[str, Any]) -> Table:
    """Mean absolute errors of all labelled gaps, with how many there are."""
    table = Table(
        title="Mean absolute error of all vertical gaps in eV (number of them)",
        title_justify="left",
    )
    table.add_column("")
    table.add_column("model")
    for short in SHORT.values():
        table.add_column(short, justify="right")
    for part, models in comparison.items():
        for which, errors in models.items():
            cells = [
                f"{errors[kind]['mae_ev']:.3f} ({errors[kind]['count']})"
                if kind in errors
                else "–"
                for kind in SHORT
            ]
            table.add_row(part, which, *cells)
    return table
