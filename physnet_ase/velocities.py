"""Initial momenta, and how many degrees of freedom they share."""

import numpy as np
from ase import Atoms

from physnet_ase.units import BOLTZMANN

AT_REST = 1e-6
"""Share of all momenta below which a total or angular momentum counts as zero."""
LINEAR = 1e-6
"""A moment of inertia below this share of the largest belongs to a molecule's axis."""


def thermal_momenta(
    atoms: Atoms,
    temperature_K: float,
    seed: int,
    *,
    ensemble: str = "nve",
    mobile: np.ndarray | None = None,
) -> np.ndarray:
    """Maxwell-Boltzmann momenta, (N, 3) in amu·Å/(Å·sqrt(amu/eV)), as ASE's.

    The total momentum is removed, for open systems the angular momentum too (not where
    nothing conserves them: in Langevin dynamics, or beside atoms that are held), and
    the rest is scaled so that the kinetic temperature is exact.

    Args:
        atoms: Masses, positions, periodic directions.
        temperature_K: Kinetic temperature.
        seed: Of the random numbers.
        ensemble: As ``simulate.run`` names it.
        mobile: (N,) bool; atoms that are held stay at rest.
    """
    masses = atoms.get_masses()[:, None]
    draws = np.random.default_rng(seed).normal(size=(len(atoms), 3))
    velocities = draws / np.sqrt(masses)
    if mobile is not None:
        velocities[~mobile] = 0.0
    free = ensemble != "nvt-langevin" and (mobile is None or bool(mobile.all()))
    if free:
        velocities -= np.sum(masses * velocities, axis=0) / np.sum(masses)
    if free and not atoms.pbc.any():
        arms = atoms.positions - atoms.get_center_of_mass()
        angular = np.sum(np.cross(arms, masses * velocities), axis=0)
        # A linear molecule has no inertia about its axis: the pseudo-inverse skips it.
        spin = np.linalg.pinv(_inertia(atoms), rcond=LINEAR) @ angular
        velocities -= np.cross(spin, arms)
    kinetic = 0.5 * np.sum(masses * velocities**2)
    degrees = degrees_of_freedom(atoms, ensemble, mobile=mobile)
    wanted = 0.5 * degrees * BOLTZMANN * temperature_K
    return masses * velocities * (np.sqrt(wanted / kinetic) if wanted > 0 else 0.0)


def degrees_of_freedom(
    atoms: Atoms,
    ensemble: str,
    momenta: np.ndarray | None = None,
    mobile: np.ndarray | None = None,
) -> int:
    """Number of quadratic terms in the kinetic energy that the motion can reach.

    3N for Langevin dynamics, which kicks every atom, and for the N mobile atoms beside
    some that are held. Elsewhere less the three of the total momentum and, in open
    systems, those of the angular momentum, as long as these are zero: what is conserved
    then holds no heat.

    Args:
        atoms: Masses, positions, periodic directions.
        ensemble: As ``simulate.run`` names it.
        momenta: (N, 3) initial ones; None: without total and angular momentum.
        mobile: (N,) bool: atoms that are not held; None: all.
    """
    free = 3 * len(atoms)
    if mobile is not None and not mobile.all():
        return 3 * int(np.sum(mobile))
    if ensemble == "nvt-langevin":
        return free
    if momenta is None:
        momenta = np.zeros((len(atoms), 3))
    size = float(np.sum(np.abs(momenta)))
    if np.abs(momenta.sum(axis=0)).max() <= AT_REST * size:
        free -= 3
    if atoms.pbc.any():
        return free
    arms = atoms.positions - atoms.get_center_of_mass()
    velocity = momenta.sum(axis=0) / np.sum(atoms.get_masses())
    own = momenta - atoms.get_masses()[:, None] * velocity
    angular = np.sum(np.cross(arms, own), axis=0)
    if np.abs(angular).max() <= AT_REST * size * max(1.0, float(np.abs(arms).max())):
        free -= int(np.linalg.matrix_rank(_inertia(atoms), rtol=LINEAR))
    return free


def _inertia(atoms: Atoms) -> np.ndarray:
    arms = atoms.positions - atoms.get_center_of_mass()
    squares = np.einsum("n,ni,nj->ij", atoms.get_masses(), arms, arms)
    return np.trace(squares) * np.eye(3) - squares
