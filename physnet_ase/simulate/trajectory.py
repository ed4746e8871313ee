"""What a simulation leaves behind: its summary and its trajectory file."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import Trajectory as AseTrajectory
from ase.stress import full_3x3_to_voigt_6_stress

from physnet_ase.molecules import Molecules
from physnet_ase.simulate import h5md
from physnet_ase.simulate.settings import CELL_ENSEMBLES
from physnet_ase.simulate.system import Replica
from physnet_ase.state import ElectronicState, with_state
from physnet_ase.units import GIGAPASCAL

Frame = Mapping[str, Any]
"""Arrays of one replica's frame, about its centre, and its energies in eV."""

SUFFIXES = (".extxyz", ".xyz", ".traj", h5md.SUFFIX)
"""Trajectory formats: extended XYZ, ASE's own, H5MD."""
_COLUMNS = 9
"""Step; potential, kinetic, bath energy in eV; dipole in e·Å; familiarity; eV/Å."""


def energy_drift(times_fs: Any, energies: Any, num_atoms: int) -> float:
    """Drift in meV/atom/ps: slope of the straight line fitted to the energies.

    Least squares of energy (eV) over time (fs), divided by the number of atoms; NaN
    with fewer than three points, which say nothing about a trend.
    """
    times = np.asarray(times_fs, np.float64)
    if len(times) < 3:
        return float("nan")
    centred = times - times.mean()
    slope = centred @ np.asarray(energies, np.float64) / (centred @ centred)
    return float(slope / num_atoms * 1e6)


@dataclass(frozen=True)
class Trajectory:
    """Summary of a simulation; arrays have one entry per saved frame."""

    times_fs: np.ndarray  # (frames,)
    potential_energies: np.ndarray  # (frames,) eV, atomic references included
    kinetic_energies: np.ndarray  # (frames,) eV
    bath_energies: np.ndarray  # (frames,) eV given to thermostat, barostat and events
    temperatures_K: np.ndarray  # (frames,)
    dipoles: np.ndarray  # (frames, 3) e·Å about the origin; NaN in periodic systems
    familiarity: np.ndarray  # (frames,) score, above 1: unlike training; NaN: unknown
    forces_std: np.ndarray  # (frames,) eV/Å, largest deviation of a committee, or NaN
    atoms: Atoms  # last structure, with momenta, energy and forces
    seconds: float  # wall time of this call, compilation included
    path: Path | None  # trajectory file
    stopped: str | None = None  # why it ended before its time

    @property
    def total_energies(self) -> np.ndarray:
        """Potential and kinetic energy, eV, shape (frames,)."""
        return self.potential_energies + self.kinetic_energies

    @property
    def conserved_energies(self) -> np.ndarray:
        """What exact integration would conserve, eV.

        With Langevin dynamics and CSVR: the total energy less what the bath gave
        (Bussi & Parrinello, Phys. Rev. E 2007, 75, 056707).
        """
        return self.total_energies + self.bath_energies

    @property
    def drift(self) -> float:
        """Drift of the conserved energy in meV/atom/ps, see :func:`energy_drift`."""
        return energy_drift(self.times_fs, self.conserved_energies, len(self.atoms))


class Recorder:
    """Turns frames of one replica into series, a file and the summary."""

    def __init__(self, replica: Replica, reference: float) -> None:
        self.replica = replica
        self.state, self.reference = replica.state, reference  # now; eV
        self.given = 0.0  # eV that bath and events have taken so far
        self.stopped: str | None = None
        self.writer: TrajectoryWriter | None = None
        self.count = 0
        self._rows = np.zeros((256, _COLUMNS))
        self._template = with_state(replica.atoms, replica.state)

    @property
    def rows(self) -> np.ndarray:
        """Step, energies (eV), dipole (e·Å) and scores of each frame."""
        return self._rows[: self.count]

    def open(self, path: Path | None) -> None:
        """Write frames to ``path`` from here on, after those already recorded."""
        if path is not None:
            self.writer = TrajectoryWriter(
                path,
                len(self.replica.atoms),
                keep_frames=self.count,
                timestep_fs=self.replica.settings.timestep_fs,
            )

    def change_state(
        self, state: ElectronicState, reference: float, jump: float
    ) -> None:
        """Go on in another state, which costs ``jump`` eV, references included."""
        self.state, self.reference = state, reference
        self.given -= jump
        self._template = with_state(self.replica.atoms, state)

    def add(
        self, frames: Iterable[tuple[int, Frame]], scores: Iterable[tuple[float, float]]
    ) -> None:
        """Record frames with their steps; they are on disk when this returns.

        Args:
            frames: Steps and frames.
            scores: Familiarity and committee deviation (eV/Å) of each.
        """
        listed = list(frames)
        while self.count + len(listed) > len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        for (step, frame), looks in zip(listed, scores, strict=True):
            self.given += float(frame["heat"])
            self._rows[self.count] = (
                step,
                float(frame["potential"]) + self.reference,
                float(frame["kinetic"]),
                float(frame["bath"]) + self.given,
                *self._dipole(frame),
                *looks,
            )
            self.count += 1
        if self.writer is not None and listed:
            self.writer.write([self.atoms(step, frame) for step, frame in listed])

    def _positions(self, frame: Frame) -> np.ndarray:
        positions: np.ndarray = np.asarray(frame["positions"], np.float64)
        return positions + self.replica.centre @ _deformation(frame)

    def _dipole(self, frame: Frame) -> np.ndarray:
        if self.replica.periodic:
            return np.full(3, np.nan)
        charges: np.ndarray = np.asarray(frame["charges"], np.float64)
        return charges @ self._positions(frame)

    def atoms(self, step: int, frame: Frame) -> Atoms:
        """A frame as the user's Atoms with momenta, energy (eV), forces, charges."""
        settings = self.replica.settings
        atoms = self._template.copy()
        atoms.positions[:] = self._positions(frame)
        atoms.cell[:] = atoms.cell.array @ _deformation(frame)
        momenta = np.asarray(frame["momenta"], np.float64)
        atoms.set_momenta(momenta, apply_constraint=False)
        atoms.info["time_fs"] = step * settings.timestep_fs
        results: dict[str, Any] = {
            "energy": float(frame["potential"]) + self.reference,
            "forces": np.asarray(frame["forces"], np.float64),
            "charges": np.asarray(frame["charges"], np.float64),
        }
        if settings.ensemble in CELL_ENSEMBLES:
            virial: np.ndarray = np.asarray(frame["virial"], np.float64)
            pressure = 2.0 * float(frame["kinetic"]) - float(np.trace(virial))
            pressure /= 3.0 * atoms.get_volume() * GIGAPASCAL
            atoms.info["pressure_GPa"] = pressure
            stress = full_3x3_to_voigt_6_stress(virial / atoms.get_volume())
            results["stress"] = stress
        if not self.replica.periodic:
            results["dipole"] = self._dipole(frame)
        atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms

    def molecule(self, frame: Frame) -> Molecules:
        """A frame as a molecule in its present state, about its centre."""
        structure = self.replica.structure
        values: dict[str, np.ndarray] = {
            "positions": np.asarray(frame["positions"], np.float64),
            "total_charge": np.array([self.state.charge], np.int32),
            "spin_multiplicity": np.array([self.state.multiplicity], np.int32),
        }
        if "cell" in structure.values:
            values["cell"] = structure.values["cell"] @ _deformation(frame)
        return structure.with_values(**values)

    def drift(self) -> float:
        """Drift of the conserved energy so far, meV/atom/ps."""
        steps, *energies = self.rows[:, :4].T
        times = steps * self.replica.settings.timestep_fs
        return energy_drift(times, sum(energies), len(self.replica.atoms))

    def summary(self, last: Atoms, seconds: float) -> Trajectory:
        """Everything recorded, with ``last`` as the last structure."""
        steps, potential, kinetic, bath = self.rows[:, :4].T.copy()
        return Trajectory(
            times_fs=steps * self.replica.settings.timestep_fs,
            potential_energies=potential,
            kinetic_energies=kinetic,
            bath_energies=bath,
            temperatures_K=self.replica.temperature(kinetic),
            dipoles=self.rows[:, 4:7].copy(),
            familiarity=self.rows[:, 7].copy(),
            forces_std=self.rows[:, 8].copy(),
            atoms=last,
            seconds=seconds,
            path=self.writer.path if self.writer is not None else None,
            stopped=self.stopped,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """What a checkpoint keeps of this."""
        return {
            "rows": self.rows,
            "given": np.array(self.given),
            "state": np.array([self.state.charge, self.state.multiplicity]),
            "stopped": np.array(self.stopped or ""),
        }

    def restore(self, arrays: Mapping[str, np.ndarray], *, goes_on: bool) -> None:
        """Take up what :meth:`arrays` returned.

        Where the run goes on beyond its former end, a last frame that only marked that
        end is dropped: an uninterrupted run has none there.
        """
        rows = arrays["rows"]
        if goes_on:
            rows = rows[rows[:, 0] % self.replica.settings.save_every == 0]
        self._rows = np.concatenate([rows, np.zeros((256, _COLUMNS))])
        self.count = len(rows)
        self.given = float(arrays["given"])
        self.stopped = str(arrays["stopped"]) or None


def _deformation(frame: Frame) -> np.ndarray:
    deformation: np.ndarray = np.asarray(frame["deformation"], np.float64)
    return deformation


def trajectory_paths(
    trajectory: "str | Path | list[Any] | tuple[Any, ...] | None",
    count: int,
    *,
    many: bool,
    may_exist: bool,
) -> list[Path | None]:
    """A file for each replica: ``run.traj`` becomes ``run-00.traj``, ``run-01.traj``.

    Raises:
        ValueError: Another number of files than replicas, or one cannot be written.
    """
    if trajectory is None:
        return [None] * count
    if isinstance(trajectory, list | tuple):
        paths = [Path(one) for one in trajectory]
        if len(paths) != count or len(set(paths)) != count:
            raise ValueError(
                f"{len(set(paths))} different trajectory files for {count} replicas; "
                "give one for each, or a single name that is numbered"
            )
    elif many:
        one, width = Path(trajectory), max(len(str(count - 1)), 2)
        paths = [
            one.with_name(f"{one.stem}-{index:0{width}d}{one.suffix}")
            for index in range(count)
        ]
    else:
        paths = [Path(trajectory)]
    for path in paths:
        check_trajectory(path, may_exist=may_exist)
    return list(paths)


def check_trajectory(path: Path, *, may_exist: bool) -> None:
    """Refuse, before anything is computed, a file that cannot be written.

    Raises:
        ValueError: The suffix names no known format, the folder is missing, or the file
            exists and is not to be replaced or continued.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: a trajectory ends in one of {', '.join(SUFFIXES)}, got "
            f"{path.suffix!r}"
        )
    check_folder(path)
    if path.suffix == h5md.SUFFIX:
        h5md.h5py_module()
    if path.exists() and not may_exist:
        raise ValueError(
            f"{path} exists; pass resume=True with its checkpoint to go on, "
            "overwrite=True to replace it, or choose another name"
        )


def check_folder(path: Path) -> None:
    """Refuse a file in a folder that is not there.

    Raises:
        ValueError: The folder is missing.
    """
    if not path.parent.is_dir():
        raise ValueError(f"{path}: the folder {path.parent} does not exist; make it")


class TrajectoryWriter:
    """Appends frames to a file, block by block.

    Args:
        path: Where; the suffix names the format.
        num_atoms: Of each frame.
        keep_frames: Those that the checkpoint knows of; later ones are cut.
        timestep_fs: For formats that count steps.

    Raises:
        ValueError: On resuming the file holds fewer frames than the checkpoint says.
    """

    def __init__(
        self,
        path: str | Path,
        num_atoms: int,
        *,
        keep_frames: int,
        timestep_fs: float = 1.0,
    ) -> None:
        self.path, self.timestep_fs = Path(path), timestep_fs
        if keep_frames == 0:
            self.path.unlink(missing_ok=True)
        elif not self.path.is_file():
            raise ValueError(
                f"{self.path}: the checkpoint says that {keep_frames} frames were "
                "written, but there is no such file; restore it or start anew"
            )
        elif self.path.suffix == ".traj":
            self._trim_traj(keep_frames)
        elif self.path.suffix == h5md.SUFFIX:
            found = h5md.trim_frames(self.path, keep_frames)
            if found < keep_frames:
                raise self._too_short(keep_frames, found)
        else:
            self._trim_text(keep_frames, num_atoms + 2)

    def write(self, frames: Iterable[Atoms]) -> None:
        """Append frames and close the file, so that a crash loses nothing of them."""
        if self.path.suffix == ".traj":
            with AseTrajectory(self.path, "a") as file:
                for atoms in frames:
                    file.write(atoms)
        elif self.path.suffix == h5md.SUFFIX:
            h5md.append_frames(self.path, list(frames), self.timestep_fs)
        else:
            ase.io.write(self.path, list(frames), format="extxyz", append=True)

    def _trim_text(self, frames: int, lines_per_frame: int) -> None:
        """Cut what was written after the checkpoint."""
        with open(self.path, "rb+") as file:
            for line in range(frames * lines_per_frame):
                if not file.readline().endswith(b"\n"):
                    raise self._too_short(frames, line // lines_per_frame)
            file.truncate(file.tell())

    def _trim_traj(self, frames: int) -> None:
        with AseTrajectory(self.path) as file:
            found = len(file)
            if found < frames:
                raise self._too_short(frames, found)
            if found == frames:
                return
            kept = [file[i] for i in range(frames)]
        replacement = self.path.with_suffix(".part")
        with AseTrajectory(replacement, "w") as file:
            for atoms in kept:
                file.write(atoms)
        os.replace(replacement, self.path)

    def _too_short(self, expected: int, found: int) -> ValueError:
        return ValueError(
            f"{self.path}: holds {found} whole frames, but the checkpoint was written "
            f"after {expected}; restore the file or start anew"
        )
