"""Gaps between states: labelled ladders, a model beside them, tables."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from rich.table import Table

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.observables import (
    electron_affinity,
    ionization_energy,
    singlet_triplet_gap,
)
from physnet_ase.observables.relaxation import Relaxation
from physnet_ase.potential import Potential
from physnet_ase.state import ElectronicState
from physnet_training.loading.geometries import Ladders
from physnet_training.packed import PackedDataset
from physnet_training.train.split import Split

GAPS = ("ionization_energy", "electron_affinity", "singlet_triplet_gap")
ANY_TWO = "any_two_states"
LOWEST_AFFINITY = 0.2
"""eV; below it the anion is not bound and its label an artefact of the basis."""


@dataclass(frozen=True)
class Ladder:
    """One geometry and its reference energies in several states."""

    name: str
    rows: tuple[int, ...]  # molecules of the dataset, one per state
    numbers: NDArray[Any]  # [atoms]
    positions: NDArray[Any]  # [atoms, 3] Å
    energies: dict[ElectronicState, float]  # eV

    def atoms(self) -> Atoms:
        """The geometry."""
        return Atoms(self.numbers, self.positions)

    def gap_states(self) -> dict[str, tuple[ElectronicState, ElectronicState]]:
        """As the function of this name."""
        return gap_states(self.energies)


def gap_states(
    energies: Mapping[ElectronicState, float],
) -> dict[str, tuple[ElectronicState, ElectronicState]]:
    """Upper minus lower state of each vertical gap that labels of a geometry define.

    The neutral is the lowest labelled neutral state; the ion the lowest labelled
    one whose multiplicity differs by one; the singlet–triplet gap is E_T - E_S.
    """
    pairs: dict[str, tuple[ElectronicState, ElectronicState]] = {}
    neutral = [state for state in energies if state.charge == 0]
    if not neutral:
        return pairs
    ground = min(neutral, key=energies.__getitem__)
    for gap, charge in (("ionization_energy", 1), ("electron_affinity", -1)):
        ions = [
            state
            for state in energies
            if state.charge == charge
            and abs(state.multiplicity - ground.multiplicity) == 1
        ]
        if ions:
            ion = min(ions, key=energies.__getitem__)
            pairs[gap] = (ion, ground) if charge == 1 else (ground, ion)
    singlet, triplet = ElectronicState(0, 1), ElectronicState(0, 3)
    if singlet in energies and triplet in energies:
        pairs["singlet_triplet_gap"] = (triplet, singlet)
    return pairs


class GapSums:
    """Sums of errors of vertical gaps, of molecules that come in the order of ladders.

    Memory holds one ladder, and the order.

    Args:
        dataset: Where the molecules are.
        ladders: Their order.
    """

    def __init__(self, dataset: PackedDataset, ladders: Ladders) -> None:
        self._dataset, self._ladders, self._shared = dataset, ladders, ladders.shared
        self._place = 0
        self._number = -1
        # of the ladder of this number: state -> label and error in eV
        self._open: dict[ElectronicState, tuple[float, float]] = {}
        self._sums: dict[str, NDArray[Any]] = {}

    def add(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Add the next molecules, with values as ``evaluate.Predictions`` has them."""
        own = slice(self._place, self._place + len(values["state"]))
        self._place = own.stop
        if "energy" not in values:
            return
        errors = values["energy"] - values["energy_label"]
        labels = self._dataset.take("energy", self._ladders.molecules[own])
        numbers = self._ladders.numbers[own]
        for place in np.flatnonzero(np.isfinite(errors) & self._shared[own]).tolist():
            if numbers[place] != self._number:
                self._close()
                self._number = numbers[place]
            state = ElectronicState(*values["state"][place].tolist())
            self._open[state] = float(labels[place]), float(errors[place])

    def _close(self) -> None:
        """Count what the open ladder holds."""
        energies = {state: label for state, (label, _) in self._open.items()}
        pairs = [(ANY_TWO, pair) for pair in combinations(energies, 2)]
        for kind, (upper, lower) in [*pairs, *gap_states(energies).items()]:
            gap = energies[upper] - energies[lower]
            if kind == "electron_affinity" and gap <= LOWEST_AFFINITY:
                continue
            error = self._open[upper][1] - self._open[lower][1]
            sums = np.array([1.0, abs(error), error**2])
            self._sums[kind] = self._sums.get(kind, 0.0) + sums
        self._open.clear()

    def errors(self) -> dict[str, dict[str, float]]:
        """Number, MAE and RMSE (eV) per kind of gap, and of all pairs of states."""
        self._close()
        return {
            kind: {"count": int(n), "mae_ev": size / n, "rmse_ev": (square / n) ** 0.5}
            for kind in (ANY_TWO, *GAPS)
            if kind in self._sums
            for n, size, square in [self._sums[kind].tolist()]
        }


def find_ladders(dataset: PackedDataset, rows: NDArray[np.int64]) -> list[Ladder]:
    """Group molecules of equal atoms and positions; keep those with several states."""
    charges, multiplicities = dataset.states_of(rows)
    energies = dataset.take("energy", rows)
    groups = dataset.take("group", rows) if dataset.groups else None
    found: dict[bytes, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        atoms = dataset.atom_rows(np.array([row]))
        numbers = dataset.take("atomic_numbers", atoms)
        positions = dataset.take("positions", atoms)
        if np.isfinite(energies[place]):
            found[numbers.tobytes() + positions.tobytes()].append(place)
    ladders = []
    for places in found.values():
        if len(places) < 2:
            continue
        atoms = dataset.atom_rows(rows[places[:1]])
        ladders.append(
            Ladder(
                name=dataset.groups[groups[places[0]]] if groups is not None else "",
                rows=tuple(int(rows[place]) for place in places),
                numbers=np.array(dataset.take("atomic_numbers", atoms)),
                positions=np.array(dataset.take("positions", atoms), np.float64),
                energies={
                    ElectronicState(int(charges[p]), int(multiplicities[p])): float(
                        energies[p]
                    )
                    for p in places
                },
            )
        )
    return ladders


def frames_by_energy(ladders: list[Ladder]) -> dict[str, list[Ladder]]:
    """Each molecule's geometries, by the energy of its neutral ground state.

    The first is the relaxed one wherever the data holds it.
    """
    frames: dict[str, list[Ladder]] = defaultdict(list)
    for ladder in ladders:
        frames[ladder.name].append(ladder)
    return {name: sorted(group, key=_ground_energy) for name, group in frames.items()}


def _ground_energy(ladder: Ladder) -> float:
    neutral = [energy for state, energy in ladder.energies.items() if not state.charge]
    return min(neutral, default=float("inf"))


@dataclass(frozen=True)
class GapComparison:
    """One vertical gap of one geometry, in eV."""

    name: str
    kind: str
    upper: ElectronicState
    lower: ElectronicState
    model: float
    reference: float

    @property
    def error(self) -> float:
        """Model minus reference."""
        return self.model - self.reference


def compare_gaps(potential: Potential, ladders: list[Ladder]) -> list[GapComparison]:
    """Every vertical gap of the ladders, by the model in the labels' states."""
    wanted = [
        (ladder, kind, states)
        for ladder in ladders
        for kind, states in ladder.gap_states().items()
    ]
    structures = []
    for ladder, _, states in wanted:
        for state in states:
            atoms = ladder.atoms()
            atoms.info.update(charge=state.charge, multiplicity=state.multiplicity)
            structures.append(atoms)
    if not structures:
        return []
    energies = [
        result.energy
        for result in potential.evaluate(structures, properties=("energy",))
    ]
    return [
        GapComparison(
            ladder.name,
            kind,
            *states,
            model=energies[2 * i] - energies[2 * i + 1],
            reference=ladder.energies[states[0]] - ladder.energies[states[1]],
        )
        for i, (ladder, kind, states) in enumerate(wanted)
    ]


def gap_errors(
    comparisons: list[GapComparison], *, lowest_affinity: float = LOWEST_AFFINITY
) -> dict[str, dict[str, float]]:
    """Number, MAE and RMSE (eV) per kind of gap.

    Electron affinities count only where the reference exceeds ``lowest_affinity``: an
    anion that is not bound is an artefact of the basis set.
    """
    table: dict[str, dict[str, float]] = {}
    for kind in GAPS:
        errors = np.array(
            [
                c.error
                for c in comparisons
                if c.kind == kind
                and (kind != "electron_affinity" or c.reference > lowest_affinity)
            ]
        )
        if len(errors):
            table[kind] = {
                "count": len(errors),
                "mae_ev": float(np.mean(np.abs(errors))),
                "rmse_ev": float(np.sqrt(np.mean(errors**2))),
            }
    return table


MOLECULES = ("H2O", "NH3", "CH4", "H2CO", "C2H4", "CH2_s3B1d", "NH2", "CH3")
"""Molecules of the printed table; the errors cover every labelled one."""
SHORT = {
    "ionization_energy": "IE",
    "electron_affinity": "EA",
    "singlet_triplet_gap": "S–T gap",
}


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
                compare_gaps(model, [row for row in ladders if set(row.rows) <= part])
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
