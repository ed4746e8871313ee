"""The lowest point where two electronic states of a molecule have the same energy."""

from typing import NamedTuple

import numpy as np
from ase import Atoms

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.observables.levels import evaluate_states
from physnet_ase.observables.relaxation import Relaxation
from physnet_ase.observables.results import CrossingPoint, State, one_or_many
from physnet_ase.state import ElectronicState, as_state, with_state

GAP_TOLERANCE = 1e-3
"""eV; largest energy difference that counts as a crossing."""
_START_CURVATURE = 70.0
"""eV/Å²; a stiff bond, so that first steps are short."""
_LONGEST_STEP = 0.15
"""Å; largest displacement of an atom in one step, towards and along the seam each."""


@one_or_many
def minimum_energy_crossing_point(
    atoms: list[Atoms],
    calculator: PhysNetCalculator,
    state_a: State,
    state_b: State,
    relaxation: Relaxation = Relaxation(),  # noqa: B008 (frozen)
) -> list[CrossingPoint]:
    """Lowest geometry at which two states have the same energy.

    Each step moves along the gradient difference towards E_a = E_b, and at right angles
    to it down the projected gradient (Bearpark, Robb & Schlegel, Chem. Phys. Lett.
    1994, 223, 269) with a quasi-Newton model of the Lagrangian E + λ(E_a − E_b) (Manaa
    & Yarkony, J. Chem. Phys. 1993, 99, 5251). The result is checked: the energies are
    equal within 1 meV and the gradient along the seam is below ``relaxation.fmax``.

    Args:
        atoms: One molecule, or a list of them for a list of results.
        calculator: The calculator.
        state_a: One state, as ``ElectronicState`` or (charge, multiplicity).
        state_b: The other state.
        relaxation: Largest gradient along the seam, and most steps.

    Raises:
        ValueError: The states are the same or cannot be evaluated, or a single atom.
        RuntimeError: The search did not converge.
    """
    pair = as_state(state_a), as_state(state_b)
    if pair[0] == pair[1]:
        raise ValueError(f"a crossing needs two different states, got {pair[0]} twice")
    return [_search(molecule, calculator, pair, relaxation) for molecule in atoms]


class _Point(NamedTuple):
    """Both surfaces at one geometry, as far as the constraints let it move."""

    energies: tuple[float, float]  # eV
    mean: np.ndarray  # [3·atoms] gradient of the mean energy, eV/Å
    difference: np.ndarray  # [3·atoms] gradient of E_a − E_b, eV/Å

    @property
    def gap(self) -> float:
        return self.energies[0] - self.energies[1]

    @property
    def multiplier(self) -> float:
        """λ for which the gradient of E + λ(E_a − E_b) is shortest."""
        return -float(self.mean @ self.difference / (self.difference @ self.difference))

    @property
    def along_seam(self) -> np.ndarray:
        gradient: np.ndarray = self.mean + self.multiplier * self.difference
        return gradient

    @property
    def residual(self) -> float:
        """Largest atomic component of the gradient along the seam, eV/Å."""
        return float(np.max(np.linalg.norm(self.along_seam.reshape(-1, 3), axis=1)))


def _search(
    molecule: Atoms,
    calculator: PhysNetCalculator,
    states: tuple[ElectronicState, ElectronicState],
    relaxation: Relaxation,
) -> CrossingPoint:
    name = f"{molecule.get_chemical_formula()}, {states[0]} and {states[1]}"
    if len(molecule) < 2:
        raise ValueError(f"{name}: one atom has no geometry to cross at")
    moving = with_state(molecule, states[0])
    point = _point(moving, calculator, states)
    curvature = _START_CURVATURE * np.eye(3 * len(moving))
    step = 0
    while abs(point.gap) > GAP_TOLERANCE or point.residual > relaxation.fmax:
        if step == relaxation.steps:
            raise RuntimeError(
                f"the crossing search of {name} did not converge in {step} steps: the "
                f"energies differ by {abs(point.gap):.3g} eV (at most {GAP_TOLERANCE}),"
                f" the gradient along the seam is {point.residual:.3g} eV/Å (at most "
                f"{relaxation.fmax:.3g}); the states may not cross nearby: start from "
                "another geometry or raise steps"
            )
        step += 1
        before = moving.get_positions().ravel()
        try:
            trial = before + _step(point, curvature)
            moving.set_positions(trial.reshape(-1, 3))
            new = _point(moving, calculator, states)
        except (ValueError, np.linalg.LinAlgError) as error:
            raise RuntimeError(
                f"the crossing search of {name} broke down at step {step}: {error}; "
                "start from another geometry"
            ) from error
        change = new.along_seam - point.mean - new.multiplier * point.difference
        moved = moving.get_positions().ravel() - before
        curvature = _update(curvature, moved, change)
        point = new
    return CrossingPoint(
        value=0.5 * sum(point.energies),
        states=states,
        energies=point.energies,
        geometries=tuple(with_state(moving, state) for state in states),
        gap=-point.gap,
        residual_gradient=point.residual,
        num_steps=step,
    )


def _point(
    atoms: Atoms,
    calculator: PhysNetCalculator,
    states: tuple[ElectronicState, ElectronicState],
) -> _Point:
    """Evaluate both states in one batch.

    Raises:
        ValueError: The structure cannot be evaluated, or the surfaces are parallel.
    """
    [(a, b)] = evaluate_states([atoms], calculator, [states], ("energy", "forces"))
    forces = [a.forces.copy(), b.forces.copy()]
    for constraint in atoms.constraints:
        for one in forces:
            constraint.adjust_forces(atoms, one)
    point = _Point(
        (a.energy, b.energy),
        -0.5 * (forces[0] + forces[1]).ravel(),
        (forces[1] - forces[0]).ravel(),
    )
    if np.linalg.norm(point.difference) < 1e-6:
        raise ValueError(
            f"the surfaces of {states[0]} and {states[1]} are parallel here, "
            f"{abs(point.gap):.3f} eV apart, so that no step leads to a crossing"
        )
    return point


def _step(point: _Point, curvature: np.ndarray) -> np.ndarray:
    """Newton's step to the seam plus the quasi-Newton step along it, each bounded."""
    length = np.linalg.norm(point.difference)
    normal = point.difference / length
    towards = _bounded(-point.gap / length * normal)
    projector = np.eye(len(normal)) - np.outer(normal, normal)
    downhill = -projector @ (point.mean + curvature @ towards)
    # The second term only makes the matrix regular; the step stays along the seam.
    reduced = projector @ curvature @ projector + np.outer(normal, normal)
    return towards + _bounded(np.linalg.solve(reduced, downhill))


def _bounded(step: np.ndarray) -> np.ndarray:
    longest = np.max(np.linalg.norm(step.reshape(-1, 3), axis=1))
    bounded: np.ndarray = step * min(1.0, _LONGEST_STEP / max(longest, 1e-12))
    return bounded


def _update(curvature: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """BFGS with Powell's damping, which keeps the matrix positive definite.

    Powell, Lect. Notes Math. 1978, 630, 144.
    """
    product = curvature @ step
    expected = step @ product
    if expected < 1e-12:
        return curvature
    if step @ change < 0.2 * expected:
        weight = 0.8 * expected / (expected - step @ change)
        change = weight * change + (1.0 - weight) * product
    updated: np.ndarray = (
        curvature
        - np.outer(product, product) / expected
        + np.outer(change, change) / (step @ change)
    )
    return updated
