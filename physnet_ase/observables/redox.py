"""Redox potential of a molecule against a reference electrode."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.observables.electron_transfer import relaxed_couples
from physnet_ase.observables.levels import check_open
from physnet_ase.observables.minima import Minimum, proven_vibrations
from physnet_ase.observables.relaxation import Relaxation
from physnet_ase.observables.results import Observable, State, one_or_many
from physnet_ase.observables.thermodynamics import thermochemistry_of
from physnet_ase.state import ElectronicState, as_state

REFERENCE_ELECTRODES = {
    "SHE": 4.281,
    "SHE-IUPAC": 4.44,
    "SCE": 4.281 + 0.241,
    "Fc+/Fc": 4.980,
}
"""Absolute potentials in V at 298.15 K, against an electron at rest in vacuum.

SHE: hydrogen electrode in water (Isse & Gennaro, J. Phys. Chem. B 2010, 114, 7894; 4.28
in Kelly, Cramer & Truhlar, J. Phys. Chem. B 2006, 110, 16066), which goes with
solvation energies without the surface potential of the solvent, as continuum models
give them. SHE-IUPAC: the recommended (4.44 ± 0.02) V, which holds that potential
(Trasatti, Pure Appl. Chem. 1986, 58, 955). SCE: saturated calomel electrode, 0.241 V
above SHE at 25 °C (Bard & Faulkner, Electrochemical Methods). Fc+/Fc: ferrocene in
acetonitrile (Namazian, Lin & Coote, J. Chem. Theory Comput. 2010, 6, 2721, from
measurements)."""
_DEFAULT = Relaxation()


@dataclass(frozen=True, eq=False)
class RedoxPotential(Observable):
    """Redox potential in V; ``states`` and ``energies`` in the order start, end.

    Attributes:
        num_electrons: n, how many electrons are transferred.
        reference: Name of the reference electrode, or "absolute" when its potential
            was given as a number.
        reference_potential: Its absolute potential in V.
        gibbs_corrections: G(T) − E of start and end in eV; ``None`` without a
            temperature.
        solvation_energies: Solvation Gibbs energies of start and end in eV, as given.
        gas_phase: Whether no solvation energies were given: then this is no potential
            that an electrode shows, but the reaction energy on its scale.
    """

    num_electrons: int
    reference: str
    reference_potential: float
    gibbs_corrections: tuple[float, float] | None
    solvation_energies: tuple[float, float]
    gas_phase: bool

    @property
    def absolute_potential(self) -> float:
        """The potential against an electron at rest in vacuum, in V."""
        return self.value + self.reference_potential


@one_or_many
def redox_potential(
    atoms: list[Atoms],
    calculator: PhysNetCalculator,
    reference: str | float = "SHE",
    *,
    to_state: State | None = None,
    solvation_energies: Sequence[Any] | None = None,
    temperature: float | None = None,
    relaxation: Relaxation = _DEFAULT,
) -> list[RedoxPotential]:
    """Potential of a redox couple: E = (G_ox − G_red)/(nF) − E_abs(reference) in V.

    The reduction potential of the couple, whichever of the two the atoms are: high when
    the reduced form is hard to oxidise (thermodynamic cycle as in Marenich, Ho, Coote,
    Cramer & Truhlar, Phys. Chem. Chem. Phys. 2014, 16, 15068). G holds the energies at
    the two minima, G(T) − E of ideal gases if a temperature is given, and the solvation
    energies that you give: the model knows molecules in vacuum, or whatever its labels
    were. Without them the result says ``gas_phase`` and is far from any measurement.

    Args:
        atoms: One molecule, or a list of them for a list of results.
        calculator: The calculator; its settings resolve the states.
        reference: "SHE", "SHE-IUPAC", "SCE", "Fc+/Fc", or an absolute potential in V.
        to_state: The other state, of another charge. By default the cation that
            ``ionization_energy`` chooses, so that the atoms are the reduced form.
        solvation_energies: Solvation Gibbs energies in eV of the molecule and of its
            other state, from a method of your own; for a list of molecules one such
            pair each.
        temperature: In K; adds G(T) − E of ideal gases at 1 bar, zero-point energies
            included.
        relaxation: How geometries are relaxed.

    Raises:
        ValueError: An unknown reference, a final state of the same charge, or one that
            cannot be evaluated.
        RuntimeError: A relaxation did not converge, or with a temperature not to a
            minimum.
    """
    electrode = _reference(reference)
    solvation = _solvation(solvation_energies, len(atoms))
    for molecule in atoms:
        check_open(molecule, "redox potential")
    starts = [calculator.resolve_state(molecule) for molecule in atoms]
    if to_state is not None:
        for start in starts:
            _check_charges(start, as_state(to_state))
    couples = relaxed_couples(
        atoms, starts, to_state, calculator, relaxation, proven=temperature is not None
    )
    results = []
    for start, (end, *pair), solvated in zip(starts, couples, solvation, strict=True):
        plain = _potential((start, end), pair, solvated or (0.0, 0.0), temperature)
        results.append(
            replace(
                plain,
                value=plain.value - electrode[1],
                reference=electrode[0],
                reference_potential=electrode[1],
                gas_phase=solvated is None,
            )
        )
    return results


def _potential(
    states: tuple[ElectronicState, ElectronicState],
    minima: Sequence[Minimum],
    solvation: tuple[float, float],
    temperature: float | None,
) -> RedoxPotential:
    """The absolute potential of a couple."""
    energies = minima[0].energy, minima[1].energy
    corrections = _gibbs_corrections(minima, temperature)
    first, second = (
        sum(parts)
        for parts in zip(energies, corrections or (0.0, 0.0), solvation, strict=True)
    )
    charge_change = states[1].charge - states[0].charge
    return RedoxPotential(
        (second - first) / charge_change,
        states,
        energies,
        (minima[0].geometry, minima[1].geometry),
        num_electrons=abs(charge_change),
        reference="absolute",
        reference_potential=0.0,
        gibbs_corrections=corrections,
        solvation_energies=solvation,
        gas_phase=False,
    )


def _reference(reference: str | float) -> tuple[str, float]:
    if not isinstance(reference, str):
        return "absolute", float(reference)
    if reference not in REFERENCE_ELECTRODES:
        raise ValueError(
            f"unknown reference electrode {reference!r}; allowed: "
            f"{', '.join(REFERENCE_ELECTRODES)}, or an absolute potential in V"
        )
    return reference, REFERENCE_ELECTRODES[reference]


def _solvation(
    given: Sequence[Any] | None, count: int
) -> Sequence[tuple[float, float] | None]:
    """One pair per molecule, or ``None`` for each.

    Raises:
        ValueError: The numbers given are not that.
    """
    if given is None:
        return [None] * count
    pairs = np.asarray(given, dtype=float)
    if pairs.shape == (2,) and count == 1:
        pairs = pairs[None]
    if pairs.shape != (count, 2) or not np.all(np.isfinite(pairs)):
        raise ValueError(
            "solvation_energies must hold two numbers in eV (the molecule, its other "
            f"state) for each of {count} molecules, got {given!r}"
        )
    return [(float(start), float(end)) for start, end in pairs]


def _check_charges(start: ElectronicState, end: ElectronicState) -> None:
    if start.charge == end.charge:
        raise ValueError(
            f"a redox couple needs two charges; {start} and {end} have the same"
        )


def _gibbs_corrections(
    pair: Sequence[Minimum], temperature: float | None
) -> tuple[float, float] | None:
    """G(T) − E of both in eV."""
    if temperature is None:
        return None
    first, second = (
        thermochemistry_of(found, temperature).gibbs_energy - found.energies[0]
        for found in proven_vibrations(pair)
    )
    return first, second
