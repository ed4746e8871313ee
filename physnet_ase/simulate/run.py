"""One call from atoms to summaries."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import jax
import numpy as np
from ase import Atoms

from physnet_ase.committee import Committee, Model
from physnet_ase.potential import Potential, load_potential, warn_unfamiliar
from physnet_ase.programs import refuse_after_fork
from physnet_ase.simulate.restart import (
    load_checkpoint,
    save_checkpoint,
    simulation_identity,
)
from physnet_ase.simulate.settings import (
    OWN,
    Event,
    checked_events,
    replica_settings,
)
from physnet_ase.simulate.simulation import Simulation
from physnet_ase.simulate.stops import StopFn, Watch
from physnet_ase.simulate.system import Replica, make_replica
from physnet_ase.simulate.trajectory import (
    Trajectory,
    check_folder,
    trajectory_paths,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SimulationProgress:
    """Handed to ``on_progress`` after every block; means over replicas that run."""

    step: int
    steps: int
    temperature_K: float
    total_energy: float  # eV, atomic references included
    drift: float  # meV/atom/ps of the conserved energy so far
    seconds: float  # since the call began
    running: int = 1  # replicas that have not been stopped
    familiarity: float = float("nan")  # largest of the last frames, if it is known
    stopped: tuple[tuple[int, str], ...] = ()  # replicas and reasons, so far


@overload
def run(
    atoms: Atoms,
    potential: Potential | str | Path,
    *,
    replicas: None = ...,
    events: Sequence[tuple[float, Any]] = ...,
    trajectory: str | Path | None = ...,
    checkpoint: str | Path | None = ...,
    resume: bool = ...,
    overwrite: bool = ...,
    on_progress: Callable[[SimulationProgress], None] | None = ...,
    should_stop: Callable[[], bool] | None = ...,
    stop_when: StopFn | None = ...,
    committee: Sequence[Model] = ...,
    **settings: Any,
) -> Trajectory: ...


@overload
def run(
    atoms: Atoms | Sequence[Atoms],
    potential: Potential | str | Path,
    *,
    replicas: int | None = ...,
    events: Sequence[tuple[float, Any]] = ...,
    trajectory: str | Path | Sequence[str | Path] | None = ...,
    checkpoint: str | Path | None = ...,
    resume: bool = ...,
    overwrite: bool = ...,
    on_progress: Callable[[SimulationProgress], None] | None = ...,
    should_stop: Callable[[], bool] | None = ...,
    stop_when: StopFn | None = ...,
    committee: Sequence[Model] = ...,
    **settings: Any,
) -> Any: ...


def run(
    atoms: Any,
    potential: Potential | str | Path,
    *,
    replicas: int | None = None,
    events: Sequence[tuple[float, Any]] = (),
    trajectory: Any = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[SimulationProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    stop_when: StopFn | None = None,
    committee: Sequence[Model] = (),
    **settings: Any,
) -> Any:
    """Run molecular dynamics of one or many replicas and return their summaries.

    Starts from the momenta of ``atoms`` if it has any, else from Maxwell-Boltzmann
    ones. Frames go to disk after every block of steps; they keep the user's ``info``
    and arrays. Positions are never wrapped into the cell. ``FixAtoms`` is honoured.

    Many replicas run in one compiled program: the same molecule with other seeds, in
    other states, at other temperatures, or different molecules. One that explodes is
    stopped, and says why in ``Trajectory.stopped``; the others go on.

    Args:
        atoms: Molecule or cell, or a list of them. Not changed.
        potential: A potential, or the path or name of one.
        replicas: How often each structure is run, with seeds that count up.
        events: ``(time in fs, state)``: all replicas go on in another state, a
            (charge, multiplicity), from that time. Compiles nothing. The energy it
            costs counts as given to the bath.
        trajectory: ``.extxyz``, ``.traj`` or ``.h5md`` file. Many replicas: one file
            for each, or one name that is numbered.
        checkpoint: File to continue from, written every ``checkpoint_every`` steps and
            at the end.
        resume: Continue from ``checkpoint``; digit for digit what a run without
            interruption gives on the same machine. Pass the same ``atoms`` and settings
            as before; only ``steps`` may differ.
        overwrite: Replace a trajectory that exists already.
        on_progress: Called after every block.
        should_stop: Asked after every block; where it says yes, the checkpoint is
            written and what there is is returned.
        stop_when: Called with the ``Atoms`` of every saved frame; a replica for which
            it returns a reason, or True, ends with that frame.
        committee: Other models of the same molecules. The deviation of all models'
            forces is recorded with every saved frame; ``stop_forces_std`` limits it.
            A model with several heads is a committee by itself where that is set.
        **settings: Fields of :class:`~physnet_ase.simulate.SimulationSettings`:
            ``ensemble`` ("nve", "nvt-langevin", "nvt-nose-hoover", "nvt-csvr", "npt",
            "npt-flexible"),
            ``charge``, ``multiplicity``, ``temperature_K``, ``timestep_fs``, ``steps``,
            ``save_every``, ``seed`` and more; ``stop_familiarity``,
            ``stop_forces_std``, ``stop_distance`` and ``stop_bond_stretch`` end a
            replica with the first saved frame beyond them. ``charge``,
            ``multiplicity``, ``temperature_K``, ``final_temperature_K`` and ``seed``
            may be lists, with one entry for each replica.

    Returns:
        One :class:`Trajectory` for one Atoms, else a list of them.

    Raises:
        ValueError: A setting, state, structure or file is refused.
        FloatingPointError: The motion of one Atoms left the finite numbers, or the
            atoms became hotter than ``max_temperature_K``; names the step.
    """
    began = time.perf_counter()
    refuse_after_fork()
    model = potential if isinstance(potential, Potential) else load_potential(potential)
    several, many = _structures(atoms, replicas, settings)
    chosen = replica_settings(
        settings, len(several), 1 if replicas is None else replicas
    )
    shared = chosen[0]
    if resume and checkpoint is None:
        raise ValueError("resume=True needs checkpoint=, the file to continue from")
    paths = trajectory_paths(
        trajectory, len(chosen), many=many, may_exist=resume or overwrite
    )
    if checkpoint is not None:
        check_folder(Path(checkpoint))
    systems = _replicas(several, model, chosen, many=many)
    _warn_of_unfamiliar(systems, model)
    timetable = checked_events(events, shared.timestep_fs)
    _check_events(timetable, systems, model)
    members = Committee.of([model, *committee]).astype(model.dtype)
    asked = committee or shared.stop_forces_std is not None
    compared = members if asked and members.num_members > 1 else None
    watch = Watch(systems, model, timetable, compared, stop_when)
    with jax.enable_x64(model.dtype == np.float64):
        job = Simulation(systems, model, timetable, watch, raises=not many)
        identity = simulation_identity(systems, model, timetable)
        if resume:
            job.restore(load_checkpoint(Path(str(checkpoint)), identity))
        job.open(paths)
        if not resume:
            job.begin()
        saved = job.step
        while job.step < shared.steps and job.running.any():
            job.advance(_next_stop(job))
            progress = _progress(job, time.perf_counter() - began)
            ends = should_stop is not None and should_stop()
            done = ends or job.step == shared.steps or not job.running.any()
            if checkpoint is not None and (
                done or job.step - saved >= shared.checkpoint_every
            ):
                save_checkpoint(Path(checkpoint), job.arrays(), identity)
                saved = job.step
            logger.info("%s", progress)
            if on_progress is not None:
                on_progress(progress)
            if ends:
                break
        found = job.trajectories(time.perf_counter() - began)
    return found if many else found[0]


def _structures(
    atoms: Any, replicas: int | None, settings: dict[str, Any]
) -> tuple[list[Atoms], bool]:
    """The structures, and whether a list is to be returned."""
    if replicas is not None and replicas < 1:
        raise ValueError(f"replicas must be at least 1, got {replicas}")
    if not isinstance(atoms, Atoms):
        several = list(atoms)
        if not several or not all(isinstance(one, Atoms) for one in several):
            raise ValueError("atoms must be an Atoms or a list of some")
        return several, True
    listed = any(isinstance(settings.get(x), list | tuple | np.ndarray) for x in OWN)
    return [atoms], listed or replicas is not None


def _replicas(
    several: list[Atoms], model: Potential, chosen: list[Any], *, many: bool
) -> list[Replica]:
    found = []
    per_structure = max(len(chosen) // len(several), 1)
    for index, settings in enumerate(chosen):
        try:
            atoms = several[min(index // per_structure, len(several) - 1)]
            found.append(make_replica(atoms, model, settings))
        except ValueError as error:
            if not many:
                raise
            raise ValueError(f"replica {index}: {error}") from error
    return found


def _warn_of_unfamiliar(systems: list[Replica], model: Potential) -> None:
    """Say once of each structure that the model has seen nothing like it."""
    distinct = {(id(one.atoms), one.state): one for one in systems}
    for one in distinct.values():
        warn_unfamiliar(model.known(one.structure), [one.atoms], [0])


def _check_events(
    events: list[Event], systems: list[Replica], model: Potential
) -> None:
    for event in events:
        for system in systems:
            model.check(
                system.atoms.numbers,
                event.state,
                allow_unseen_states=system.settings.allow_unseen_states,
            )


def _next_stop(job: Simulation) -> int:
    """End of the next block: events happen between two blocks."""
    settings = job.settings
    every = settings.block_steps
    stops = [(job.step // every + 1) * every, settings.steps]
    stops += [event.step for event in job.events if event.step > job.step]
    return min(stops)


def _progress(job: Simulation, seconds: float) -> SimulationProgress:
    kinetic, potential = job.kinetic_energies(), job.potential_energies()
    those = np.flatnonzero(job.running)
    if not len(those):
        those = np.arange(len(job.running))
    recorders = [job.recorders[index] for index in those]
    temperatures = [
        recorder.replica.temperature(kinetic[index])
        for index, recorder in zip(those, recorders, strict=True)
    ]
    return SimulationProgress(
        step=job.step,
        steps=job.settings.steps,
        temperature_K=float(np.mean(temperatures)),
        total_energy=float(np.mean((kinetic + potential)[those])),
        drift=float(np.mean([recorder.drift() for recorder in recorders])),
        seconds=seconds,
        running=int(job.running.sum()),
        familiarity=float(max(recorder.rows[-1][7] for recorder in recorders)),
        stopped=tuple(
            (index, recorder.stopped)
            for index, recorder in enumerate(job.recorders)
            if recorder.stopped is not None
        ),
    )
