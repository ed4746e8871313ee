"""Molecular dynamics through jax-md: NVE, NVT and NPT from an ``ase.Atoms``.

Importing this imports jax_md (seconds). Time is in fs, mass in amu, energy in eV; the
conversion to jax-md's time unit Å·sqrt(amu/eV) happens in :func:`make_integrator` only.
"""

import hashlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.units import GPa
from jax_md import simulate, space

from physnet_ase.dynamics import (
    BlockFns,
    Coordinates,
    SimulationSettings,
    chain_energy,
    compile_block,
)
from physnet_ase.jaxmd import physnet_neighbor_list
from physnet_ase.neighbors import Structure
from physnet_ase.potential import Potential, load_potential
from physnet_ase.state import ElectronicState, resolve_state
from physnet_ase.trajectory import (
    Recorder,
    Trajectory,
    load_checkpoint,
    save_checkpoint,
)
from physnet_ase.units import BOLTZMANN, FEMTOSECOND
from physnet_ase.velocities import degrees_of_freedom, thermal_momenta

logger = logging.getLogger(__name__)
MAX_REALLOCATIONS = 12
"""A neighbour list that overflows is doubled; after this many times it is an error."""


@dataclass(frozen=True)
class Progress:
    """Handed to ``on_progress`` after every block."""

    step: int
    steps: int
    temperature_K: float
    total_energy: float  # eV, atomic references included
    drift: float  # meV/atom/ps of the conserved energy so far
    seconds: float  # since the call began


def make_integrator(
    settings: SimulationSettings, energy_fn: Callable[..., Any], shift_fn: Any
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return jax-md's (init_fn, step_fn) of an ensemble; the one place that converts.

    Args:
        settings: Ensemble, time step (fs), temperature (K) and so on.
        energy_fn: Energy in eV of positions in Å.
        shift_fn: From ``jax_md.space``.
    """
    timestep = settings.timestep_fs * FEMTOSECOND
    thermal = BOLTZMANN * settings.temperature_K
    if settings.ensemble == "nve":
        init_fn, step_fn = simulate.nve(energy_fn, shift_fn, timestep)
        return partial(init_fn, kT=thermal), step_fn
    if settings.ensemble == "nvt-langevin":
        friction = settings.friction_per_ps / (1000.0 * FEMTOSECOND)
        return simulate.nvt_langevin(
            energy_fn, shift_fn, timestep, thermal, gamma=friction
        )
    tau = settings.thermostat_fs * FEMTOSECOND
    if settings.ensemble == "nvt-nose-hoover":
        return simulate.nvt_nose_hoover(
            energy_fn, shift_fn, timestep, thermal, tau=tau
        )
    return simulate.npt_nose_hoover(
        energy_fn,
        shift_fn,
        timestep,
        settings.pressure_GPa * GPa,
        thermal,
        barostat_kwargs={"tau": settings.barostat_fs * FEMTOSECOND},
        thermostat_kwargs={"tau": tau},
    )


class _System:
    """Atoms made ready for jax-md: coordinates, neighbour list, compiled blocks."""

    def __init__(
        self,
        atoms: Atoms,
        potential: Potential,
        state: ElectronicState,
        settings: SimulationSettings,
    ) -> None:
        self.atoms, self.settings, self.dtype = atoms, settings, potential.dtype
        self.coordinates = Coordinates(atoms)
        self.npt = settings.ensemble == "npt"
        if self.npt and not self.coordinates.periodic:
            raise ValueError("npt needs a periodic cell; use nvt for an open system")
        self.reference = potential.reference_energy(atoms.numbers, state)
        self.dof = degrees_of_freedom(atoms, settings.ensemble)
        self.box = None
        displacement, shift = space.free()
        if self.coordinates.periodic:
            self.box = jnp.asarray(self.coordinates.box, self.dtype)
            displacement, shift = space.periodic_general(self.box)
        # jax-md measures how far atoms moved in fractions of the box, so that a box that
        # shrinks would go unnoticed: with NPT every step builds a new list.
        self.neighbor_fn, self.energy_fn = physnet_neighbor_list(
            displacement,
            self.box,
            potential,
            atoms.numbers,
            state.charge,
            state.multiplicity,
            self.coordinates.periodic,
            allow_unseen_states=settings.allow_unseen_states,
            dr_threshold=0.0 if self.npt else settings.skin,
        )
        self.init_fn, step_fn = make_integrator(settings, self._energy, shift)
        fns = BlockFns(
            step=lambda state, neighbor: step_fn(state, neighbor=neighbor),
            update=lambda state, neighbor: self._update(
                state.position, neighbor, self._box(state)
            ),
            observe=self.observe,
        )
        self.block = compile_block(fns, settings.save_every, settings.block_steps)

    def box_of(self, state: Any) -> Any:
        """Present box; None in open systems."""
        return state.box if self.npt else self.box

    def _box(self, state: Any) -> dict[str, Any]:
        return {"box": state.box} if self.npt else {}

    def start_positions(self) -> Any:
        """Positions of the atoms as jax-md sees them."""
        return jnp.asarray(self.coordinates.positions(), self.dtype)

    def allocate(self, position: Any, box: Any, extra: int) -> Any:
        """Neighbour list with room for ``extra`` more neighbours per atom."""
        kwargs = {"box": box} if self.npt else {}
        return self.neighbor_fn.allocate(position, extra_capacity=extra, **kwargs)

    def _update(self, position: Any, neighbor: Any, box: dict[str, Any]) -> Any:
        # Positions that are no numbers must show up as such, not as a full list.
        position = jnp.where(
            jnp.isfinite(position), position, neighbor.reference_position
        )
        return neighbor.update(position, **box)

    def _energy(self, position: Any, neighbor: Any, **kwargs: Any) -> Any:
        """Energy with a list that fits ``position``, though the step just moved it."""
        box = {key: kwargs[key] for key in ("box",) if key in kwargs}
        neighbor = self._update(*jax.lax.stop_gradient((position, neighbor, box)))
        return self.energy_fn(position, neighbor, **kwargs)

    def start(self, momenta: np.ndarray, neighbor: Any) -> Any:
        """Integrator state at the atoms' positions."""
        box = {"box": self.box} if self.npt else {}
        state = self.init_fn(
            jax.random.PRNGKey(self.settings.seed),
            self.start_positions(),
            mass=jnp.asarray(self.atoms.get_masses(), self.dtype),
            momenta=jnp.asarray(self.coordinates.rotate(momenta), self.dtype),
            neighbor=neighbor,
            **box,
        )
        # jax-md counts 3N. What is conserved holds no heat, and would make a molecule of
        # three atoms three times too hot.
        for name in ("chain", "thermostat"):
            if hasattr(state, name):
                chain = getattr(state, name).set(degrees_of_freedom=max(self.dof, 1))
                state = state.set(**{name: chain})
        return state

    def observe(self, state: Any, neighbor: Any) -> dict[str, Any]:
        """What is kept of a frame, in jax-md's coordinates."""
        box = self._box(state)
        return {
            "position": state.position,
            "momentum": state.momentum,
            "force": state.force,
            "box": jnp.zeros((3, 3)) if self.box is None else self.box_of(state),
            "potential": self._energy(state.position, neighbor, **box),
            "kinetic": 0.5 * jnp.sum(state.momentum**2 / state.mass),
            "bath": self._bath_energy(state).astype(self.dtype),
        }

    def _bath_energy(self, state: Any) -> Any:
        """What thermostat and barostat hold, eV."""
        settings = self.settings
        if settings.ensemble == "nvt-langevin":
            return jnp.full((), jnp.nan)
        thermal = BOLTZMANN * settings.temperature_K
        if not self.npt:
            return chain_energy([state.chain] if hasattr(state, "chain") else [], thermal)
        energy = chain_energy([state.thermostat, state.barostat], thermal)
        volume = jnp.linalg.det(state.box)
        moving = state.box_momentum**2 / (2.0 * state.box_mass)
        return energy + moving + settings.pressure_GPa * GPa * volume


class _Run:
    """A simulation under way: where it stands, and what is needed to continue it."""

    def __init__(self, system: _System, recorder: Recorder) -> None:
        self.system, self.recorder = system, recorder
        self.step = 0
        self.positions, self.box, self.extra = system.start_positions(), system.box, 0
        self.neighbor = system.allocate(self.positions, self.box, self.extra)
        atoms, settings = system.atoms, system.settings
        momenta = atoms.get_momenta()
        if not momenta.any():
            momenta = thermal_momenta(atoms, settings.temperature_K, settings.seed)
        # Through NumPy: a restart must meet the same types, not weaker ones.
        self.state = jax.tree.map(
            lambda x: jnp.asarray(np.asarray(x)), system.start(momenta, self.neighbor)
        )

    def observe(self) -> dict[str, np.ndarray]:
        """The frame at the present step."""
        return jax.device_get(jax.jit(self.system.observe)(self.state, self.neighbor))

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
            self.positions, self.box = self.state.position, self.system.box_of(self.state)
            self.neighbor = self.system.allocate(self.positions, self.box, self.extra)
        else:
            raise RuntimeError(
                f"the neighbour list still overflows between steps {self.step} and {stop} "
                f"with room for {self.extra} more neighbours per atom; the system has "
                "probably collapsed: reduce timestep_fs or relax the structure first"
            )
        bad = int(block.bad_step)
        steps = np.asarray(block.steps)[: int(block.count)]
        frames = jax.device_get(block.frames)
        rows = [row for row, step in enumerate(steps) if not bad or step < bad]
        self.recorder.add(
            steps[rows], [{key: x[row] for key, x in frames.items()} for row in rows]
        )
        if bad:
            raise FloatingPointError(
                f"step {bad} ({bad * self.system.settings.timestep_fs} fs): positions or "
                f"momenta are no longer finite; the last good frame is that of step "
                f"{self.recorder.steps[-1]}. Reduce timestep_fs, relax the structure "
                "first, or check whether the model knows such geometries"
            )
        self.state, self.neighbor, self.step = block.state, block.neighbor, stop

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


def run(
    atoms: Atoms,
    potential: Potential | str | Path,
    *,
    trajectory: str | Path | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> Trajectory:
    """Run molecular dynamics and return its summary.

    Starts from the momenta of ``atoms`` if it has any, else from Maxwell-Boltzmann ones.
    Frames go to disk after every block of steps. Positions in periodic cells are wrapped
    into the cell. The sampling is that of jax-md's integrators.

    Args:
        atoms: Molecule, or cell with three periodic directions. Not changed.
        potential: A potential, or the path or name of one.
        trajectory: ``.extxyz``, ``.xyz`` or ``.traj`` file, replaced unless ``resume``.
        checkpoint: File to continue from, written every ``checkpoint_every`` steps and
            at the end.
        resume: Continue from ``checkpoint``; digit for digit what a run without
            interruption gives on the same machine. Pass the same ``atoms`` and settings
            as before; only ``steps`` may differ.
        on_progress: Called after every block.
        **settings: Fields of :class:`~physnet_ase.dynamics.SimulationSettings`:
            ``ensemble`` ("nve", "nvt-langevin", "nvt-nose-hoover", "npt"), ``charge``,
            ``multiplicity``, ``temperature_K``, ``timestep_fs``, ``steps``,
            ``save_every``, ``seed`` and more.

    Raises:
        ValueError: A setting, state, structure or file is refused.
        FloatingPointError: The motion left the finite numbers; names the step.
    """
    began = time.perf_counter()
    chosen = SimulationSettings(**settings)
    if isinstance(potential, str | Path):
        potential = load_potential(potential)
    if resume and checkpoint is None:
        raise ValueError("resume=True needs checkpoint=, the file to continue from")
    Structure.from_atoms(atoms)
    state = _state(atoms, chosen)
    with jax.enable_x64(potential.dtype == np.float64), _quiet_jax_md():
        system = _System(atoms, potential, state, chosen)
        recorder = Recorder(system.coordinates, system.reference, system.dof, state)
        recorder.timestep_fs = chosen.timestep_fs
        job = _Run(system, recorder)
        identity = _identity(atoms, potential, state, chosen)
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
            progress = _progress(job, time.perf_counter() - began)
            logger.info("%s", progress)
            if on_progress is not None:
                on_progress(progress)
        return recorder.summary(job.observe(), time.perf_counter() - began)


def _state(atoms: Atoms, settings: SimulationSettings) -> ElectronicState:
    """State of the atoms; refuses a setting that ``atoms.info`` contradicts."""
    state = resolve_state(atoms, settings.charge, settings.multiplicity)
    for name in ("charge", "multiplicity"):
        asked, found = getattr(settings, name), getattr(state, name)
        if asked is not None and asked != found:
            raise ValueError(
                f"{name}={asked} was passed, but atoms.info says {found}; change one"
            )
    return state


def _progress(job: _Run, seconds: float) -> Progress:
    summary = job.recorder
    return Progress(
        step=job.step,
        steps=job.system.settings.steps,
        temperature_K=float(summary.temperatures()[-1]),
        total_energy=float(summary.total_energies()[-1]),
        drift=summary.drift(),
        seconds=seconds,
    )


def _identity(
    atoms: Atoms,
    potential: Potential,
    state: ElectronicState,
    settings: SimulationSettings,
) -> dict[str, Any]:
    """What a restart must share with the run it continues."""
    weights, structure = hashlib.sha256(), hashlib.sha256()
    for leaf in jax.tree.leaves(potential.params):
        weights.update(leaf.tobytes())
    for array in (
        atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_masses()
    ):
        structure.update(np.ascontiguousarray(array).tobytes())
    free = {"steps", "charge", "multiplicity", "checkpoint_every"}
    return settings.model_dump(exclude=free) | {
        "atoms": structure.hexdigest()[:16],
        "weights": weights.hexdigest()[:16],
        "dtype": str(potential.dtype),
        "state": str(state),
    }


@contextmanager
def _quiet_jax_md() -> Iterator[None]:
    """Hide what jax-md says about its own 64-bit sums and indices; nothing of ours."""
    with warnings.catch_warnings():
        for message in (
            "Explicitly requested dtype",
            "scatter inputs have incompatible types",
        ):
            warnings.filterwarnings("ignore", message=message, module=r"jax\b.*")
        yield
