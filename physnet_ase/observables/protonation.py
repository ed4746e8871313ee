"""Proton affinity: which atom takes the proton up, and what that releases."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from ase import Atoms

from physnet_ase.bonds import bonds
from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.observables.levels import check_open
from physnet_ase.observables.minima import (
    Minimum,
    proven_minimum,
    proven_vibrations,
    settle,
    zero_point_energies,
)
from physnet_ase.observables.proton_sites import possible_sites, protonated
from physnet_ase.observables.relaxation import Relaxation, relax
from physnet_ase.observables.results import Levels, one_or_many
from physnet_ase.observables.thermodynamics import thermochemistry_of
from physnet_ase.state import ElectronicState, as_integer, signed
from physnet_ase.units import BOLTZMANN

Site = int | str | Atoms
"""An atom's index, "all" atoms heavier than hydrogen, or the protonated structure."""
_DEFAULT = Relaxation()


class ProtonationSite(NamedTuple):
    """One place where a proton was put."""

    atom: int | None  # where it was put; None when the structure was given
    bound_to: int | None  # the atom of the base it is nearest to after the relaxation
    energy: float  # eV, of the relaxed protonated molecule; NaN: did not converge
    kept: bool = True  # the bonds of the base are as before, and the proton has one


@dataclass(frozen=True, eq=False)
class ProtonAffinity(Levels):
    """Proton affinity in eV; ``states`` and ``energies`` are of base and acid.

    ``value`` = E(B) + E(H⁺) − E(BH⁺), and, where asked for, the same difference of the
    zero-point energies, of the thermal enthalpies, and 5/2 kT of the proton.

    Attributes:
        site: Atom of the base that holds the proton in the best structure; ``None``
            when that structure was given.
        sites: All places that were tried, in the order of their atoms.
        thermal_enthalpies: H(T) − E − ZPE of base and acid in eV; ``None`` without a
            temperature.
        proton_energy: E(H⁺) in eV on the energy scale of the model.
        proton_enthalpy: 5/2 kT of the free proton in eV, 0 without a temperature.
    """

    site: int | None
    sites: tuple[ProtonationSite, ...]
    thermal_enthalpies: tuple[float, float] | None
    proton_energy: float
    proton_enthalpy: float


class _Corrections(NamedTuple):
    """What is added to electronic energies."""

    zero_point: bool
    temperature: float | None  # K
    proton_energy: float  # eV


@one_or_many
def proton_affinity(
    atoms: list[Atoms],
    calculator: PhysNetCalculator,
    site: Site | Sequence[Atoms] = "all",
    relaxation: Relaxation = _DEFAULT,
    *,
    zero_point: bool = False,
    temperature: float | None = None,
    proton_energy: float = 0.0,
) -> list[ProtonAffinity]:
    """Energy released on taking up a proton: −ΔH of B + H⁺ → BH⁺ in eV.

    IUPAC Gold Book, "proton affinity" (doi:10.1351/goldbook.P04907), an enthalpy.
    Sites where bonds break or form when the proton comes (a ring opens, hydrogen
    leaves) are tried and listed, and count only where there is no other.

    Without options the difference of electronic energies of the relaxed structures;
    ``zero_point`` makes it the affinity at 0 K, ``temperature`` the one of the
    definition, of ideal gases. The proton has no electron and its spin does not count:
    BH⁺ has one charge more than B and the same multiplicity.

    Args:
        atoms: One molecule, or a list of them for a list of results.
        calculator: The calculator; its settings resolve the states.
        site: Index of the atom that takes the proton; "all" tries every atom heavier
            than hydrogen and keeps the lowest energy; or the protonated structure
            itself, in a list for a list of molecules.
        relaxation: How base and acid are relaxed.
        zero_point: Add the zero-point energies.
        temperature: In K; adds the enthalpies of ideal gases, zero-point energies
            included, and 5/2 kT of the proton.
        proton_energy: E(H⁺) in eV. 0 for a model of total energies, as a bare proton
            has no electron; for a model of energies relative to free atoms it is the
            ionization energy of the hydrogen atom in the same method.

    Raises:
        ValueError: The model has not seen the protonated state, there is no such atom,
            or the given structure is not the molecule and one hydrogen.
        RuntimeError: The relaxation of the base did not converge, or that of no site,
            or with corrections not to a minimum.
    """
    given: Sequence[Site]
    if isinstance(site, (str, Atoms, int, np.integer)):
        given = [site] * len(atoms)
    else:
        given = list(site)
    if len(given) != len(atoms):
        raise ValueError(
            f"site must hold one protonated structure per molecule; got {len(given)} "
            f"for {len(atoms)} molecules"
        )
    corrections = _Corrections(zero_point, temperature, proton_energy)
    return [
        _proton_affinity(molecule, one, calculator, relaxation, corrections)
        for molecule, one in zip(atoms, given, strict=True)
    ]


def _proton_affinity(
    molecule: Atoms,
    site: Site,
    calculator: PhysNetCalculator,
    relaxation: Relaxation,
    corrections: _Corrections,
) -> ProtonAffinity:
    check_open(molecule, "proton affinity")
    state = calculator.resolve_state(molecule)
    acid_state = ElectronicState(state.charge + 1, state.multiplicity)
    # Whatever cannot be is said before the first relaxation.
    calculator.potential.check(
        [*molecule.numbers, 1],
        acid_state,
        allow_unseen_states=calculator.allow_unseen_states,
    )
    places = _places(molecule, site, acid_state)
    proven = corrections.zero_point or corrections.temperature is not None
    base = settle(molecule, state, calculator, relaxation, proven=proven)
    tried = [
        _relaxed(base.geometry, place, acid_state, calculator, relaxation)
        for place in places
    ]
    best, geometry = _lowest(molecule, tried)
    acid = Minimum(geometry, best.energy, None)
    if proven:
        acid = proven_minimum(geometry, calculator, relaxation)
    zero_points = zero_point_energies((base, acid))
    thermal = _thermal((base, acid), corrections.temperature)
    kinetic = 2.5 * BOLTZMANN * (corrections.temperature or 0.0)
    value = base.energy + corrections.proton_energy + kinetic - acid.energy
    for pair in (zero_points, thermal):
        if pair is not None:
            value += pair[0] - pair[1]
    return ProtonAffinity(
        value,
        (state, acid_state),
        (base.energy, acid.energy),
        (base.geometry, acid.geometry),
        site=best.bound_to,
        sites=tuple(one for one, _ in tried),
        thermal_enthalpies=thermal,
        proton_energy=corrections.proton_energy,
        proton_enthalpy=kinetic,
        zero_point_energies=zero_points,
    )


def _relaxed(
    base: Atoms,
    place: int | Atoms,
    state: ElectronicState,
    calculator: PhysNetCalculator,
    relaxation: Relaxation,
) -> tuple[ProtonationSite, Atoms]:
    """The acid relaxed from one place of the proton, and where that went."""
    if isinstance(place, Atoms):
        acid, energy = relax(place, state, calculator, relaxation)
        return ProtonationSite(None, None, energy), acid
    start = protonated(base, place, state, calculator)
    try:
        acid, energy = relax(start, state, calculator, relaxation)
    except RuntimeError as error:
        warnings.warn(
            f"{base.get_chemical_formula()}, proton at atom {place} "
            f"({base.symbols[place]}): {error}; this site is left out",
            stacklevel=2,
        )
        return ProtonationSite(place, None, math.nan, kept=False), start
    nearest = int(np.argmin(acid.get_distances(-1, range(len(base)))))
    proton, now = len(base), bonds(acid)
    same = {pair for pair in now if proton not in pair} == bonds(base)
    bound = any(proton in pair for pair in now)
    return ProtonationSite(place, nearest, energy, kept=same and bound), acid


def _lowest(
    molecule: Atoms, tried: Sequence[tuple[ProtonationSite, Atoms]]
) -> tuple[ProtonationSite, Atoms]:
    """The acid of lowest energy that is the base and a proton, not another molecule.

    Warns where there is only another molecule.

    Raises:
        RuntimeError: No relaxation converged.
    """
    name = molecule.get_chemical_formula()
    converged = [one for one in tried if math.isfinite(one[0].energy)]
    if not converged:
        raise RuntimeError(
            f"{name}: the protonated molecule did not converge from any site; give "
            "another site or more steps (Relaxation)"
        )
    kept = [one for one in converged if one[0].kept]
    best = min(kept or converged, key=lambda one: one[0].energy)
    if not best[0].kept:
        warnings.warn(
            f"{name}: bonds broke or formed at every site of the proton; the affinity "
            "is that of another molecule, look at its geometry",
            stacklevel=2,
        )
    return best


def _places(
    molecule: Atoms, site: Site, state: ElectronicState
) -> Sequence[int | Atoms]:
    """The atoms to protonate, or the protonated structure.

    Raises:
        ValueError: The site is no atom and no protonated structure of the molecule.
    """
    name = molecule.get_chemical_formula()
    if isinstance(site, Atoms):
        wanted = sorted([*molecule.numbers, 1])
        if sorted(site.numbers) != wanted:
            raise ValueError(
                f"the protonated structure of {name} must hold one H more; got "
                f"{site.get_chemical_formula()}"
            )
        charge = site.info.get("charge", state.charge)
        if as_integer(charge, "atoms.info['charge']") != state.charge:
            raise ValueError(
                f"the protonated structure of {name} must have charge "
                f"{signed(state.charge)}; its info says {charge}"
            )
        return [site]
    if site == "all":
        return possible_sites(molecule)
    if isinstance(site, str):
        raise ValueError(
            "site must be an atom's index, 'all' or a protonated structure, got "
            f"{site!r}"
        )
    if not 0 <= site < len(molecule):
        raise ValueError(
            f"site {site} is no atom of {name}; allowed: 0 to {len(molecule) - 1}"
        )
    return [int(site)]


def _thermal(
    pair: tuple[Minimum, Minimum], temperature: float | None
) -> tuple[float, float] | None:
    """What the enthalpies of base and acid hold beyond energy and zero point, in eV."""
    if temperature is None:
        return None
    first, second = (
        thermochemistry_of(found, temperature).enthalpy
        - found.energies[0]
        - found.value
        for found in proven_vibrations(pair)
    )
    return first, second
