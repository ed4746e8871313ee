"""Molecular dynamics through jax-md: NVE, NVT and NPT from an ``ase.Atoms``.

Importing this imports jax_md (seconds). Time is in fs, mass in amu, energy in eV; the
conversion to jax-md's time unit Å·sqrt(amu/eV) happens in :func:`make_integrator` only.
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.units import GPa
from jax_md import simulate, space

from physnet_ase.checkpoint import load_potential
from physnet_ase.dynamics import (
    BlockFns,
    Coordinates,
    SimulationSettings,
    bath_energy,
    compile_block,
    quiet_jax_md,
    settle,
)
from physnet_ase.jaxmd import physnet_neighbor_list
from physnet_ase.neighbors import Structure
from physnet_ase.potential import Potential
from physnet_ase.simulation_job import (
    Progress,
    SimulationJob,
    simulation_identity,
    simulation_state,
)
from physnet_ase.state import ElectronicState
from physnet_ase.trajectory import (
    Recorder,
    Trajectory,
    load_checkpoint,
    save_checkpoint,
)
from physnet_ase.units import BOLTZMANN, FEMTOSECOND
from physnet_ase.velocities import degrees_of_freedom

logger = logging.getLogger(__name__)


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
        return simulate.nvt_nose_hoover(energy_fn, shift_fn, timestep, thermal, tau=tau)
    return _npt_integrator(settings, energy_fn, shift_fn, (timestep, thermal, tau))


def _npt_integrator(
    settings: SimulationSettings,
    energy_fn: Callable[..., Any],
    shift_fn: Any,
    converted: tuple[float, float, float],
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """jax-md's NPT for fractional coordinates, with its position step put right.

    jax-md 0.2.29 scales fractional positions with the box although the box itself does
    so already: it moves an atom at fraction s by s (eˣ - 1) Å too far, x being the
    growth of the box in this step, and the conserved energy strays a thousand times
    more than the time step explains. The displacement is taken out again here.
    """
    timestep, thermal, tau = converted

    def build(shift: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
        return simulate.npt_nose_hoover(
            energy_fn,
            shift,
            timestep,
            settings.pressure_GPa * GPa,
            thermal,
            barostat_kwargs={"tau": settings.barostat_fs * FEMTOSECOND},
            thermostat_kwargs={"tau": tau},
        )

    def step_fn(state: Any, **kwargs: Any) -> Any:
        before = state.box

        def shift(position: Any, step: Any, *, box: Any) -> Any:
            growth = box[0, 0] / before[0, 0] - 1.0
            return shift_fn(position, step - position * growth, box=box)

        return build(shift)[1](state, **kwargs)

    return build(shift_fn)[0], step_fn


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
        self.cutoff = potential.config.cutoff
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
        # jax-md measures how far atoms moved in fractions of the box, so that a box
        # that shrinks would go unnoticed: with NPT every step builds a new list.
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
        # jax-md counts 3N. What is conserved holds no heat, and would make a molecule
        # of three atoms three times too hot.
        for name in ("chain", "thermostat"):
            if hasattr(state, name):
                chain = getattr(state, name).set(degrees_of_freedom=max(self.dof, 1))
                state = state.set(**{name: chain})
        return settle(state, self.dtype)

    def box_report(self, state: Any) -> str:
        """How large the box was before the block, and how small it must not become."""
        sides = jnp.linalg.norm(state.box, axis=0)
        return (
            f"The box had sides of {', '.join(f'{s:.2f}' for s in sides)} Å when the "
            f"block began; thinner than {2.0 * self.cutoff} Å, it gives NaN"
        )

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
            "bath": bath_energy(state, self.settings).astype(self.dtype),
        }


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

    Starts from the momenta of ``atoms`` if it has any, else from Maxwell-Boltzmann
    ones. Frames go to disk after every block of steps. Positions in periodic cells are
    wrapped into the cell. The sampling is that of jax-md's integrators.

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
    model = potential if isinstance(potential, Potential) else load_potential(potential)
    if resume and checkpoint is None:
        raise ValueError("resume=True needs checkpoint=, the file to continue from")
    Structure.from_atoms(atoms)
    state = simulation_state(atoms, chosen)
    with jax.enable_x64(model.dtype == np.float64), quiet_jax_md():
        system = _System(atoms, model, state, chosen)
        recorder = Recorder(system, state)
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
