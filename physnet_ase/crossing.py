"""The lowest point where two electronic states of a molecule have the same energy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize import BFGS

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.relaxation import Relaxation
from physnet_ase.results import CrossingPoint, State, one_or_many
from physnet_ase.state import ElectronicState, as_state, with_state

GAP_STIFFNESS = 70.0
"""eV/Å²; BFGS starts from this curvature, so its first step is Newton's to the seam."""
GAP_TOLERANCE = 1e-3
"""eV; largest energy difference that counts as a crossing."""


class _SeamCalculator(Calculator):
    """Forces that lead down to the lowest point of the seam E_a = E_b.

    Bearpark, Robb & Schlegel, Chem. Phys. Lett. 1994, 223, 269: the gradient of the
    mean energy, projected on the complement of the gradient difference, moves along the
    seam; a step along that difference closes the gap.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (declared so by ASE)

    def __init__(
        self,
        calculator: PhysNetCalculator,
        states: tuple[ElectronicState, ElectronicState],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calculator, self.states = calculator, states
        self.energies: tuple[float, float] = (0.0, 0.0)
        self.along_seam = np.zeros((0, 3))

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate both states in one batch and combine their gradients."""
        if atoms is None:
            raise ValueError("a crossing search needs atoms")
        self.atoms = atoms.copy()
        a, b = self.calculator.potential.evaluate(
            atoms,
            states=list(self.states),
            properties=("energy", "forces"),
            allow_unseen_states=self.calculator.allow_unseen_states,
        )
        self.energies = (float(a.energy), float(b.energy))
        difference = a.forces - b.forces  # minus the gradient of E_a − E_b
        length = float(np.linalg.norm(difference))
        if length < 1e-6:
            raise ValueError(
                f"the surfaces of {self.states[0]} and {self.states[1]} are parallel "
                f"here, {self.energies[0] - self.energies[1]:.3f} eV apart: no step "
                "leads to a crossing; start from another geometry"
            )
        direction = difference / length
        mean = 0.5 * (a.forces + b.forces)
        self.along_seam = mean - np.sum(mean * direction) * direction
        gap = self.energies[0] - self.energies[1]
        self.results = {
            "energy": 0.5 * (a.energy + b.energy),
            "forces": self.along_seam + GAP_STIFFNESS * gap / length * direction,
        }


@one_or_many
def minimum_energy_crossing_point(
    atoms: list[Atoms],
    calculator: PhysNetCalculator,
    state_a: State,
    state_b: State,
    relaxation: Relaxation = Relaxation(),  # noqa: B008 (frozen)
) -> list[CrossingPoint]:
    """Lowest geometry at which two states have the same energy.

    Gradient projection (Bearpark, Robb & Schlegel, Chem. Phys. Lett. 1994, 223, 269)
    with BFGS, from the given geometry. The result is checked: the energies are equal
    within 1 meV and the mean gradient along the seam is below ``relaxation.fmax``.

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
    seam = _SeamCalculator(calculator, states)
    moving.calc = seam
    moving.get_forces()
    optimizer = BFGS(moving, logfile=None)
    try:
        optimizer.run(fmax=relaxation.fmax, steps=relaxation.steps)
        moving.get_forces()
    except (ValueError, np.linalg.LinAlgError) as error:
        raise RuntimeError(
            f"the crossing search of {name} broke down at step {optimizer.nsteps}: "
            f"{error}"
        ) from error
    gap = seam.energies[1] - seam.energies[0]
    residual = float(np.max(np.linalg.norm(_free(moving, seam.along_seam), axis=1)))
    if not (abs(gap) <= GAP_TOLERANCE and residual <= relaxation.fmax):
        raise RuntimeError(
            f"the crossing search of {name} did not converge in {optimizer.nsteps} "
            f"steps: the energies differ by {abs(gap):.3g} eV (at most "
            f"{GAP_TOLERANCE}), the gradient along the seam is {residual:.3g} eV/Å (at "
            f"most {relaxation.fmax:.3g}); the states may not cross nearby: start from "
            "another geometry or raise steps"
        )
    moving.calc = None
    return CrossingPoint(
        value=0.5 * (seam.energies[0] + seam.energies[1]),
        states=states,
        energies=seam.energies,
        geometries=tuple(with_state(moving, state) for state in states),
        gap=gap,
        residual_gradient=residual,
        num_steps=int(optimizer.nsteps),
    )


def _free(atoms: Atoms, vectors: np.ndarray) -> Any:
    """The part of ``vectors`` that the constraints of ``atoms`` leave."""
    free = vectors.copy()
    for constraint in atoms.constraints:
        constraint.adjust_forces(atoms, free)
    return free
