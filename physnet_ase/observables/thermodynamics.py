"""Enthalpy, entropy and Gibbs energy from vibrations, through ASE's thermochemistry."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.thermochemistry import HarmonicThermo, IdealGasThermo

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.observables.harmonic import Vibrations, vibrations
from physnet_ase.observables.relaxation import Relaxation
from physnet_ase.observables.results import Levels, one_or_many
from physnet_ase.state import as_integer

ROOM_TEMPERATURE = 298.15
"""K."""
STANDARD_PRESSURE = 1e5
"""Pa; IUPAC's standard pressure of 1 bar."""


@dataclass(frozen=True, eq=False)
class Thermochemistry(Levels):
    """Thermodynamic functions of one molecule; ``value`` is its Gibbs energy in eV.

    All energies hold the electronic energy and the zero-point energy. Of a solid or of
    an adsorbate with fixed atoms the volume does not change: its enthalpy is the
    internal energy, its Gibbs energy the Helmholtz energy.

    Attributes:
        enthalpy: H(T) in eV.
        entropy: S(T, p) in eV/K.
        temperature: In K.
        pressure: In Pa.
        symmetry_number: Rotations that leave the molecule as it is; lowers S by k ln σ.
        vibrations: The vibrations behind it.
        thermo: ASE's object, for other temperatures and for its tables.
    """

    enthalpy: float
    entropy: float
    temperature: float
    pressure: float
    symmetry_number: int
    vibrations: Vibrations = field(repr=False)
    thermo: IdealGasThermo | HarmonicThermo = field(repr=False)

    @property
    def gibbs_energy(self) -> float:
        """G = H − TS in eV."""
        return self.value


@one_or_many
def thermochemistry(
    atoms: list[Atoms],
    calculator: PhysNetCalculator,
    temperature: float = ROOM_TEMPERATURE,
    pressure: float = STANDARD_PRESSURE,
    symmetry_number: int | Sequence[int] = 1,
    relaxation: Relaxation | None = None,
) -> list[Thermochemistry]:
    """Enthalpy, entropy and Gibbs energy at a temperature and pressure.

    Molecules as ideal gases of rigid rotors and harmonic oscillators
    (``ase.thermochemistry.IdealGasThermo``; McQuarrie, Statistical Mechanics, 1976, ch.
    5, 6 and 8), with the electronic degeneracy 2S+1; what is periodic or partly fixed
    as harmonic oscillators alone (``HarmonicThermo``). Low frequencies are the weak
    point: below some 100 cm⁻¹ a harmonic entropy is not reliable.

    Args:
        atoms: One molecule, or a list of them for a list of results.
        calculator: The calculator; its settings resolve the states.
        temperature: In K.
        pressure: In Pa, 1 bar by default.
        symmetry_number: Of the rotational group: H2O 2, NH3 3, CH4 12, C6H6 12. The
            default 1 counts every orientation as different. A list gives each molecule
            its own.
        relaxation: Relax each geometry first, in this way. By default it must be
            relaxed already.

    Raises:
        ValueError: A state cannot be evaluated, a geometry is not relaxed, or a
            condition that is not positive.
        RuntimeError: A relaxation did not converge, or not to a minimum.
    """
    if np.ndim(symmetry_number) > 1 or np.size(symmetry_number) not in (1, len(atoms)):
        raise ValueError(
            "symmetry_number must be one number, or one per molecule; got "
            f"{symmetry_number!r} for {len(atoms)} molecules"
        )
    numbers = np.broadcast_to(symmetry_number, len(atoms)).tolist()
    _check_conditions(temperature, pressure, numbers)
    return [
        thermochemistry_of(found, temperature, pressure, symmetry_number=number)
        for found, number in zip(
            vibrations(atoms, calculator, relaxation=relaxation), numbers, strict=True
        )
    ]


def thermochemistry_of(
    found: Vibrations,
    temperature: float = ROOM_TEMPERATURE,
    pressure: float = STANDARD_PRESSURE,
    *,
    symmetry_number: int = 1,
) -> Thermochemistry:
    """The same from vibrations that are known already, at any temperature.

    Args:
        found: Result of ``vibrations``.
        temperature: In K.
        pressure: In Pa.
        symmetry_number: Of the rotational group.

    Raises:
        ValueError: A condition is not positive.
        RuntimeError: A mode is imaginary.
    """
    _check_conditions(temperature, pressure, [symmetry_number])
    found.check_minimum()
    thermo = _model(found, symmetry_number)
    # A mode far above kT divides by infinity in ASE, which is its share: nothing.
    with np.errstate(over="ignore"):
        entropy = thermo.get_entropy(temperature, pressure, verbose=False)
        if isinstance(thermo, IdealGasThermo):
            enthalpy = thermo.get_enthalpy(temperature, verbose=False)
        else:
            enthalpy = thermo.get_internal_energy(temperature, verbose=False)
    return Thermochemistry(
        value=float(enthalpy - temperature * entropy),
        states=found.states,
        energies=found.energies,
        geometries=found.geometries,
        enthalpy=float(enthalpy),
        entropy=float(entropy),
        temperature=float(temperature),
        pressure=float(pressure),
        symmetry_number=symmetry_number,
        vibrations=found,
        thermo=thermo,
        zero_point_energies=(found.value,),
    )


def _model(found: Vibrations, symmetry_number: int) -> IdealGasThermo | HarmonicThermo:
    [energy], [state], [geometry] = found.energies, found.states, found.geometries
    quanta: list[complex] = list(found.quanta.real)
    if found.shape == "periodic" or found.shape == "fixed":
        return HarmonicThermo(quanta, potentialenergy=energy)
    return IdealGasThermo(
        quanta,
        geometry=found.shape,
        potentialenergy=energy,
        atoms=geometry,
        symmetrynumber=symmetry_number,
        spin=0.5 * (state.multiplicity - 1),
        vib_selection="exact",
    )


def _check_conditions(
    temperature: float, pressure: float, symmetry_numbers: Sequence[int]
) -> None:
    for name, value, unit in (
        ("temperature", temperature, "K"),
        ("pressure", pressure, "Pa"),
    ):
        if not value > 0:
            raise ValueError(f"{name} must be positive ({unit}), got {value}")
    for number in symmetry_numbers:
        if as_integer(number, "symmetry_number") < 1:
            raise ValueError(f"symmetry_number must be at least 1, got {number}")
