"""What a simulation leaves behind: its summary and its trajectory file."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import Trajectory as AseTrajectory

from physnet_ase.simulate.system import System
from physnet_ase.state import ElectronicState
from physnet_ase.units import BOLTZMANN

Frame = Mapping[str, Any]
"""Arrays of one frame in jax-md's coordinates, and its energies in eV."""

SUFFIXES = (".extxyz", ".xyz", ".traj")
"""Trajectory formats: extended XYZ and ASE's own."""


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
    bath_energies: np.ndarray  # (frames,) eV of thermostat and barostat; NaN: Langevin
    temperatures_K: np.ndarray  # (frames,)
    atoms: Atoms  # last frame, with momenta, energy and forces
    seconds: float  # wall time of this call, compilation included
    path: Path | None  # trajectory file

    @property
    def total_energies(self) -> np.ndarray:
        """Potential and kinetic energy, eV, shape (frames,)."""
        return self.potential_energies + self.kinetic_energies

    @property
    def conserved_energies(self) -> np.ndarray:
        """What the equations of motion conserve, eV; NaN for Langevin dynamics."""
        return self.total_energies + self.bath_energies

    @property
    def drift(self) -> float:
        """Drift of the conserved energy in meV/atom/ps, see :func:`energy_drift`."""
        return energy_drift(self.times_fs, self.conserved_energies, len(self.atoms))


class Recorder:
    """Turns frames in jax-md's coordinates into series, files and the summary."""

    def __init__(self, system: System, state: ElectronicState, pbc: np.ndarray) -> None:
        self.coordinates, self.pbc = system.coordinates, pbc
        self.reference, self.dof = system.reference, system.dof  # eV, number
        self.timestep_fs = system.settings.timestep_fs
        self.info = {
            "charge": state.charge,
            "spin_multiplicity": state.multiplicity,
        }
        self.writer: TrajectoryWriter | None = None
        self.last: tuple[int, Frame] | None = None
        self.count = 0
        self._rows = np.zeros((256, 4))  # step; potential, kinetic, bath energy in eV

    @property
    def rows(self) -> np.ndarray:
        """Step, and potential, kinetic and bath energy (eV) of each frame."""
        return self._rows[: self.count]

    def open(self, path: str | Path | None) -> None:
        """Write frames to ``path`` from here on, after those already recorded."""
        if path is not None:
            count = len(self.coordinates.atoms)
            self.writer = TrajectoryWriter(path, count, keep_frames=self.count)

    def add(self, steps: Iterable[int], frames: Sequence[Frame]) -> None:
        """Record frames; they are on disk when this returns."""
        while self.count + len(frames) > len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        for step, frame in zip(steps, frames, strict=True):
            potential = float(frame["potential"]) + self.reference
            energies = potential, float(frame["kinetic"]), float(frame["bath"])
            self._rows[self.count] = step, *energies
            self.count += 1
            self.last = int(step), frame
        if self.writer is not None and len(frames):
            self.writer.write(
                self.atoms(int(step), frame)
                for step, frame in zip(steps, frames, strict=True)
            )

    def atoms(self, step: int, frame: Frame) -> Atoms:
        """A frame as Atoms with momenta, energy (eV) and forces."""
        template = self.coordinates.atoms
        arrays = self.coordinates.frame(frame)
        forces = arrays.pop("forces")
        atoms = Atoms(numbers=template.numbers, pbc=self.pbc, **arrays)
        atoms.set_masses(template.get_masses())
        atoms.info.update(self.info, time_fs=step * self.timestep_fs)
        energy = float(frame["potential"]) + self.reference
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        return atoms

    def drift(self) -> float:
        """Drift of the conserved energy so far, meV/atom/ps."""
        steps, *energies = self.rows.T
        atoms = len(self.coordinates.atoms)
        return energy_drift(steps * self.timestep_fs, sum(energies), atoms)

    def temperature(self, kinetic: Any) -> Any:
        """Kinetic temperature in K of kinetic energies in eV; 0 without motion."""
        return kinetic * (2.0 / (self.dof * BOLTZMANN) if self.dof else 0.0)

    def series(self) -> dict[str, np.ndarray]:
        """Times, energies and temperatures of all frames, as in :class:`Trajectory`."""
        steps, potential, kinetic, bath = self.rows.T.copy()
        return {
            "times_fs": steps * self.timestep_fs,
            "potential_energies": potential,
            "kinetic_energies": kinetic,
            "bath_energies": bath,
            "temperatures_K": self.temperature(kinetic),
        }

    def summary(self, last: tuple[int, Frame], seconds: float) -> Trajectory:
        """Everything recorded, with ``last`` (step, frame) as the last structure."""
        path = self.writer.path if self.writer is not None else None
        return Trajectory(
            **self.series(), atoms=self.atoms(*last), seconds=seconds, path=path
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """What a checkpoint keeps of this."""
        return {"rows": self.rows}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take up what :meth:`arrays` returned."""
        self._rows = np.concatenate([arrays["rows"], np.zeros((256, 4))])
        self.count = len(arrays["rows"])


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

    Raises:
        ValueError: On resuming the file holds fewer frames than the checkpoint says.
    """

    def __init__(self, path: str | Path, num_atoms: int, *, keep_frames: int) -> None:
        self.path = Path(path)
        if keep_frames == 0:
            self.path.unlink(missing_ok=True)
        elif not self.path.is_file():
            raise ValueError(
                f"{self.path}: the checkpoint says that {keep_frames} frames were "
                "written, but there is no such file; restore it or start anew"
            )
        elif self.path.suffix == ".traj":
            self._trim_traj(keep_frames)
        else:
            self._trim_text(keep_frames, num_atoms + 2)

    def write(self, frames: Iterable[Atoms]) -> None:
        """Append frames and close the file, so that a crash loses nothing of them."""
        if self.path.suffix == ".traj":
            with AseTrajectory(self.path, "a") as file:
                for atoms in frames:
                    file.write(atoms)
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
