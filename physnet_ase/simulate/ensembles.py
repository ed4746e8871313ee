"""jax-md's integrators for each ensemble, and what they conserve.

The conversion from fs to jax-md's time unit Å·sqrt(amu/eV) happens here only.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from ase.units import GPa
from jax_md import simulate
from jaxtyping import Array, Float

from physnet_ase.simulate.settings import SimulationSettings
from physnet_ase.units import BOLTZMANN, FEMTOSECOND


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
