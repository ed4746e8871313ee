"""Normal modes of a Hessian: rigid motions taken out, masses, infrared intensities."""

from typing import Literal, NamedTuple

import numpy as np
from ase import Atoms

from physnet_ase.units import FEMTOSECOND, HBAR, INFRARED_INTENSITY

Shape = Literal["monatomic", "linear", "nonlinear", "periodic", "fixed"]
"""What moves as a whole: a molecule of a shape, a crystal, or nothing at all."""
_LINEAR = 1e-4
"""Smallest over largest moment of inertia below which a molecule counts as linear: two
degrees of bend in CO2, more than a relaxation leaves and less than a bent one has."""


class NormalModes(NamedTuple):
    """Harmonic modes, softest (most imaginary) first; imaginary ones as ASE has them.

    A displacement is Cartesian with unit length over all atoms; the reduced mass is the
    mass that moves with it, so that ω² = k/μ with k the curvature along it.
    """

    quanta: np.ndarray  # [modes] complex, ħω in eV
    displacements: np.ndarray  # [modes, atoms, 3]
    reduced_masses: np.ndarray  # [modes] amu


def molecular_shape(atoms: Atoms) -> Literal["monatomic", "linear", "nonlinear"]:
    """Shape of a molecule, which decides how many rotations it has (0, 2 or 3)."""
    if len(atoms) == 1:
        return "monatomic"
    moments = atoms.get_moments_of_inertia()
    return "linear" if min(moments) < _LINEAR * max(moments) else "nonlinear"


def rigid_motions(atoms: Atoms, shape: Shape) -> np.ndarray:
    """Mass-weighted translations and rotations as rows, shape (motions, 3·atoms).

    The motions that cost no energy: three translations, and for molecules the rotations
    about the principal axes, all but the own axis of a linear one (Wilson, Decius &
    Cross, Molecular Vibrations, 1955, ch. 2). A crystal translates only; atoms that
    others hold in place have no such motion.
    """
    if shape == "fixed":
        return np.zeros((0, 3 * len(atoms)))
    weights = np.sqrt(atoms.get_masses())[:, None]
    motions = [weights * axis for axis in np.eye(3)]
    if shape in ("linear", "nonlinear"):
        _, axes = atoms.get_moments_of_inertia(vectors=True)  # ascending moments
        arms = atoms.positions - atoms.get_center_of_mass()
        for axis in axes[1:] if shape == "linear" else axes:
            motions.append(weights * np.cross(axis, arms))
    return np.stack(motions).reshape(len(motions), -1)


def normal_modes(
    hessian: np.ndarray, masses: np.ndarray, rigid: np.ndarray
) -> NormalModes:
    """Diagonalise a Hessian in the space that rigid motions leave.

    Args:
        hessian: Second derivatives in eV/Å², shape (3·atoms, 3·atoms).
        masses: In amu, shape (atoms,).
        rigid: Mass-weighted motions to take out, shape (motions, 3·atoms).
    """
    weights = 1.0 / np.sqrt(np.repeat(masses, 3))
    # The right singular vectors beyond the rank span what is at right angles to all.
    inner = (
        np.linalg.svd(rigid)[2][len(rigid) :] if len(rigid) else np.eye(len(hessian))
    )
    weighted = hessian * np.outer(weights, weights)
    curvatures, vectors = np.linalg.eigh(inner @ weighted @ inner.T)
    # Å·√(amu/eV) is the time unit in which frequencies come out.
    quanta = HBAR * FEMTOSECOND * np.sqrt(curvatures.astype(complex))
    cartesian = (vectors.T @ inner) * weights
    lengths = np.linalg.norm(cartesian, axis=1)
    displacements = cartesian / lengths[:, None]
    return NormalModes(
        quanta, displacements.reshape(-1, len(masses), 3), 1.0 / lengths**2
    )


def infrared_intensities(
    modes: NormalModes, dipole_derivatives: np.ndarray
) -> np.ndarray:
    """Integrated absorption of each mode in km/mol, shape (modes,).

    A = N_A/(12 ε₀ c²) |∂μ/∂Q|² with Q the mass-weighted normal coordinate, in the
    double harmonic approximation (Porezag & Pederson, Phys. Rev. B 1996, 54, 7830).

    Args:
        modes: The modes.
        dipole_derivatives: ∂μ/∂R in e, shape (3·atoms, 3).
    """
    flat = modes.displacements.reshape(-1, len(dipole_derivatives))
    slopes = flat @ dipole_derivatives / np.sqrt(modes.reduced_masses)[:, None]
    intensities: np.ndarray = INFRARED_INTENSITY * np.sum(slopes**2, axis=1)
    return intensities
