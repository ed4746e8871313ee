"""One step of each ensemble, for many replicas at once, and what it conserves.

Atoms of all replicas stand one after another; ``owner`` says whose each is. Everything
that a user can choose is an argument, so that one compiled program serves all choices.
Energies in eV, lengths in Å, masses in amu, times in Å·sqrt(amu/eV).

A step of length zero changes nothing but forces, energies and charges: so they are
first computed, and again after the state has changed.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from physnet_ase.simulate.settings import Ensemble
from physnet_ase.sums import owner_sum

CHAIN_LENGTH = 3
"""Thermostats in a Nosé-Hoover chain."""
_CELL_DRAW = 2**31 - 1
_CUBE_ROOT = 2.0 ** (1.0 / 3.0)
SUZUKI_YOSHIDA = (
    1.0 / (2.0 - _CUBE_ROOT),
    -_CUBE_ROOT / (2.0 - _CUBE_ROOT),
    1.0 / (2.0 - _CUBE_ROOT),
)
"""Weights of a fourth-order splitting, Yoshida, Phys. Lett. A 1990, 150, 262."""


class Evaluation(NamedTuple):
    """What the potential says of a configuration."""

    energy: Float[Array, " replicas"]  # eV, without references
    forces: Float[Array, "atoms 3"]  # eV/Å
    charges: Float[Array, " atoms"]  # e
    virial: Float[Array, "replicas 3 3"]  # eV, dE/dstrain: stress times volume


class Chain(NamedTuple):
    """A Nosé-Hoover chain of each replica."""

    position: Float[Array, "replicas chain"]
    velocity: Float[Array, "replicas chain"]


class Motion(NamedTuple):
    """All that changes from step to step."""

    positions: Float[Array, "atoms 3"]  # Å, never wrapped into the cell
    momenta: Float[Array, "atoms 3"]
    found: Evaluation
    chain: Chain
    cell_chain: Chain
    deformation: Float[Array, "replicas 3 3"]  # cell = cell at start @ deformation
    scale_velocity: Float[Array, " replicas"]
    heat: Float[Array, " replicas"]  # eV given to the bath since the last saved frame


class Bodies(NamedTuple):
    """What moves, and never changes."""

    owner: Int[Array, " atoms"]
    place: Int[Array, " atoms"]  # of an atom in its own replica
    masses: Float[Array, " atoms"]
    mobile: Bool[Array, " atoms"]
    degrees: Float[Array, " replicas"]  # of freedom, at least 1
    volume: Float[Array, " replicas"]  # Å³ at start, 0: open


class Controls(NamedTuple):
    """What the user chose."""

    timestep: Float[Array, ""]
    thermal: Float[Array, " replicas"]  # kT at start
    final_thermal: Float[Array, " replicas"]  # kT when the ramp ends
    ramp_steps: Float[Array, ""]
    friction: Float[Array, ""]
    thermostat_time: Float[Array, ""]
    barostat_time: Float[Array, ""]
    pressure: Float[Array, ""]  # eV/Å³
    compressibility: Float[Array, ""]  # Å³/eV
    keys: UInt32[Array, "replicas 2"]

    def thermal_at(self, step: Int[Array, ""]) -> Float[Array, " replicas"]:
        """Bath's kT in a step."""
        share = jnp.clip((step + 1) / self.ramp_steps, 0.0, 1.0)
        share = share.astype(self.thermal.dtype)
        return self.thermal + share * (self.final_thermal - self.thermal)


EvaluateFn = Callable[
    [Float[Array, "atoms 3"], Float[Array, "replicas 3 3"]], Evaluation
]
"""``evaluate(positions, deformation)``."""


def volume_of(bodies: Bodies, motion: Motion) -> Float[Array, " replicas"]:
    """Volume of each cell now, Å³; 0 of open replicas."""
    first, second, third = jnp.unstack(motion.deformation, axis=1)
    growth = jnp.sum(first * jnp.cross(second, third), axis=1)
    return bodies.volume * growth


def kinetic_energy(
    bodies: Bodies, momenta: Float[Array, "atoms 3"]
) -> Float[Array, " replicas"]:
    """Kinetic energy of each replica, eV."""
    per_atom = 0.5 * jnp.sum(momenta**2, axis=1) / bodies.masses
    return replica_sum(bodies, per_atom)


def replica_sum(
    bodies: Bodies, per_atom: Float[Array, "atoms ..."]
) -> Float[Array, "replicas ..."]:
    """Sum over the atoms of each replica."""
    return owner_sum(per_atom, bodies.owner, bodies.degrees.shape[0])


def take_step(
    ensemble: Ensemble,
    evaluate: EvaluateFn,
    bodies: Bodies,
    controls: Controls,
    motion: Motion,
    step: Int[Array, ""],
) -> Motion:
    """One time step of all replicas."""
    thermal = controls.thermal_at(step)
    if ensemble == "nvt-langevin":
        return _langevin(evaluate, bodies, controls, motion, (thermal, step))
    if ensemble == "nvt-csvr":
        motion = _verlet(evaluate, bodies, controls.timestep, motion)
        return _rescale_velocities(bodies, controls, motion, (thermal, step))
    if ensemble == "nvt-nose-hoover":
        motion = _heat_particles(bodies, controls, motion, thermal)
        motion = _verlet(evaluate, bodies, controls.timestep, motion)
        return _heat_particles(bodies, controls, motion, thermal)
    if ensemble == "npt":
        return _barostat_step(evaluate, bodies, controls, motion, thermal)
    if ensemble == "npt-flexible":
        motion = _flexible_step(evaluate, bodies, controls, motion, (thermal, step))
        return _rescale_velocities(bodies, controls, motion, (thermal, step))
    return _verlet(evaluate, bodies, controls.timestep, motion)


def bath_energy(
    ensemble: Ensemble,
    bodies: Bodies,
    controls: Controls,
    motion: Motion,
    step: Int[Array, ""],
) -> Float[Array, " replicas"]:
    """Energy of Nosé-Hoover chains, cell and pressure, eV.

    Chains: Σ Q v²/2 + kT (g ξ₁ + ξ₂ + …), g being the degrees of freedom a chain is
    coupled to (Martyna, Klein & Tuckerman, J. Chem. Phys. 1992, 97, 2635, Eq. 2.15).
    Cell: W v²/2 + P V. What Langevin's bath, CSVR and the stochastic cell take is in
    ``motion.heat``.
    """
    thermal = controls.thermal_at(step)
    if ensemble == "npt-flexible":
        return controls.pressure * volume_of(bodies, motion)
    if ensemble not in ("nvt-nose-hoover", "npt"):
        return jnp.zeros_like(thermal)
    energy = _chain_energy(motion.chain, bodies.degrees, controls, thermal)
    if ensemble == "npt":
        one = jnp.ones_like(bodies.degrees)
        energy += _chain_energy(motion.cell_chain, one, controls, thermal)
        mass = _cell_mass(bodies, controls, thermal)
        energy += 0.5 * mass * motion.scale_velocity**2
        energy += controls.pressure * volume_of(bodies, motion)
    return energy


def _verlet(
    evaluate: EvaluateFn, bodies: Bodies, timestep: Float[Array, ""], motion: Motion
) -> Motion:
    """Velocity Verlet (Swope et al., J. Chem. Phys. 1982, 76, 637)."""
    momenta = _kicked(bodies, 0.5 * timestep, motion.momenta, motion.found.forces)
    positions = motion.positions + timestep * momenta / bodies.masses[:, None]
    found = evaluate(positions, motion.deformation)
    momenta = _kicked(bodies, 0.5 * timestep, momenta, found.forces)
    return motion._replace(positions=positions, momenta=momenta, found=found)


def _kicked(
    bodies: Bodies,
    time: Float[Array, ""],
    momenta: Float[Array, "atoms 3"],
    forces: Float[Array, "atoms 3"],
) -> Float[Array, "atoms 3"]:
    """Momenta after forces have acted; atoms that are held feel none."""
    return momenta + time * jnp.where(bodies.mobile[:, None], forces, 0.0)


def _noise(
    bodies: Bodies, controls: Controls, step: Int[Array, ""]
) -> Float[Array, "atoms 3"]:
    """Normal numbers of each atom, a function of its replica's seed and the step."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(controls.keys, step)
    keys = jax.vmap(jax.random.fold_in)(keys[bodies.owner], bodies.place)
    dtype = bodies.masses.dtype
    return jax.vmap(lambda key: jax.random.normal(key, (3,), dtype))(keys)


def _langevin(
    evaluate: EvaluateFn,
    bodies: Bodies,
    controls: Controls,
    motion: Motion,
    now: tuple[Float[Array, " replicas"], Int[Array, ""]],
) -> Motion:
    """BAOAB splitting (Leimkuhler & Matthews, Appl. Math. Res. Express 2013, 34)."""
    thermal, step = now
    half, masses = 0.5 * controls.timestep, bodies.masses[:, None]
    momenta = _kicked(bodies, half, motion.momenta, motion.found.forces)
    positions = motion.positions + half * momenta / masses
    keep = jnp.exp(-controls.friction * controls.timestep)
    spread = jnp.sqrt((1.0 - keep**2) * thermal[bodies.owner][:, None] * masses)
    kicks = jnp.where(bodies.mobile[:, None], _noise(bodies, controls, step), 0.0)
    after = keep * momenta + spread * kicks
    lost = kinetic_energy(bodies, momenta) - kinetic_energy(bodies, after)
    positions = positions + half * after / masses
    found = evaluate(positions, motion.deformation)
    momenta = _kicked(bodies, half, after, found.forces)
    return motion._replace(
        positions=positions, momenta=momenta, found=found, heat=motion.heat + lost
    )


def _rescale_velocities(
    bodies: Bodies,
    controls: Controls,
    motion: Motion,
    now: tuple[Float[Array, " replicas"], Int[Array, ""]],
) -> Motion:
    """Stochastic velocity rescaling.

    Bussi, Donadio & Parrinello, J. Chem. Phys. 2007, 126, 014101, Eq. A7.
    """
    thermal, step = now
    draws = _noise(bodies, controls, step)
    place = 3 * bodies.place[:, None] + jnp.arange(3, dtype=jnp.int32)[None, :]
    used = place < bodies.degrees[bodies.owner][:, None]
    squares = replica_sum(bodies, jnp.sum(jnp.where(used, draws**2, 0.0), axis=1))
    first = replica_sum(bodies, jnp.where(bodies.place == 0, draws[:, 0], 0.0))
    kinetic = kinetic_energy(bodies, motion.momenta)
    moving = kinetic > 0.0
    keep = jnp.exp(-controls.timestep / controls.thermostat_time)
    ratio = 0.5 * thermal / jnp.where(moving, kinetic, 1.0) * (1.0 - keep)
    factor = keep + ratio * squares + 2.0 * jnp.sqrt(keep * ratio) * first
    factor = jnp.where(moving, factor, 1.0)
    momenta = motion.momenta * jnp.sqrt(factor)[bodies.owner][:, None]
    lost = kinetic * (1.0 - factor)
    return motion._replace(momenta=momenta, heat=motion.heat + lost)


def _chain_masses(
    degrees: Float[Array, " replicas"],
    controls: Controls,
    thermal: Float[Array, " replicas"],
) -> Float[Array, "replicas chain"]:
    unit = thermal * controls.thermostat_time**2
    others = jnp.broadcast_to(unit[:, None], (len(unit), CHAIN_LENGTH - 1))
    return jnp.concatenate([(unit * degrees)[:, None], others], axis=1)


def _chain_energy(
    chain: Chain,
    degrees: Float[Array, " replicas"],
    controls: Controls,
    thermal: Float[Array, " replicas"],
) -> Float[Array, " replicas"]:
    masses = _chain_masses(degrees, controls, thermal)
    coupled = degrees * chain.position[:, 0] + jnp.sum(chain.position[:, 1:], axis=1)
    return 0.5 * jnp.sum(masses * chain.velocity**2, axis=1) + thermal * coupled


def _half_chain(
    chain: Chain,
    kinetic: Float[Array, " replicas"],
    degrees: Float[Array, " replicas"],
    controls: Controls,
    thermal: Float[Array, " replicas"],
) -> tuple[Chain, Float[Array, " replicas"]]:
    """Half a time step of a chain, and the factor it puts on velocities.

    Martyna, Tuckerman, Tobias & Klein, Mol. Phys. 1996, 87, 1117, Eqs. 29 to 33.
    """
    masses = _chain_masses(degrees, controls, thermal)
    position = list(chain.position.T)
    velocity = list(chain.velocity.T)
    last = CHAIN_LENGTH - 1
    factor = jnp.ones_like(kinetic)

    def pull(link: int) -> Float[Array, " replicas"]:
        if link == 0:
            return (2.0 * kinetic * factor**2 - degrees * thermal) / masses[:, 0]
        before = masses[:, link - 1] * velocity[link - 1] ** 2
        return (before - thermal) / masses[:, link]

    for weight in SUZUKI_YOSHIDA:
        span = 0.5 * weight * controls.timestep
        velocity[last] = velocity[last] + 0.5 * span * pull(last)
        for link in reversed(range(last)):
            drag = jnp.exp(-0.25 * span * velocity[link + 1])
            velocity[link] = (velocity[link] * drag + 0.5 * span * pull(link)) * drag
        factor = factor * jnp.exp(-span * velocity[0])
        position = [x + span * v for x, v in zip(position, velocity, strict=True)]
        for link in range(last):
            drag = jnp.exp(-0.25 * span * velocity[link + 1])
            velocity[link] = (velocity[link] * drag + 0.5 * span * pull(link)) * drag
        velocity[last] = velocity[last] + 0.5 * span * pull(last)
    return Chain(jnp.stack(position, axis=1), jnp.stack(velocity, axis=1)), factor


def _heat_particles(
    bodies: Bodies, controls: Controls, motion: Motion, thermal: Float[Array, " n"]
) -> Motion:
    kinetic = kinetic_energy(bodies, motion.momenta)
    chain, factor = _half_chain(
        motion.chain, kinetic, bodies.degrees, controls, thermal
    )
    momenta = motion.momenta * factor[bodies.owner][:, None]
    return motion._replace(momenta=momenta, chain=chain)


def _cell_mass(
    bodies: Bodies, controls: Controls, thermal: Float[Array, " replicas"]
) -> Float[Array, " replicas"]:
    return (bodies.degrees + 3.0) * thermal * controls.barostat_time**2


def _heat_cell(
    bodies: Bodies, controls: Controls, motion: Motion, thermal: Float[Array, " n"]
) -> Motion:
    kinetic = 0.5 * _cell_mass(bodies, controls, thermal) * motion.scale_velocity**2
    one = jnp.ones_like(kinetic)
    chain, factor = _half_chain(motion.cell_chain, kinetic, one, controls, thermal)
    velocity = motion.scale_velocity * factor
    return motion._replace(cell_chain=chain, scale_velocity=velocity)


def _push_cell(
    bodies: Bodies, controls: Controls, motion: Motion, thermal: Float[Array, " n"]
) -> Motion:
    """Half a time step of the cell's velocity."""
    kinetic = kinetic_energy(bodies, motion.momenta)
    virial = jnp.trace(motion.found.virial, axis1=1, axis2=2)
    pull = 2.0 * kinetic * (1.0 + 3.0 / bodies.degrees) - virial
    pull = pull - 3.0 * volume_of(bodies, motion) * controls.pressure
    change = 0.5 * controls.timestep * pull / _cell_mass(bodies, controls, thermal)
    return motion._replace(scale_velocity=motion.scale_velocity + change)


def _barostat_step(
    evaluate: EvaluateFn,
    bodies: Bodies,
    controls: Controls,
    motion: Motion,
    thermal: Float[Array, " replicas"],
) -> Motion:
    """Isotropic NPT of Martyna, Tobias & Klein, J. Chem. Phys. 1994, 101, 4177.

    Split as Tuckerman et al., J. Phys. A 2006, 39, 5629.
    """
    owner, masses = bodies.owner, bodies.masses[:, None]

    def kick(motion: Motion) -> Motion:
        growth = motion.scale_velocity * (1.0 + 3.0 / bodies.degrees)
        small = (0.25 * controls.timestep * growth)[owner][:, None]
        forces = jnp.where(bodies.mobile[:, None], motion.found.forces, 0.0)
        push = 0.5 * controls.timestep * forces * jnp.exp(-small) * _sinhc(small)
        return motion._replace(momenta=motion.momenta * jnp.exp(-2.0 * small) + push)

    motion = _heat_cell(bodies, controls, motion, thermal)
    motion = _heat_particles(bodies, controls, motion, thermal)
    motion = _push_cell(bodies, controls, motion, thermal)
    motion = kick(motion)
    small = (0.5 * controls.timestep * motion.scale_velocity)[owner][:, None]
    travel = controls.timestep * motion.momenta / masses
    positions = motion.positions * jnp.exp(2.0 * small)
    positions = positions + travel * jnp.exp(small) * _sinhc(small)
    growth = jnp.exp(controls.timestep * motion.scale_velocity)
    deformation = motion.deformation * growth[:, None, None]
    found = evaluate(positions, deformation)
    motion = motion._replace(positions=positions, deformation=deformation, found=found)
    motion = kick(motion)
    motion = _push_cell(bodies, controls, motion, thermal)
    motion = _heat_particles(bodies, controls, motion, thermal)
    return _heat_cell(bodies, controls, motion, thermal)


def _flexible_step(
    evaluate: EvaluateFn,
    bodies: Bodies,
    controls: Controls,
    motion: Motion,
    now: tuple[Float[Array, " replicas"], Int[Array, ""]],
) -> Motion:
    """Velocity Verlet in a cell that is rescaled anisotropically and stochastically.

    Del Tatto, Raiteri, Bernetti & Bussi, Appl. Sci. 2022, 12, 1139, after Bernetti &
    Bussi, J. Chem. Phys. 2020, 153, 114107. As a strain ε of a step, h → h exp(ε), the
    motion of their Eq. 6 is ε = β/(3τ) (P_int − P) dt + √(2 β kT dt / (3 V τ)) dW, the
    term kT/V being Itô's; noise is symmetric, so that the cell does not turn. Positions
    follow the cell, momenta its inverse. What the cell gives is counted as the mean of
    the virials before and after, times ε, and the change of the kinetic energy.
    """
    owner, masses = bodies.owner, bodies.masses[:, None]
    half = 0.5 * controls.timestep
    momenta = _kicked(bodies, half, motion.momenta, motion.found.forces)
    positions = motion.positions + controls.timestep * momenta / masses
    strain = _cell_strain(bodies, controls, motion._replace(momenta=momenta), now)
    grow, shrink = _exponential(strain), _exponential(-strain)
    scaled = jnp.einsum("ai,aij->aj", momenta, shrink[owner])
    positions = jnp.einsum("ai,aij->aj", positions, grow[owner])
    deformation = motion.deformation @ grow
    found = evaluate(positions, deformation)
    lost = kinetic_energy(bodies, momenta) - kinetic_energy(bodies, scaled)
    virial = 0.5 * (motion.found.virial + found.virial)
    lost = lost - jnp.sum(virial * strain, axis=(1, 2))
    before, after = volume_of(bodies, motion), motion._replace(deformation=deformation)
    lost = lost - controls.pressure * (volume_of(bodies, after) - before)
    momenta = _kicked(bodies, half, scaled, found.forces)
    return after._replace(
        positions=positions, momenta=momenta, found=found, heat=motion.heat + lost
    )


def _cell_strain(
    bodies: Bodies,
    controls: Controls,
    motion: Motion,
    now: tuple[Float[Array, " replicas"], Int[Array, ""]],
) -> Float[Array, "replicas 3 3"]:
    """Strain of the cell in a step, symmetric."""
    thermal, step = now
    volume = volume_of(bodies, motion)
    outer = motion.momenta[:, :, None] * motion.momenta[:, None, :]
    outer = outer / bodies.masses[:, None, None]
    kinetic = replica_sum(bodies, outer)
    # The centre of mass is at rest, but belongs to the pressure.
    kinetic = kinetic * (1.0 + 3.0 / bodies.degrees)[:, None, None]
    inside = (kinetic - motion.found.virial) / volume[:, None, None]
    inside = 0.5 * (inside + jnp.swapaxes(inside, 1, 2))
    excess = inside - controls.pressure * jnp.eye(3, dtype=inside.dtype)
    pace = controls.compressibility * controls.timestep / (3.0 * controls.barostat_time)
    keys = jax.vmap(jax.random.fold_in, (0, None))(controls.keys, step)
    # Atoms draw with their place; the cell with a number that no atom has.
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _CELL_DRAW)
    draws = jax.vmap(lambda key: jax.random.normal(key, (3, 3), inside.dtype))(keys)
    draws = 0.5 * (draws + jnp.swapaxes(draws, 1, 2))
    spread = jnp.sqrt(2.0 * pace * thermal / volume)
    return pace * excess + spread[:, None, None] * draws


def _exponential(strain: Float[Array, "replicas 3 3"]) -> Float[Array, "replicas 3 3"]:
    """Matrix exponential of a small strain, to its third power."""
    eye = jnp.eye(3, dtype=strain.dtype)
    return eye + strain @ (eye + strain @ (eye + strain / 3.0) / 2.0)


def _sinhc(x: Float[Array, "n 1"]) -> Float[Array, "n 1"]:
    """sinh(x)/x of small x, to x⁶."""
    square = x * x
    return 1.0 + square / 6.0 * (1.0 + square / 20.0 * (1.0 + square / 42.0))
