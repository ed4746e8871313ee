"""One simulation from its atoms to its summary."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms

from physnet_ase.potential import Potential, load_potential
from physnet_ase.simulate.blocks import quiet_jax_md
from physnet_ase.simulate.restart import (
    load_checkpoint,
    save_checkpoint,
    simulation_identity,
)
from physnet_ase.simulate.settings import SimulationSettings
from physnet_ase.simulate.system import System, checked_atoms
from physnet_ase.simulate.trajectory import (
    Recorder,
    Trajectory,
    check_folder,
    check_trajectory,
)
from physnet_ase.state import ElectronicState, resolve_state

logger = logging.getLogger(__name__)
MAX_REALLOCATIONS = 12
"""A neighbour list that overflows is doubled; after this many times it is an error."""


@dataclass(frozen=True)
class SimulationProgress:
    """Handed to ``on_progress`` after every block."""

    step: int
    steps: int
    temperature_K: float
    total_energy: float  # eV, atomic references included
    drift: float  # meV/atom/ps of the conserved energy so far
    seconds: float  # since the call began


class SimulationJob:
    """A simulation under way: where it stands, and what is needed to continue it."""

    def __init__(self, system: System, recorder: Recorder) -> None:
        self.system, self.recorder = system, recorder
        self._observe = jax.jit(system.observe)
        self.step = 0
        self.positions, self.box, self.extra = system.start_positions(), system.box, 0
        self.neighbor = system.allocate(self.positions, self.box, self.extra)
        self.state = system.start(self.neighbor)

    def observe(self) -> dict[str, np.ndarray]:
        """The frame at the present step."""
        return jax.device_get(self._observe(self.state, self.neighbor))

    def advance(self, stop: int) -> None:
        """Run to ``stop`` in one compiled block; redo it while its list overflows."""
        for _ in range(MAX_REALLOCATIONS):
            block = self.system.block(
                self.state, self.neighbor, jnp.int32(self.step), jnp.int32(stop)
            )
            if not block.full:
                break
            self.extra = max(2 * self.extra, 2)
            logger.info("neighbour list full before step %d: enlarged", stop)
            self.positions = self.state.position
            self.box = self.system.box_of(self.state)
            self.neighbor = self.system.allocate(self.positions, self.box, self.extra)
        else:
            raise RuntimeError(
                f"the neighbour list still overflows in steps {self.step}..{stop} with "
                f"room for {self.extra} more neighbours per atom; the system has "
                "probably collapsed: reduce timestep_fs or relax the structure first"
            )
        bad, system = int(block.bad_step), self.system
        steps = np.asarray(block.steps)[: int(block.num_frames)]
        frames = jax.device_get(block.frames)
        rows = [row for row, step in enumerate(steps) if not bad or step < bad]
        self.recorder.add(
            steps[rows], [{key: x[row] for key, x in frames.items()} for row in rows]
        )
        if bad:
            raise FloatingPointError(
                f"step {bad} ({bad * system.settings.timestep_fs} fs): positions "
                "or momenta are no longer finite; the last good frame is that of step "
                f"{int(self.recorder.rows[-1][0])}. Reduce timestep_fs, relax the "
                "structure first, or check whether the model knows such geometries"
                + (f". {system.box_report(self.state)}" if system.npt else "")
            )
        self.state, self.neighbor, self.step = block.state, block.neighbor, stop
        self._check_temperature(len(rows))

    def _check_temperature(self, num_frames: int) -> None:
        """Refuse to go on with numbers that are finite and nonsense all the same."""
        limit = self.system.settings.max_temperature_K
        for step, _, kinetic, _ in self.recorder.rows[-num_frames:]:
            temperature = float(self.recorder.temperature(kinetic))
            if temperature > limit:
                settings = self.system.settings
                raise FloatingPointError(
                    f"step {int(step)} ({step * settings.timestep_fs:g} fs): the atoms "
                    f"are at {temperature:.0f} K, above max_temperature_K = {limit:g}. "
                    f"Reduce timestep_fs (now {settings.timestep_fs}), relax the "
                    "structure first, or check whether the model knows such geometries"
                )

    def progress(self, seconds: float) -> SimulationProgress:
        """Where the simulation stands."""
        _, potential, kinetic, _ = self.recorder.rows[-1]
        return SimulationProgress(
            step=self.step,
            steps=self.system.settings.steps,
            temperature_K=float(self.recorder.temperature(kinetic)),
            total_energy=float(potential + kinetic),
            drift=self.recorder.drift(),
            seconds=seconds,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All that a bit-identical continuation needs."""
        leaves = jax.tree_util.tree_leaves_with_path(self.state)
        state = {f"state{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}
        box = np.zeros(()) if self.box is None else self.box
        return self.recorder.arrays() | {
            key: np.asarray(value)
            for key, value in {
                **state,
                "step": self.step,
                "allocation_positions": self.positions,
                "allocation_box": box,
                "allocation_extra": self.extra,
                "neighbor_idx": self.neighbor.idx,
                "neighbor_positions": self.neighbor.reference_position,
            }.items()
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from what :meth:`arrays` returned."""
        self.step = int(arrays["step"])
        self.recorder.restore(arrays)
        self.positions = jnp.asarray(arrays["allocation_positions"])
        self.extra = int(arrays["allocation_extra"])
        if self.box is not None:
            self.box = jnp.asarray(arrays["allocation_box"])
        neighbor = self.system.allocate(self.positions, self.box, self.extra)
        self.neighbor = neighbor.set(
            idx=jnp.asarray(arrays["neighbor_idx"]),
            reference_position=jnp.asarray(arrays["neighbor_positions"]),
        )
        self.state = jax.tree_util.tree_map_with_path(
            lambda path, _: jnp.asarray(arrays[f"state{jax.tree_util.keystr(path)}"]),
            self.state,
        )


def simulation_state(atoms: Atoms, settings: SimulationSettings) -> ElectronicState:
    """State of the atoms; refuses a setting that ``atoms.info`` contradicts."""
    state = resolve_state(atoms, settings.charge, settings.multiplicity)
    for name in ("charge", "multiplicity"):
        asked, found = getattr(settings, name), getattr(state, name)
        if asked is not None and asked != found:
            raise ValueError(
                f"{name}={asked} was passed, but atoms.info says {found}; change one"
            )
    return state


def run(
    atoms: Atoms,
    potential: Potential | str | Path,
    *,
    trajectory: str | Path | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[SimulationProgress], None] | None = None,
    **settings: Any,
) -> Trajectory:
    """Run molecular dynamics and return its summary.

    Starts from the momenta of ``atoms`` if it has any, else from Maxwell-Boltzmann
    ones. Frames go to disk after every block of steps. Positions in periodic cells are
    wrapped into the cell. The sampling is that of jax-md's integrators.

    Args:
        atoms: Molecule, or cell with three periodic directions. Not changed.
        potential: A potential, or the path or name of one.
        trajectory: ``.extxyz``, ``.xyz`` or ``.traj`` file.
        checkpoint: File to continue from, written every ``checkpoint_every`` steps and
            at the end.
        resume: Continue from ``checkpoint``; digit for digit what a run without
            interruption gives on the same machine. Pass the same ``atoms`` and settings
            as before; only ``steps`` may differ.
        overwrite: Replace a trajectory that exists already.
        on_progress: Called after every block.
        **settings: Fields of :class:`~physnet_ase.dynamics.SimulationSettings`:
            ``ensemble`` ("nve", "nvt-langevin", "nvt-nose-hoover", "npt"), ``charge``,
            ``multiplicity``, ``temperature_K``, ``timestep_fs``, ``steps``,
            ``save_every``, ``seed`` and more.

    Raises:
        ValueError: A setting, state, structure or file is refused.
        FloatingPointError: The motion left the finite numbers, or the atoms became
            hotter than ``max_temperature_K``; names the step.
    """
    began = time.perf_counter()
    chosen = SimulationSettings(**settings)
    model = potential if isinstance(potential, Potential) else load_potential(potential)
    if resume and checkpoint is None:
        raise ValueError("resume=True needs checkpoint=, the file to continue from")
    if trajectory is not None:
        check_trajectory(Path(trajectory), may_exist=resume or overwrite)
    if checkpoint is not None:
        check_folder(Path(checkpoint))
    state = simulation_state(atoms, chosen)
    system_atoms = checked_atoms(atoms, state, model.config.cutoff)
    with jax.enable_x64(model.dtype == np.float64), quiet_jax_md():
        system = System(system_atoms, model, state, chosen)
        recorder = Recorder(system, state, atoms.pbc)
        job = SimulationJob(system, recorder)
        identity = simulation_identity(atoms, model, state, chosen)
        if resume:
            job.restore(load_checkpoint(Path(str(checkpoint)), identity))
        recorder.open(trajectory)
        if not resume:
            recorder.add([0], [job.observe()])
        saved = job.step
        while job.step < chosen.steps:
            job.advance(min(job.step + chosen.block_steps, chosen.steps))
            done = job.step == chosen.steps
            if checkpoint is not None and (
                done or job.step - saved >= chosen.checkpoint_every
            ):
                save_checkpoint(Path(checkpoint), job.arrays(), identity)
                saved = job.step
            progress = job.progress(time.perf_counter() - began)
            logger.info("%s", progress)
            if on_progress is not None:
                on_progress(progress)
        last = recorder.last or (job.step, job.observe())
        return recorder.summary(last, time.perf_counter() - began)
