"""What a simulation is made of that needs no jax_md: settings, coordinates, blocks."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.units import GPa
from jaxtyping import Array, Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field, model_validator

from physnet_ase.units import BOLTZMANN


class SimulationSettings(BaseModel):
    """What ``simulate.run`` accepts by keyword; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ensemble: Literal["nve", "nvt-langevin", "nvt-nose-hoover", "npt"] = "nve"
    charge: int | None = Field(None, description="e; None: from the atoms")
    multiplicity: int | None = Field(None, description="2S+1; None: from the atoms")
    allow_unseen_states: bool = False
    temperature_K: float = Field(300.0, ge=0, description="initial, and of the bath")
    timestep_fs: float = Field(0.5, gt=0)
    steps: int = Field(1000, ge=1, description="total, those before a restart included")
    save_every: int = Field(10, ge=1, description="steps between saved frames")
    block_steps: int = Field(100, ge=1, description="steps in one compiled call")
    seed: int = Field(0, ge=0)
    checkpoint_every: int = Field(1000, ge=1, description="steps between checkpoints")
    skin: float = Field(0.5, gt=0, description="Å the neighbour list reaches further")
    friction_per_ps: float = Field(10.0, gt=0, description="Langevin")
    thermostat_fs: float = Field(50.0, gt=0, description="Nosé-Hoover period")
    pressure_GPa: float = Field(1e-4, description="NPT, isotropic; 1e-4 is 1 bar")
    barostat_fs: float = Field(500.0, gt=0, description="NPT barostat period")

    @model_validator(mode="after")
    def _check_bath(self) -> "SimulationSettings":
        if self.ensemble != "nve" and self.temperature_K == 0:
            raise ValueError(f"{self.ensemble} needs temperature_K above 0")
        return self


class Coordinates:
    """Between an ASE cell and jax-md: open systems centred, cells as fractions.

    jax-md wants an upper triangular box with the lattice vectors as columns; the cell
    is rotated there, and momenta and forces are rotated back.
    """

    def __init__(self, atoms: Atoms) -> None:
        self.atoms = atoms
        if atoms.pbc.any() and not (atoms.pbc.all() and atoms.cell.rank == 3):
            raise ValueError(
                "jax-md needs three periodic directions with lattice vectors, or none; "
                f"got pbc={atoms.pbc.tolist()} and a cell of rank {atoms.cell.rank}. "
                "Use ASE's dynamics with PhysNetCalculator for slabs and wires"
            )
        self.periodic = bool(atoms.pbc.all())
        self.box: np.ndarray | None = None  # [3, 3] Å
        self.rotation = np.eye(3)
        if self.periodic:
            lower, rotation = atoms.cell.standard_form()
            signs = np.sign(np.diag(lower.array))
            self.box = (lower.array * signs).T  # positive lengths on the diagonal
            self.rotation = signs[:, None] * rotation

    def positions(self) -> np.ndarray:
        """Fractions of the cell within 0..1, or Å from the centre in open systems."""
        if self.periodic:
            return self.atoms.get_scaled_positions(wrap=True)
        # Near the origin float32 keeps the digits that distances need.
        return self.atoms.positions - self.atoms.positions.mean(axis=0)

    def rotate(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors of the atoms' frame, (N, 3), in jax-md's frame."""
        return vectors @ self.rotation.T

    def frame(self, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Positions, momenta, forces and cell of a record, in the atoms' frame."""
        position = record["position"].astype(np.float64)
        if self.periodic:
            cell = record["box"].astype(np.float64).T @ self.rotation
            position = position @ cell
        else:
            cell = self.atoms.cell.array
            position = position + self.atoms.positions.mean(axis=0)
        return {
            "positions": position,
            "cell": cell,
            "momenta": record["momentum"].astype(np.float64) @ self.rotation,
            "forces": record["force"].astype(np.float64) @ self.rotation,
        }


class BlockFns(NamedTuple):
    """What a block calls; ``neighbor`` and ``state`` are jax-md's."""

    step: Callable[[Any, Any], Any]  # (state, neighbor) → state
    update: Callable[[Any, Any], Any]  # (state, neighbor) → neighbor
    observe: Callable[
        [Any, Any], dict[str, Any]
    ]  # (state, neighbor) → a frame's arrays


class Block(NamedTuple):
    """Outcome of a block."""

    state: Any
    neighbor: Any
    bad_step: Int[Array, ""]  # first step with a number that is not finite, 0: none
    full: Bool[Array, ""]  # the neighbour list overflowed: redo the block
    num_frames: Int[Array, ""]  # frames that were saved
    steps: Int[Array, " frames"]  # the step of each frame
    frames: dict[str, Array]  # [frames, …] each; rows beyond num_frames hold zeros


def compile_block(fns: BlockFns, save_every: int, block_steps: int) -> Any:
    """Return a jitted ``block(state, neighbor, step, stop) -> Block``.

    Step numbers are traced: short last blocks and restarts run the same machine code,
    so that they cannot change a digit.
    """
    size = -(-block_steps // save_every) + 1

    def one_step(index: Any, carry: Any) -> Any:
        state, neighbor, bad = carry
        neighbor = fns.update(state, neighbor)
        state = fns.step(state, neighbor)
        finite = jnp.isfinite(jnp.sum(state.position) + jnp.sum(state.momentum))
        return state, neighbor, jnp.where((bad == 0) & ~finite, index + 1, bad)

    def one_frame(stop: Any, step: Any, block: Block) -> tuple[Any, Block]:
        target = jnp.minimum((step // save_every + 1) * save_every, stop)
        state, neighbor, bad = jax.lax.fori_loop(
            step, target, one_step, (block.state, block.neighbor, block.bad_step)
        )
        row = block.num_frames
        frames = jax.tree.map(
            lambda all_rows, new: all_rows.at[row].set(new),
            block.frames,
            fns.observe(state, neighbor),
        )
        steps = block.steps.at[row].set(target)
        return target, Block(state, neighbor, bad, block.full, row + 1, steps, frames)

    def block(state: Any, neighbor: Any, step: Any, stop: Any) -> Block:
        frames = jax.tree.map(
            lambda x: jnp.zeros((size, *x.shape), x.dtype),
            jax.eval_shape(fns.observe, state, neighbor),
        )
        none = jnp.zeros((), step.dtype)
        steps = jnp.zeros(size, step.dtype)
        start = Block(state, neighbor, none, jnp.asarray(False), none, steps, frames)
        _, end = jax.lax.while_loop(
            lambda carry: carry[0] < stop,
            lambda carry: one_frame(stop, *carry),
            (step, start),
        )
        neighbor = fns.update(end.state, end.neighbor)
        full = (neighbor.did_buffer_overflow | neighbor.cell_size_too_small) != 0
        return end._replace(neighbor=neighbor, full=full)

    return jax.jit(block)


def settle(state: Any, dtype: np.dtype[Any]) -> Any:
    """Give all floats of a state one dtype and no weak types.

    jax-md mixes them; a loop needs the same types before and after a step, and a
    restart those of the first run.
    """

    def cast(leaf: Any) -> Any:
        array = np.asarray(leaf)
        return jnp.asarray(array, dtype if array.dtype.kind == "f" else None)

    return jax.tree.map(cast, state)


def bath_energy(state: Any, settings: SimulationSettings) -> Float[Array, ""]:
    """Energy of thermostat and barostat in eV; with the system's own it is conserved.

    Nosé-Hoover chains: Σ p²/2Q + kT (g ξ₁ + ξ₂ + …), g being the degrees of freedom a
    chain is coupled to (Martyna, Klein & Tuckerman, J. Chem. Phys. 1992, 97, 2635,
    Eq. 2.15); with NPT also the kinetic energy of the box and P V. NaN for Langevin
    dynamics, which conserves nothing.
    """
    if settings.ensemble == "nvt-langevin":
        return jnp.full((), jnp.nan)
    names = [n for n in ("chain", "thermostat", "barostat") if hasattr(state, n)]
    energy = jnp.zeros(())
    for chain in (getattr(state, name) for name in names):
        weights = jnp.ones_like(chain.position).at[0].set(chain.degrees_of_freedom)
        thermal = BOLTZMANN * settings.temperature_K
        energy = energy + jnp.sum(chain.momentum**2 / (2.0 * chain.mass))
        energy = energy + thermal * jnp.sum(weights * chain.position)
    if settings.ensemble == "npt":
        energy = energy + state.box_momentum**2 / (2.0 * state.box_mass)
        volume = jnp.linalg.det(state.box)
        energy = energy + settings.pressure_GPa * GPa * volume
    return energy


@contextmanager
def quiet_jax_md() -> Iterator[None]:
    """Hide what jax-md says about its own 64-bit sums and indices; nothing of ours."""
    with warnings.catch_warnings():
        for message in (
            "Explicitly requested dtype",
            "scatter inputs have incompatible types",
        ):
            warnings.filterwarnings("ignore", message=message, module=r"jax\b.*")
        yield
