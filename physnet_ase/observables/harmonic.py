"""Harmonic vibrations from the analytic Hessian, with infrared intensities."""

from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.vibrations import VibrationsData

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.normal_modes import (
    Shape,
    infrared_intensities,
    molecular_shape,
    normal_modes,
    rigid_motions,
)
from physnet_ase.observables.levels import evaluate_states, start_state
from physnet_ase.observables.relaxation import Relaxation, relax
from physnet_ase.observables.results import Observable, State, one_or_many
from physnet_ase.state import ElectronicState, with_state
from physnet_ase.units import INVERSE_CM

STATIONARY = 0.05
"""eV/Å; largest force that still counts as a stationary point, ASE's own default."""


@dataclass(frozen=True, eq=False)
class Vibrations(Observable):
    """Harmonic vibrations of one molecule in one state; softest mode first.

    ``value`` is the zero-point energy ½ Σ ħω in eV over the real modes.

    Attributes:
        frequencies: Wavenumbers in cm⁻¹, shape (modes,), complex as in ASE: an unstable
            mode is imaginary. Translations and rotations are not among them.
        modes: Cartesian displacements of unit length, shape (modes, atoms, 3).
        reduced_masses: In amu, shape (modes,).
        intensities: Infrared intensities in km/mol, shape (modes,); ``None`` for
            periodic systems, whose dipole is not defined.
        hessian: Second derivatives in eV/Å², shape (3·atoms, 3·atoms), as computed.
        shape: "monatomic", "linear" or "nonlinear" molecule (3, 5 or 6 rigid motions
            removed); "periodic" (3 translations), "fixed" (none: some atoms are held).
    """

    frequencies: np.ndarray
    modes: np.ndarray = field(repr=False)
    reduced_masses: np.ndarray
    intensities: np.ndarray | None
    hessian: np.ndarray = field(repr=False)
    shape: Shape

    @property
    def quanta(self) -> np.ndarray:
        """ħω of each mode in eV, complex, shape (modes,)."""
        quanta: np.ndarray = self.frequencies * INVERSE_CM
        return quanta

    @property
    def imaginary(self) -> np.ndarray:
        """Which modes are unstable, shape (modes,)."""
        unstable: np.ndarray = self.frequencies.imag != 0
        return unstable

    def displaced(self, mode: int, amplitude: float = 0.1) -> Atoms:
        """The geometry moved by ``amplitude`` Å along a mode: where to relax again."""
        moved = self.geometries[0].copy()
        step = amplitude * self.modes[mode]
        moved.set_positions(moved.positions + step, apply_constraint=False)
        return moved

    def to_ase(self) -> VibrationsData:
        """The same Hessian as ASE's ``VibrationsData``, which animates and tabulates.

        ASE does not take rigid motions out: its list begins with them.
        """
        atoms = self.geometries[0]
        free = _free_atoms(atoms)
        flat = _coordinates(free)
        return VibrationsData.from_2d(
            atoms, self.hessian[np.ix_(flat, flat)], list(free)
        )

    def check_minimum(self) -> None:
        """Raise unless all modes are real.

        Raises:
            RuntimeError: The geometry is a saddle point; says what to do.
        """
        count = int(np.sum(self.imaginary))
        if not count:
            return
        listed = ", ".join(f"{f.imag:.0f}i" for f in self.frequencies[:count])
        name = self.geometries[0].get_chemical_formula()
        raise RuntimeError(
            f"{name} in {self.states[0]}: the relaxed geometry is no minimum, {count} "
            f"imaginary mode{'s' * (count > 1)} at {listed} cm^-1; start from a "
            "geometry without its symmetry (atoms.rattle(0.05), or "
            "vibrations(…).displaced(0)), or relax to a smaller fmax"
        )


@one_or_many
def vibrations(
    atoms: list[Atoms],
    calculator: PhysNetCalculator,
    state: State | None = None,
    relaxation: Relaxation | None = None,
    *,
    fmax: float | None = STATIONARY,
) -> list[Vibrations]:
    """Harmonic frequencies, normal modes, zero-point energy and infrared intensities.

    From the analytic Hessian at a stationary point, with the masses of the atoms
    (``atoms.set_masses`` for isotopes); translations and rotations are projected out in
    mass-weighted coordinates (Wilson, Decius & Cross, Molecular Vibrations, 1955, ch.
    2). Intensities from analytic derivatives of the dipole, both approximations
    harmonic (Porezag & Pederson, Phys. Rev. B 1996, 54, 7830).

    With ``FixAtoms`` only the free atoms vibrate and nothing is projected out. Periodic
    systems give the modes at the Γ point of the cell as it is.

    Args:
        atoms: One molecule, or a list of them for a list of results.
        calculator: The calculator; its settings resolve the states.
        state: The state; the atoms' own by default.
        relaxation: Relax the geometry first, in this way. By default it is taken as it
            is.
        fmax: Largest force in eV/Å at which frequencies are still computed; ``None``
            computes them anywhere. Without effect after a relaxation.

    Raises:
        ValueError: A state cannot be evaluated, the geometry is not relaxed, or holds
            constraints other than ``FixAtoms``.
        RuntimeError: The relaxation did not converge.
    """
    results = []
    for molecule in atoms:
        _check(molecule)
        mine = start_state(molecule, calculator, state)
        if relaxation is None:
            geometry = with_state(molecule, mine)
        else:
            geometry, _ = relax(molecule, mine, calculator, relaxation)
        limit = fmax if relaxation is None else None
        results.append(_vibrations(geometry, mine, calculator, limit))
    return results


def _vibrations(
    atoms: Atoms,
    state: ElectronicState,
    calculator: PhysNetCalculator,
    fmax: float | None,
) -> Vibrations:
    [[point]] = evaluate_states([atoms], calculator, [[state]], ("energy", "forces"))
    free = _free_atoms(atoms)
    largest = float(np.max(np.linalg.norm(point.forces[free], axis=1)))
    if fmax is not None and largest > fmax:
        raise ValueError(
            f"{atoms.get_chemical_formula()} in {state}: the largest force is "
            f"{largest:.3g} eV/Å, above fmax={fmax:.3g}; frequencies belong to a "
            "stationary point: relax first (relaxation=Relaxation(); --relax on the "
            "command line), or pass fmax=None to take the geometry as it is"
        )
    periodic = bool(atoms.pbc.any())
    wanted = ("hessian",) if periodic else ("hessian", "dipole_derivatives")
    [[result]] = evaluate_states([atoms], calculator, [[state]], wanted)
    shape: Shape = (
        "fixed"
        if len(free) < len(atoms)
        else "periodic"
        if periodic
        else molecular_shape(atoms)
    )
    flat = _coordinates(free)
    modes = normal_modes(
        result.hessian[np.ix_(flat, flat)],
        atoms.get_masses()[free],
        rigid_motions(atoms[free], shape),
    )
    displacements = np.zeros((len(modes.quanta), len(atoms), 3))
    displacements[:, free] = modes.displacements
    return Vibrations(
        value=0.5 * float(np.sum(modes.quanta.real)),
        states=(state,),
        energies=(float(point.energy),),
        geometries=(atoms,),
        frequencies=modes.quanta / INVERSE_CM,
        modes=displacements,
        reduced_masses=modes.reduced_masses,
        intensities=None
        if periodic
        else infrared_intensities(modes, result.dipole_derivatives[flat]),
        hessian=result.hessian,
        shape=shape,
    )


def _check(atoms: Atoms) -> None:
    """Raise unless the masses and constraints are such that modes exist.

    Raises:
        ValueError: They are not.
    """
    name = atoms.get_chemical_formula()
    masses = atoms.get_masses()
    if not np.all(masses > 0):
        index = int(np.argmin(masses))
        raise ValueError(
            f"{name}: atom {index} has the mass {masses[index]} amu; vibrations need "
            "masses above zero"
        )
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise ValueError(
                f"{name}: vibrations know FixAtoms only, got "
                f"{type(constraint).__name__}; remove it: atoms.set_constraint()"
            )
    if not len(_free_atoms(atoms)):
        raise ValueError(f"{name}: all atoms are fixed, none is left to vibrate")


def _free_atoms(atoms: Atoms) -> np.ndarray:
    held = [index for constraint in atoms.constraints for index in constraint.index]
    return np.setdiff1d(np.arange(len(atoms)), np.asarray(held, dtype=int))


def _coordinates(atoms: np.ndarray) -> np.ndarray:
    """Rows of a Hessian that belong to these atoms."""
    rows: np.ndarray = (3 * atoms[:, None] + np.arange(3)).ravel()
    return rows
