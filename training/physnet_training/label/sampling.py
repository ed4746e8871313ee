"""Geometries to label: displaced, vibrating or moving, by one method and one seed."""

import hashlib
from typing import Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.md.langevin import Langevin
from ase.optimize import BFGS
from ase.units import fs
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from physnet_ase.normal_modes import molecular_shape, normal_modes, rigid_motions
from physnet_ase.units import BOLTZMANN, FEMTOSECOND, HBAR, INVERSE_CM
from physnet_ase.velocities import thermal_momenta

Array = NDArray[np.float64]
Kind = Literal["none", "displace", "modes", "dynamics"]

MIN_WAVENUMBER = 100.0
"""cm⁻¹; softer modes, and imaginary ones, are displaced as if they had this one."""
_HESSIAN_STEP = 0.01  # Å
_RELAX_STEPS = 500


class Sampling(BaseModel):
    """Which geometries of each structure are labelled; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = Field("none", description="how geometries are made")
    samples: int = Field(10, ge=1, description="geometries per structure")
    temperatures: tuple[PositiveFloat, ...] = Field(
        (300.0,), min_length=1, description="K"
    )
    amplitude: float = Field(0.05, gt=0, description="Å, of each coordinate")
    vertical: bool | None = Field(None, description="None: unless kind is dynamics")
    relax: bool = Field(False, description="start from the relaxed structure")
    fmax: float = Field(0.02, gt=0, description="eV/Å, of a relaxation")
    timestep_fs: float = Field(0.5, gt=0)
    stride: int = Field(50, ge=1, description="steps between samples")
    burn_in: int = Field(400, ge=0, description="steps before the first sample")
    friction_per_ps: float = Field(10.0, gt=0)
    seed: int = Field(0, ge=0)

    @property
    def shared(self) -> bool:
        """Whether all states are labelled at the same geometries (vertical).

        By default they are where geometries come from a structure, a displacement or
        its normal modes: those belong to no state, and gaps need equal geometries. In
        dynamics each state moves on its own surface, since that is where a later
        simulation of this state will be.
        """
        return self.kind != "dynamics" if self.vertical is None else self.vertical


def random_generator(seed: int, *place: object) -> np.random.Generator:
    """Random numbers that depend on the seed and a place, nothing else."""
    text = "/".join(map(str, (seed, *place)))
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def prepare(
    atoms: Atoms, calculator: BaseCalculator, sampling: Sampling, *, hessian: bool
) -> Array | None:
    """Relax the structure where the sampling asks for it; its Hessian, if wanted.

    Raises:
        RuntimeError: The relaxation does not converge, or forces are no numbers.
    """
    atoms.calc = calculator
    if sampling.relax and len(atoms) > 1:
        optimizer = BFGS(atoms, logfile=None)
        if not optimizer.run(fmax=sampling.fmax, steps=_RELAX_STEPS):
            largest = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
            raise RuntimeError(
                f"the relaxation did not converge in {_RELAX_STEPS} steps: largest "
                f"force {largest:.3g} eV/Å, asked {sampling.fmax:.3g}"
            )
    derivatives = None
    if hessian and len(atoms) > 1:
        derivatives = numerical_hessian(atoms)
        if not np.isfinite(derivatives).all():
            raise RuntimeError("the method returned forces that are not finite")
    atoms.calc = None
    return derivatives


def numerical_hessian(atoms: Atoms) -> Array:
    """Second derivatives in eV/Å² by central differences of the forces, symmetrised.

    Args:
        atoms: With a calculator; its positions come back unchanged.

    Returns:
        [3·atoms, 3·atoms].
    """
    start = atoms.positions.copy()
    steps = _HESSIAN_STEP * np.eye(start.size).reshape(-1, *start.shape)

    def forces(positions: Array) -> Array:
        atoms.positions = positions
        return atoms.get_forces().ravel()

    rows = [forces(start - step) - forces(start + step) for step in steps]
    atoms.positions = start
    hessian = np.stack(rows) / (2 * _HESSIAN_STEP)
    return 0.5 * (hessian + hessian.T)


def displace(atoms: Atoms, amplitude: float, rng: np.random.Generator) -> None:
    """Move every coordinate by a normal deviate of this standard deviation in Å."""
    atoms.positions += rng.normal(scale=amplitude, size=(len(atoms), 3))


def vibrate(
    atoms: Atoms, hessian: Array, temperature_K: float, rng: np.random.Generator
) -> None:
    """Move along all normal modes as a quantum harmonic oscillator does.

    Along a mode of frequency ω and reduced mass μ the displacement is normal with
    variance ħ/(2μω) coth(ħω/2kT), zero-point motion included (Landau & Lifshitz,
    Statistical Physics, part 1, § 30; the quantum form of West & Estreicher, Phys. Rev.
    Lett. 2006, 96, 115504). Far from the minimum, and along modes below
    ``MIN_WAVENUMBER``, it is only a sensible displacement.
    """
    shape = "periodic" if atoms.pbc.any() else molecular_shape(atoms)
    modes = normal_modes(hessian, atoms.get_masses(), rigid_motions(atoms, shape))
    quanta = np.maximum(np.abs(modes.quanta), MIN_WAVENUMBER * INVERSE_CM)
    hbar = HBAR * FEMTOSECOND  # in Å·√(amu·eV)
    spread = hbar / np.sqrt(2.0 * modes.reduced_masses * quanta)
    spread /= np.sqrt(np.tanh(quanta / (2.0 * BOLTZMANN * temperature_K)))
    steps = rng.normal(size=len(spread)) * spread
    atoms.positions += np.einsum("m,mai->ai", steps, modes.displacements)


def move(
    atoms: Atoms,
    calculator: BaseCalculator,
    sampling: Sampling,
    *,
    temperature_K: float,
    rng: np.random.Generator,
) -> None:
    """Langevin dynamics up to the next sample.

    Atoms without momenta get thermal ones and the steps of the burn-in on top. An open
    system is brought back to where its centre of mass was: it would diffuse away.

    Raises:
        RuntimeError: The molecule flew apart so far that numbers overflow.
    """
    steps = sampling.stride
    if not atoms.has("momenta"):
        seed = int(rng.integers(2**31))
        momenta = thermal_momenta(atoms, temperature_K, seed, ensemble="nvt-langevin")
        atoms.set_momenta(momenta)
        steps += sampling.burn_in
    centre = atoms.get_center_of_mass()
    atoms.calc = calculator
    dynamics = Langevin(
        atoms,
        timestep=sampling.timestep_fs * fs,
        temperature_K=temperature_K,
        friction=sampling.friction_per_ps / (1000.0 * fs),
        fixcm=False,
        rng=rng,
    )
    dynamics.run(steps)
    atoms.calc = None
    if not np.isfinite([atoms.positions, atoms.get_momenta()]).all():
        raise RuntimeError(
            "the dynamics broke down: positions or momenta are not finite; use a "
            "shorter --timestep"
        )
    if not atoms.pbc.any():
        atoms.positions += centre - atoms.get_center_of_mass()
