"""A simulation under way: blocks, neighbour lists that grow, restarts."""

import hashlib
import logging
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms

from physnet_ase.dynamics import SimulationSettings
from physnet_ase.potential import Potential
from physnet_ase.state import ElectronicState, resolve_state
from physnet_ase.trajectory import Recorder
from physnet_ase.velocities import thermal_momenta

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


class SimulationJob:
    """A simulation under way: where it stands, and what is needed to continue it."""

    def __init__(self, system: Any, recorder: Recorder) -> None:
        self.system, self.recorder = system, recorder
        self._observe = jax.jit(system.observe)
        self.step = 0
        self.positions, self.box, self.extra = system.start_positions(), system.box, 0
        self.neighbor = system.allocate(self.positions, self.box, self.extra)
        atoms, settings = system.atoms, system.settings
        momenta = atoms.get_momenta()
        if not momenta.any():
            momenta = thermal_momenta(
                atoms,
                settings.temperature_K,
                settings.seed,
                ensemble=settings.ensemble,
            )
        self.state = system.start(momenta, self.neighbor)

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

    def progress(self, seconds: float) -> Progress:
        """Where the simulation stands."""
        _, potential, kinetic, _ = self.recorder.rows[-1]
        return Progress(
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


def simulation_identity(
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
        atoms.numbers,
        atoms.positions,
        atoms.cell.array,
        atoms.pbc,
        atoms.get_masses(),
    ):
        structure.update(np.ascontiguousarray(array).tobytes())
    free = {"steps", "charge", "multiplicity", "checkpoint_every"}
    return settings.model_dump(exclude=free) | {
        "atoms": structure.hexdigest()[:16],
        "weights": weights.hexdigest()[:16],
        "dtype": str(potential.dtype),
        "state": str(state),
    }
