"""What ends a replica before its time: looks at the frames that are saved.

The frame that meets a condition is the last of its replica.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from physnet_ase.bonds import bond_lengths
from physnet_ase.committee import Committee
from physnet_ase.familiarity import Familiarity
from physnet_ase.molecules import concatenate
from physnet_ase.neighbors import find_pairs
from physnet_ase.potential import Potential, unfamiliar_is_fine
from physnet_ase.simulate.settings import Event
from physnet_ase.simulate.system import Replica
from physnet_ase.simulate.trajectory import Frame, Recorder

StopFn = Callable[[Any], "str | bool | None"]
"""A user's condition on the ``Atoms`` of a frame: a reason or True ends the replica."""
BOND_TOLERANCE = 1.25
"""Two atoms are bound up to so many times the sum of their covalent radii."""
ADVICE = (
    "Reduce timestep_fs, relax the structure first, or check whether the model knows "
    "such geometries"
)


@dataclass(frozen=True)
class Stop:
    """Why a replica ends with one of its frames."""

    row: int  # of the frame among those that were looked at
    reason: str
    nonsense: bool = False  # not a condition that was asked for


@dataclass(frozen=True)
class Bonds:
    """Bonds of a start; atoms are never wrapped, so that shifts stay."""

    senders: np.ndarray
    receivers: np.ndarray
    shifts: np.ndarray  # (bonds, 3) Å
    lengths: np.ndarray  # Å at start

    def vectors(self, positions: np.ndarray, deformation: np.ndarray) -> np.ndarray:
        """(bonds, 3) Å in a frame whose cell has changed."""
        ends = positions[self.senders] - positions[self.receivers]
        grown: np.ndarray = ends + self.shifts @ deformation
        return grown


def bonds_of(replica: Replica) -> Bonds:
    """Pairs of atoms that are about as far apart as covalent bonds are long."""
    pairs, ratios, lengths = bond_lengths(replica.structure, BOND_TOLERANCE)
    bonded, once = ratios < BOND_TOLERANCE, pairs.senders <= pairs.receivers
    kept = np.flatnonzero(bonded & once)
    if pairs.shifts is None:
        shifts = np.zeros((len(lengths), 3))
    else:
        shifts = pairs.shifts
    ends = pairs.senders[kept], pairs.receivers[kept]
    return Bonds(*ends, shifts[kept], lengths[kept])


class Watch:
    """Looks at saved frames: scores for all, and who ends where.

    Raises:
        ValueError: A condition needs a committee, or a model that says what it knows.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        potential: Potential,
        events: Sequence[Event],
        committee: Committee | None,
        stop_when: StopFn | None,
    ) -> None:
        self.settings, self.potential = replicas[0].settings, potential
        self.committee, self.stop_when = committee, stop_when
        if self.settings.stop_forces_std is not None and committee is None:
            raise ValueError(
                "stop_forces_std compares models: pass the others as committee=, or "
                "use a model with several heads"
            )
        unknowing = potential.metadata.environments is None
        if self.settings.stop_familiarity is not None and unknowing:
            raise ValueError(
                f"the model {potential.metadata.name!r} has no record of what it was "
                "trained on, which stop_familiarity needs; leave it out or train anew"
            )
        if committee is not None:
            for one in replicas:
                allowed = one.settings.allow_unseen_states
                for state in (one.state, *(event.state for event in events)):
                    committee.check(
                        one.atoms.numbers, state, allow_unseen_states=allowed
                    )
        stretched = self.settings.stop_bond_stretch is not None
        self.bonds = [bonds_of(one) for one in replicas] if stretched else []

    def look(
        self,
        recorders: Sequence[Recorder],
        taken: Mapping[int, list[tuple[int, Frame]]],
    ) -> dict[int, tuple[list[tuple[float, float]], Stop | None]]:
        """Scores of the frames of some replicas, and which of them end there.

        Args:
            recorders: Of all replicas.
            taken: New frames, with their steps, of those that run.

        Returns:
            Of each replica in ``taken``: familiarity and committee deviation (eV/Å) of
            each frame, NaN where unknown; the first frame that ends it.
        """
        known = self._familiarity(recorders, taken)
        found = {}
        for index, frames in taken.items():
            deviations, apart = self._deviations(recorders[index], frames)
            stops = (
                self._nonsense(recorders[index].replica, frames),
                self._close(recorders[index], frames),
                self._broken(index, recorders[index], frames),
                self._unfamiliar(known[index]),
                apart,
                self._asked(recorders[index], frames),
            )
            reasons = [one for one in stops if one is not None]
            scores = [one.score if one else np.nan for one in known[index]]
            first = min(reasons, key=lambda stop: stop.row, default=None)
            found[index] = list(zip(scores, deviations, strict=True)), first
        return found

    def _familiarity(
        self,
        recorders: Sequence[Recorder],
        taken: Mapping[int, list[tuple[int, Frame]]],
    ) -> dict[int, list[Familiarity | None]]:
        """Of all frames, in one go."""
        molecules = [
            recorders[index].molecule(frame)
            for index, frames in taken.items()
            for _, frame in frames
        ]
        if not molecules or self.potential.metadata.environments is None:
            return {index: [None] * len(frames) for index, frames in taken.items()}
        known = iter(self.potential.known(concatenate(molecules)))
        return {index: [next(known) for _ in frames] for index, frames in taken.items()}

    def _nonsense(
        self, replica: Replica, frames: list[tuple[int, Frame]]
    ) -> Stop | None:
        """Numbers that are finite and nonsense all the same."""
        limit = self.settings.max_temperature_K
        for row, (_, frame) in enumerate(frames):
            temperature = float(replica.temperature(float(frame["kinetic"])))
            # Infinite: a square beyond float32, whose step is found where it moves.
            if limit < temperature < np.inf:
                reason = (
                    f"the atoms are at {temperature:.0f} K, above max_temperature_K = "
                    f"{limit:g}. {ADVICE} (timestep_fs is {self.settings.timestep_fs})"
                )
                return Stop(row, reason, nonsense=True)
        return None

    def _unfamiliar(self, known: list[Familiarity | None]) -> Stop | None:
        limit = self.settings.stop_familiarity
        for row, verdict in enumerate(known if limit is not None else []):
            if limit is not None and verdict is not None and verdict.score > limit:
                worst = int(np.argmax(verdict.atom_scores))
                atom = _labelled(verdict.numbers, worst)
                return Stop(
                    row,
                    f"familiarity score {verdict.score:.2f} of {atom}, above "
                    f"stop_familiarity = {limit:g}",
                )
        return None

    def _close(
        self, recorder: Recorder, frames: list[tuple[int, Frame]]
    ) -> Stop | None:
        limit, numbers = self.settings.stop_distance, recorder.replica.atoms.numbers
        if limit is None:
            return None
        for row, (_, frame) in enumerate(frames):
            molecule = recorder.molecule(frame)
            pairs = find_pairs(molecule, limit)
            vectors = pairs.vectors(molecule.values["positions"])
            lengths = np.linalg.norm(vectors, axis=1)
            if len(lengths):
                least = int(np.argmin(lengths))
                ends = sorted((int(pairs.senders[least]), int(pairs.receivers[least])))
                reason = (
                    f"{_labelled(numbers, *ends)} are {lengths[least]:.3f} Å apart, "
                    f"closer than stop_distance = {limit:g}"
                )
                return Stop(row, reason)
        return None

    def _broken(
        self, index: int, recorder: Recorder, frames: list[tuple[int, Frame]]
    ) -> Stop | None:
        limit, numbers = self.settings.stop_bond_stretch, recorder.replica.atoms.numbers
        if limit is None or not len(self.bonds[index].lengths):
            return None
        bonds = self.bonds[index]
        for row, (_, frame) in enumerate(frames):
            positions = recorder.molecule(frame).values["positions"]
            vectors = bonds.vectors(positions, frame["deformation"])
            lengths = np.linalg.norm(vectors, axis=1)
            longest = int(np.argmax(lengths / bonds.lengths))
            ratio = lengths[longest] / bonds.lengths[longest]
            if ratio > limit:
                ends = int(bonds.senders[longest]), int(bonds.receivers[longest])
                reason = (
                    f"the bond of {_labelled(numbers, *ends)} is "
                    f"{lengths[longest]:.3f} Å long, {ratio:.2f} times as long as at "
                    f"start, above stop_bond_stretch = {limit:g}"
                )
                return Stop(row, reason)
        return None

    def _asked(
        self, recorder: Recorder, frames: list[tuple[int, Frame]]
    ) -> Stop | None:
        """Where the user's function says so."""
        if self.stop_when is None:
            return None
        for row, (step, frame) in enumerate(frames):
            answer = self.stop_when(recorder.atoms(step, frame))
            if answer:
                reason = answer if isinstance(answer, str) else "stop_when says so"
                return Stop(row, reason)
        return None

    def _deviations(
        self, recorder: Recorder, frames: list[tuple[int, Frame]]
    ) -> tuple[list[float], Stop | None]:
        """How far the forces of the committee's members are apart, eV/Å."""
        if self.committee is None:
            return [np.nan] * len(frames), None
        atoms = [recorder.atoms(step, frame) for step, frame in frames]
        allowed = recorder.replica.settings.allow_unseen_states
        try:
            with unfamiliar_is_fine():
                results = self.committee.evaluate(
                    atoms, properties=("forces_std",), allow_unseen_states=allowed
                )
        except (ValueError, FloatingPointError) as error:
            reason = f"the committee cannot evaluate this: {error}"
            return [np.nan] * len(frames), Stop(0, reason)
        spreads = [np.linalg.norm(one.forces_std, axis=1) for one in results]
        deviations = [float(spread.max()) for spread in spreads]
        limit = self.settings.stop_forces_std
        for row, deviation in enumerate(deviations):
            if limit is not None and deviation > limit:
                worst = int(np.argmax(spreads[row]))
                atom = _labelled(atoms[row].numbers, worst)
                return deviations, Stop(
                    row,
                    f"the committee's forces on {atom} deviate by {deviation:.3f} "
                    f"eV/Å, above stop_forces_std = {limit:g}",
                )
        return deviations, None


def _labelled(numbers: np.ndarray, *atoms: int) -> str:
    return " and ".join(f"{chemical_symbols[numbers[atom]]}{atom}" for atom in atoms)
