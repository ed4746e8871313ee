"""Observables over several states of one molecule: gap, spin ladder, scan."""

from collections.abc import Sequence
from dataclasses import replace

from ase import Atoms

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.observables.levels import seen_states
from physnet_ase.observables.minima import level_energies
from physnet_ase.observables.relaxation import Relaxation
from physnet_ase.observables.results import (
    EnergyDifference,
    Kind,
    State,
    StateEnergies,
    one_or_many,
)
from physnet_ase.state import ElectronicState, as_state, num_electrons, signed

_DEFAULT = Relaxation()


@one_or_many
def singlet_triplet_gap(
    atoms: list[Atoms],
    calculator: PhysNetCalculator,
    kind: Kind = "vertical",
    relaxation: Relaxation = _DEFAULT,
    *,
    zero_point: bool = False,
) -> list[EnergyDifference]:
    """Energy of the triplet above the singlet: E_T − E_S in eV.

    Positive when the singlet is the ground state, negative for O2 and methylene.
    Singlet and triplet are the states with 2S+1 = 1 and 3 (IUPAC Gold Book,
    "multiplicity").

    Args:
        atoms: One molecule, or a list of them for a list of results.
        calculator: The calculator; its settings resolve the charge.
        kind: "vertical" at the given geometry, "adiabatic" between the two minima.
        relaxation: How geometries are relaxed.
        zero_point: Add the zero-point energy of each minimum, and make sure that it is
            one; adiabatic only.

    Raises:
        ValueError: An odd number of electrons, or a state that cannot be evaluated.
        RuntimeError: An adiabatic relaxation did not converge, or not to a minimum.
    """
    states = []
    for molecule in atoms:
        charge = calculator.resolve_state(molecule).charge
        electrons = num_electrons(molecule.numbers, charge)
        if electrons % 2:
            raise ValueError(
                f"{molecule.get_chemical_formula()} with charge {signed(charge)} has "
                f"{electrons} electrons, an odd count: it has no singlet and no "
                "triplet; use spin_ladder, or set another charge"
            )
        states.append([ElectronicState(charge, 1), ElectronicState(charge, 3)])
    scans = _state_energies(atoms, calculator, states, (kind, zero_point), relaxation)
    return [
        EnergyDifference(
            scan.corrected_energies[1] - scan.corrected_energies[0],
            scan.states,
            scan.energies,
            scan.geometries,
            kind,
            zero_point_energies=scan.zero_point_energies,
        )
        for scan in scans
    ]


@one_or_many
def spin_ladder(
    atoms: list[Atoms],
    calculator: PhysNetCalculator,
    kind: Kind = "vertical",
    relaxation: Relaxation = _DEFAULT,
    *,
    zero_point: bool = False,
) -> list[StateEnergies]:
    """Energies of all multiplicities at the atoms' charge that the model has seen.

    Sorted by multiplicity; ``value`` is the gap in eV between the lowest two states,
    0 when there is only one.

    Args:
        atoms: One molecule, or a list of them for a list of results.
        calculator: The calculator; its settings resolve the charge.
        kind: "vertical" at the given geometry, "adiabatic" each at its own minimum.
        relaxation: How geometries are relaxed.
        zero_point: Add the zero-point energy of each minimum, and make sure that it is
            one; adiabatic only.

    Raises:
        ValueError: The model has seen no state of this charge that is possible here.
        RuntimeError: An adiabatic relaxation did not converge, or not to a minimum.
    """
    states = [
        seen_states(molecule, calculator, calculator.resolve_state(molecule).charge)
        for molecule in atoms
    ]
    return _state_energies(atoms, calculator, states, (kind, zero_point), relaxation)


@one_or_many
def scan_states(
    atoms: list[Atoms],
    calculator: PhysNetCalculator,
    states: Sequence[State] | None = None,
    kind: Kind = "vertical",
    relaxation: Relaxation = _DEFAULT,
    *,
    zero_point: bool = False,
) -> list[StateEnergies]:
    """Energies of the given states, by default of all the model has seen.

    In the order given; ``value`` is the gap in eV between the lowest two states, 0 when
    there is only one.

    Args:
        atoms: One molecule, or a list of them for a list of results.
        calculator: The calculator.
        states: States as ``ElectronicState`` or (charge, multiplicity). ``None`` takes
            every seen state that is possible for the molecule.
        kind: "vertical" at the given geometry, "adiabatic" each at its own minimum.
        relaxation: How geometries are relaxed.
        zero_point: Add the zero-point energy of each minimum, and make sure that it is
            one; adiabatic only.

    Raises:
        ValueError: A state cannot be evaluated, or there is none.
        RuntimeError: An adiabatic relaxation did not converge, or not to a minimum.
    """
    if states is not None and not len(states):
        raise ValueError("states must name at least one state, got none")
    chosen = [
        seen_states(molecule, calculator)
        if states is None
        else [as_state(state) for state in states]
        for molecule in atoms
    ]
    return _state_energies(atoms, calculator, chosen, (kind, zero_point), relaxation)


def _state_energies(
    molecules: list[Atoms],
    calculator: PhysNetCalculator,
    states: list[list[ElectronicState]],
    levels: tuple[Kind, bool],
    relaxation: Relaxation,
) -> list[StateEnergies]:
    """Energies at the kind of level, with zero-point energies if its second says so."""
    kind, zero_point = levels
    results = []
    found = level_energies(
        molecules, calculator, states, kind, relaxation, zero_point=zero_point
    )
    for mine, level in zip(states, found, strict=True):
        plain = StateEnergies(
            0.0,
            tuple(mine),
            level.energies,
            level.geometries,
            kind,
            zero_point_energies=level.zero_point_energies,
        )
        ordered = sorted(plain.relative_energies)
        results.append(replace(plain, value=ordered[1] if len(ordered) > 1 else 0.0))
    return results
