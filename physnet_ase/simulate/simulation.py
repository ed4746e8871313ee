"""A simulation under way: blocks, frames, events, and replicas that end early."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from physnet_ase.potential import Potential
from physnet_ase.simulate.blocks import Block, Shape, Span, compiled_block
from physnet_ase.simulate.ensembles import Evaluation
from physnet_ase.simulate.settings import Event
from physnet_ase.simulate.stops import ADVICE, Watch
from physnet_ase.simulate.system import PairLists, Replica, Replicas
from physnet_ase.simulate.trajectory import Frame, Recorder, Trajectory
from physnet_ase.state import ElectronicState

logger = logging.getLogger(__name__)
_NEVER = 2**30
"""A step that no simulation reaches."""


class Simulation:
    """Where all replicas stand, and what is needed to continue them."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        potential: Potential,
        events: Sequence[Event],
        watch: Watch,
        *,
        raises: bool,
    ) -> None:
        self.replicas = Replicas(replicas, potential)
        self.potential, self.events, self.raises = potential, list(events), raises
        self.watch = watch
        self.settings = replicas[0].settings
        self.lists = PairLists(self.replicas)
        self.recorders = [
            Recorder(one, its.reference)
            for one, its in zip(replicas, self.lists.divisions, strict=True)
        ]
        self.step = 0
        self.motion = self.replicas.start()
        self.running = np.ones(len(replicas), bool)
        self.ended_at = np.full(len(replicas), -1)  # step of those that do not run

    def open(self, paths: Sequence[Path | None]) -> None:
        """Write frames to these files from here on."""
        for recorder, path in zip(self.recorders, paths, strict=True):
            recorder.open(path)

    def begin(self) -> None:
        """Compute the first forces and record the first frame."""
        block = self._still(save=True)
        self._end_unknown(block)
        self._record(block, np.zeros(len(self.running), np.int64))

    def advance(self, stop: int) -> None:
        """Take steps until ``stop``, or until no replica is left."""
        self._apply_event()
        while self.step < stop and self.running.any():
            span = Span(*self._integers(stop, self.settings.save_every))
            block = self._call(span)
            self.motion = block.motion
            broken_at = np.asarray(block.broken_at)
            reached = int(block.step)
            self._record(block, broken_at)
            self._end_broken(broken_at)
            stale = np.asarray(block.stale)
            if stale.any():
                self._end_runaways(self.lists.refresh(block.motion, stale, reached))
            self.step = reached

    def _integers(self, stop: int, save_every: int) -> list[Any]:
        numbers = self.step, stop, save_every, self.settings.steps
        return [jnp.int32(number) for number in numbers]

    def _call(self, span: Span, *, still: bool = False) -> Block:
        replicas, controls = self.replicas, self.replicas.controls
        if still:
            controls = controls._replace(timestep=jnp.zeros_like(controls.timestep))
        arguments = (
            replicas.params,
            replicas.bodies,
            controls,
            self.lists.surroundings(),
            self.motion,
            jnp.asarray(self.running),
            span,
        )
        lots = replicas.chunks(self.lists.divisions)
        shape = Shape(self.potential.config, self.settings.ensemble, lots)
        program = compiled_block(shape, *arguments)
        block: Block = program(*arguments)
        return block

    def _still(self, *, save: bool) -> Block:
        """A step of no length: forces of the present positions in the present state."""
        now = self.step - 1, self.step, 1 if save else _NEVER, _NEVER
        block = self._call(Span(*map(jnp.int32, now)), still=True)
        self.motion = block.motion
        return block

    def _apply_event(self) -> None:
        """Change the state if this is the time; shapes stay, so nothing compiles."""
        event = next((one for one in self.events if one.step == self.step), None)
        if event is None or not self.running.any():
            return
        before = np.asarray(self.motion.found.energy, np.float64)
        self.lists.set_states(
            [
                event.state if runs else recorder.state
                for runs, recorder in zip(self.running, self.recorders, strict=True)
            ]
        )
        block = self._still(save=False)
        self._end_unknown(block)
        after = np.asarray(block.motion.found.energy, np.float64)
        for index, recorder in enumerate(self.recorders):
            if not self.running[index]:
                continue
            reference = self.lists.divisions[index].reference
            jump = after[index] - before[index] + reference - recorder.reference
            recorder.change_state(event.state, reference, float(jump))

    def _record(self, block: Block, broken_at: np.ndarray) -> None:
        """Hand the frames of a block to the recorders; end what meets a condition."""
        count = int(block.num_frames)
        if not count:
            return
        steps = np.asarray(block.steps)[:count].tolist()
        frames = jax.device_get(jax.tree.map(lambda x: x[:count], block.frames))
        taken = {}
        for index in np.flatnonzero(self.running).tolist():
            end = int(broken_at[index]) or _NEVER
            taken[index] = [
                (step, self._slice(frames, row, index))
                for row, step in enumerate(steps)
                if step < end
            ]
        for index, (scores, stop) in self.watch.look(self.recorders, taken).items():
            kept = len(scores) if stop is None else stop.row + 1
            self.recorders[index].add(taken[index][:kept], scores[:kept])
            if stop is not None:
                step, last = taken[index][stop.row]
                self._put_back(index, last)
                reason = f"{self._named(step)}: {stop.reason}"
                self._end(index, step, reason, nonsense=stop.nonsense)

    def _slice(self, frames: dict[str, Any], row: int, index: int) -> Frame:
        rows = self.replicas.rows(index)
        per_atom = {"positions", "momenta", "forces", "charges"}
        return {
            key: array[row, rows] if key in per_atom else array[row, index]
            for key, array in frames.items()
        }

    def _put_back(self, index: int, frame: Frame) -> None:
        """Let a replica stand where its last frame was taken."""
        rows, motion = self.replicas.rows(index), self.motion
        found = Evaluation(
            energy=motion.found.energy.at[index].set(frame["potential"]),
            forces=motion.found.forces.at[rows].set(frame["forces"]),
            charges=motion.found.charges.at[rows].set(frame["charges"]),
            virial=motion.found.virial.at[index].set(frame["virial"]),
        )
        self.motion = motion._replace(
            found=found,
            positions=motion.positions.at[rows].set(frame["positions"]),
            momenta=motion.momenta.at[rows].set(frame["momenta"]),
            deformation=motion.deformation.at[index].set(frame["deformation"]),
        )

    def _end_broken(self, broken_at: np.ndarray) -> None:
        """Stop replicas by the step that left the finite numbers; 0: none did."""
        for index in np.flatnonzero((broken_at > 0) & self.running).tolist():
            recorder, step = self.recorders[index], int(broken_at[index])
            last = int(recorder.rows[-1][0])
            self._end(
                index,
                step - 1,
                f"{self._named(step)}: positions, momenta or forces are no longer "
                f"finite; the last good frame is that of step {last}. {ADVICE}",
            )

    def _end_unknown(self, block: Block) -> None:
        """Stop replicas for which the model has no finite energy or forces."""
        for index in np.flatnonzero(self.running & ~np.asarray(block.running)).tolist():
            self._end(
                index,
                self.step,
                f"step {self.step}: the model gives no finite energy and forces for "
                "this structure and state; check both",
            )

    def _end_runaways(self, lost: list[int]) -> None:
        for index in lost:
            self._end(
                index,
                self.step,
                f"{self._named(self.step + 1)}: an atom moves further in one step than "
                "a neighbour list can follow; the system has probably collapsed or "
                f"exploded. {ADVICE}",
            )

    def _named(self, step: int) -> str:
        return f"step {step} ({step * self.settings.timestep_fs:g} fs)"

    def _end(
        self, index: int, step: int, reason: str, *, nonsense: bool = True
    ) -> None:
        if not self.running[index]:
            return
        if self.raises and nonsense:
            raise FloatingPointError(reason)
        logger.warning("replica %d stopped: %s", index, reason)
        self.running[index], self.ended_at[index] = False, step
        self.recorders[index].stopped = reason

    def kinetic_energies(self) -> np.ndarray:
        """Of all replicas now, eV."""
        momenta = np.asarray(self.motion.momenta, np.float64)
        masses = np.asarray(self.replicas.bodies.masses, np.float64)
        per_atom = 0.5 * np.sum(momenta**2, axis=1) / masses
        sums: np.ndarray = np.add.reduceat(per_atom, self.replicas.first_atom)
        return sums

    def potential_energies(self) -> np.ndarray:
        """Of all replicas now, eV, references included."""
        references = [recorder.reference for recorder in self.recorders]
        return np.asarray(self.motion.found.energy, np.float64) + references

    def trajectories(self, seconds: float) -> list[Trajectory]:
        """Summary of each replica."""
        motion = jax.device_get(self.motion)
        kinetic = self.kinetic_energies()
        found = []
        for index, recorder in enumerate(self.recorders):
            rows = self.replicas.rows(index)
            frame = {
                "positions": motion.positions[rows],
                "momenta": motion.momenta[rows],
                "forces": motion.found.forces[rows],
                "charges": motion.found.charges[rows],
                "potential": motion.found.energy[index],
                "virial": motion.found.virial[index],
                "kinetic": kinetic[index],
                "deformation": motion.deformation[index],
            }
            ended = int(self.ended_at[index])
            step = self.step if ended < 0 else ended
            found.append(recorder.summary(recorder.atoms(step, frame), seconds))
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """All that a bit-identical continuation needs."""
        leaves = jax.tree_util.tree_leaves_with_path(self.motion)
        arrays = {f"motion{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}
        for index, recorder in enumerate(self.recorders):
            arrays |= {f"{index}.{key}": x for key, x in recorder.arrays().items()}
        arrays |= {
            "step": self.step,
            "running": self.running,
            "ended_at": self.ended_at,
            **self.lists.arrays(),
        }
        return {key: np.asarray(value) for key, value in arrays.items()}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from what :meth:`arrays` returned."""
        self.step = int(arrays["step"])
        self.running = arrays["running"].copy()
        self.ended_at = arrays["ended_at"].copy()
        self.lists.restore(arrays)
        self.motion = jax.tree_util.tree_map_with_path(
            lambda path, _: jnp.asarray(arrays[f"motion{jax.tree_util.keystr(path)}"]),
            self.motion,
        )
        self.lists.set_states(
            [
                ElectronicState(*arrays[f"{index}.state"].tolist())
                for index in range(len(self.recorders))
            ]
        )
        for index, recorder in enumerate(self.recorders):
            prefix = f"{index}."
            own = {
                key.removeprefix(prefix): array
                for key, array in arrays.items()
                if key.startswith(prefix)
            }
            state = ElectronicState(*own["state"].tolist())
            reference = self.lists.divisions[index].reference
            recorder.change_state(state, reference, 0.0)
            goes_on = bool(self.running[index]) and self.settings.steps > self.step
            recorder.restore(own, goes_on=goes_on)
