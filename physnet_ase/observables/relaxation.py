"""Relaxing a molecule in one electronic state, on copies only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms
from ase.optimize import BFGS, FIRE

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.molecules import Molecules
from physnet_ase.potential import unfamiliar_is_fine, warn_unfamiliar
from physnet_ase.state import ElectronicState, with_state

_OPTIMIZERS = {"BFGS": BFGS, "FIRE": FIRE}


@dataclass(frozen=True)
class Relaxation:
    """How adiabatic observables relax a geometry.

    Attributes:
        fmax: Largest force on an atom that counts as converged, in eV/Å.
        steps: Most steps before the relaxation counts as failed.
        optimizer: ASE's BFGS, or FIRE for rough surfaces.
    """

    fmax: float = 0.01
    steps: int = 500
    optimizer: Literal["BFGS", "FIRE"] = "BFGS"

    def __post_init__(self) -> None:
        """Refuse values that no relaxation can meet."""
        if not self.fmax > 0:
            raise ValueError(f"fmax must be positive (eV/Å), got {self.fmax}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.optimizer not in _OPTIMIZERS:
            raise ValueError(
                f"optimizer must be one of {sorted(_OPTIMIZERS)}, got "
                f"{self.optimizer!r}"
            )


def relax(
    atoms: Atoms,
    state: ElectronicState,
    calculator: PhysNetCalculator,
    relaxation: Relaxation,
    *,
    on_step: Callable[[int, float, float], None] | None = None,
) -> tuple[Atoms, float]:
    """Return a relaxed copy of ``atoms`` in ``state`` and its energy in eV.

    Args:
        atoms: Where to start.
        state: The state to relax in.
        calculator: The calculator; a copy of it does the work.
        relaxation: Criteria and limits.
        on_step: Called with step, energy in eV and largest force in eV/Å.

    Raises:
        RuntimeError: The relaxation did not converge, or ran into a structure that
            cannot be evaluated.
        ValueError: The starting structure or its state cannot be evaluated.
    """
    with unfamiliar_is_fine():
        relaxed, energy = _relax(atoms, state, calculator, relaxation, on_step)
    # What counts is where it ends.
    found = Molecules.from_atoms([relaxed], [state])
    warn_unfamiliar(calculator.potential.known(found), [relaxed], [0])
    return relaxed, energy


def _relax(
    atoms: Atoms,
    state: ElectronicState,
    calculator: PhysNetCalculator,
    relaxation: Relaxation,
    on_step: Callable[[int, float, float], None] | None,
) -> tuple[Atoms, float]:
    """Implement :func:`relax`."""
    moving = with_state(atoms, state)
    moving.calc = calculator.copy()
    moving.get_forces()
    optimizer = _OPTIMIZERS[relaxation.optimizer](moving, logfile=None)
    if on_step is not None:

        def observe() -> None:
            energy = float(moving.get_potential_energy())
            on_step(int(optimizer.nsteps), energy, _largest_force(moving))

        optimizer.attach(observe)
    name = f"relaxation of {moving.get_chemical_formula()} in {state}"
    try:
        converged = optimizer.run(fmax=relaxation.fmax, steps=relaxation.steps)
        energy = float(moving.get_potential_energy())
        largest = _largest_force(moving)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise RuntimeError(
            f"{name} broke down at step {optimizer.nsteps}: {error}; start nearer to "
            "the minimum"
        ) from error
    moving.calc = None
    if not converged:
        raise RuntimeError(
            f"{name} did not converge in {relaxation.steps} steps: largest force "
            f"{largest:.3g} eV/Å, asked {relaxation.fmax:.3g}; raise steps or fmax of "
            "Relaxation, or start nearer to the minimum"
        )
    return moving, energy


def _largest_force(atoms: Atoms) -> float:
    return float(np.max(np.linalg.norm(atoms.get_forces(), axis=1)))
