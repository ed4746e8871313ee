"""Vertical gaps from labelled data: geometries that carry labels in several states."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from physnet_ase.potential import Potential
from physnet_ase.state import ElectronicState
from physnet_training.packed import PackedDataset

GAPS = ("ionization_energy", "electron_affinity", "singlet_triplet_gap")


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
        """Upper minus lower state of each vertical gap that the labels define.

        The neutral is the lowest labelled neutral state; the ion the lowest labelled
        one whose multiplicity differs by one; the singlet–triplet gap is E_T - E_S.
        """
        pairs: dict[str, tuple[ElectronicState, ElectronicState]] = {}
        neutral = [state for state in self.energies if state.charge == 0]
        if not neutral:
            return pairs
        ground = min(neutral, key=self.energies.__getitem__)
        for gap, charge in (("ionization_energy", 1), ("electron_affinity", -1)):
            ions = [
                state
                for state in self.energies
                if state.charge == charge
                and abs(state.multiplicity - ground.multiplicity) == 1
            ]
            if ions:
                ion = min(ions, key=self.energies.__getitem__)
                pairs[gap] = (ion, ground) if charge == 1 else (ground, ion)
        singlet, triplet = ElectronicState(0, 1), ElectronicState(0, 3)
        if singlet in self.energies and triplet in self.energies:
            pairs["singlet_triplet_gap"] = (triplet, singlet)
        return pairs


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
    comparisons: list[GapComparison], *, lowest_affinity: float = 0.2
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
