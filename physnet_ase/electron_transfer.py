"""Observables of losing or gaining one electron: IE, EA, reorganization, Fukui."""

from typing import NamedTuple

import numpy as np
from ase import Atoms

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.levels import (
    check_kind,
    evaluate_states,
    ion_states,
    lowest,
    start_state,
    vertical_energies,
)
from physnet_ase.relaxation import Relaxation, relax
from physnet_ase.results import (
    EnergyDifference,
    FukuiFunctions,
    Kind,
    ReorganizationEnergy,
    State,
    one_or_many,
)
from physnet_ase.state import ElectronicState, as_state, signed, with_state

_DEFAULT = Relaxation()


@one_or_many
def ionization_energy(
    atoms: list[Atoms],
    calculator: PhysNetCalculator,
    kind: Kind = "vertical",
    from_state: State | None = None,
    to_state: State | None = None,
    relaxation: Relaxation = _DEFAULT,
) -> list[EnergyDifference]:
    """Energy needed to remove an electron: E(N−1) − E(N) in eV.

    IUPAC Gold Book, "ionization energy" (doi:10.1351/goldbook.I03199): vertical
    without change of geometry, adiabatic between the minima of the two states.

    Args:
        atoms: One molecule, or a list of them for a list of results.
        calculator: The calculator; its settings resolve the states.
        kind: "vertical" or "adiabatic".
        from_state: State to ionize; the atoms' own by default.
        to_state: State of the ion. By default the lowest in energy, at the initial
            geometry, of the multiplicities m±1 that the model has seen.
        relaxation: How geometries are relaxed.

    Raises:
        ValueError: A state cannot be evaluated, or the model has seen no ion.
        RuntimeError: An adiabatic relaxation did not converge.
    """
    request = _Request(kind, from_state, to_state, +1)
    return _charge_change(atoms, calculator, request, relaxation)


@one_or_many
def electron_affinity(
    atoms: list[Atoms],
    calculator: PhysNetCalculator,
    kind: Kind = "vertical",
    from_state: State | None = None,
    to_state: State | None = None,
    relaxation: Relaxation = _DEFAULT,
) -> list[EnergyDifference]:
    """Energy released on attaching an electron: E(N) − E(N+1) in eV.

    IUPAC Gold Book, "electron affinity" (doi:10.1351/goldbook.E01977): positive when
    the anion is bound. Vertical at the given geometry (vertical attachment energy),
    adiabatic between the minima of the two states.

    Args:
        atoms: One molecule, or a list of them for a list of results.
        calculator: The calculator; its settings resolve the states.
        kind: "vertical" or "adiabatic".
        from_state: State that takes the electron up; the atoms' own by default.
        to_state: State of the anion. By default the lowest in energy, at the initial
            geometry, of the multiplicities m±1 that the model has seen.
        relaxation: How geometries are relaxed.

    Raises:
        ValueError: A state cannot be evaluated, or the model has seen no anion.
        RuntimeError: An adiabatic relaxation did not converge.
    """
    request = _Request(kind, from_state, to_state, -1)
    return _charge_change(atoms, calculator, request, relaxation)


@one_or_many
def reorganization_energy(
    atoms: list[Atoms],
    calculator: PhysNetCalculator,
    from_state: State | None = None,
    to_state: State | None = None,
    relaxation: Relaxation = _DEFAULT,
) -> list[ReorganizationEnergy]:
    """Inner-sphere reorganization energy of an electron transfer, four-point scheme.

    λ = [E_b(R_a) − E_b(R_b)] + [E_a(R_b) − E_a(R_a)] with R_a, R_b the minima of the
    states a and b (Nelsen, Blackstock & Kim, J. Am. Chem. Soc. 1987, 109, 677; IUPAC
    Gold Book, "reorganization energy", doi:10.1351/goldbook.R05292, the inner part).

    Args:
        atoms: One molecule, or a list of them for a list of results.
        calculator: The calculator; its settings resolve the states.
        from_state: State a; the atoms' own by default.
        to_state: State b. By default the cation that ``ionization_energy`` chooses:
            hole transfer; give an anion for electron transfer.
        relaxation: How geometries are relaxed.

    Raises:
        ValueError: A state cannot be evaluated, or the model has seen no cation.
        RuntimeError: A relaxation did not converge.
    """
    results = []
    for molecule in atoms:
        start = start_state(molecule, calculator, from_state)
        minimum_a, _ = relax(molecule, start, calculator, relaxation)
        if to_state is None:
            candidates = ion_states(molecule, calculator, start, +1)
            [row] = vertical_energies([minimum_a], calculator, [candidates])
            end = lowest(candidates, row)
        else:
            end = as_state(to_state)
        minimum_b, _ = relax(minimum_a, end, calculator, relaxation)
        at_a, at_b = vertical_energies(
            [minimum_a, minimum_b], calculator, [[start, end], [end, start]]
        )
        results.append(
            ReorganizationEnergy(
                at_a[1] - at_b[0] + at_b[1] - at_a[0],
                (start, end),
                at_a + at_b,
                (minimum_a, minimum_b),
            )
        )
    return results


@one_or_many
def fukui_functions(
    atoms: list[Atoms],
    calculator: PhysNetCalculator,
    from_state: State | None = None,
    cation_state: State | None = None,
    anion_state: State | None = None,
) -> list[FukuiFunctions]:
    """Condensed Fukui functions from the atomic charges of N−1, N and N+1 electrons.

    f⁺ = q(N) − q(N+1), f⁻ = q(N−1) − q(N), f⁰ = (f⁺ + f⁻)/2 at one geometry (Yang &
    Mortier, J. Am. Chem. Soc. 1986, 108, 5708), with the charges the model predicts.

    Args:
        atoms: One molecule, or a list of them for a list of results.
        calculator: The calculator; its settings resolve the states.
        from_state: State with N electrons; the atoms' own by default.
        cation_state: State with N−1 electrons; chosen as in ``ionization_energy``.
        anion_state: State with N+1 electrons; chosen as in ``electron_affinity``.

    Raises:
        ValueError: A state cannot be evaluated, or the model has seen no such ion.
    """
    jobs = []
    for molecule in atoms:
        start = start_state(molecule, calculator, from_state)
        cations = _final_states(molecule, calculator, start, cation_state, +1)
        anions = _final_states(molecule, calculator, start, anion_state, -1)
        jobs.append((start, cations, anions))
    rows = vertical_energies(
        atoms, calculator, [[*cations, *anions] for _, cations, anions in jobs]
    )
    chosen = [
        (
            lowest(cations, row[: len(cations)]),
            start,
            lowest(anions, row[len(cations) :]),
        )
        for (start, cations, anions), row in zip(jobs, rows, strict=True)
    ]
    geometries = [
        tuple(with_state(molecule, state) for state in states)
        for molecule, states in zip(atoms, chosen, strict=True)
    ]
    evaluated = evaluate_states(atoms, calculator, chosen, ("energy", "charges"))
    results = []
    for states, mine, three in zip(chosen, geometries, evaluated, strict=True):
        charges = np.stack([result.charges for result in three])
        f_minus, f_plus = charges[0] - charges[1], charges[1] - charges[2]
        value = np.stack([f_plus, f_minus, 0.5 * (f_plus + f_minus)])
        energies = tuple(float(result.energy) for result in three)
        results.append(FukuiFunctions(value, states, energies, charges, mine))
    return results


class _Request(NamedTuple):
    """One change of charge: ``charge_change`` is +1 for an ionization."""

    kind: Kind
    from_state: State | None
    to_state: State | None
    charge_change: int


def _charge_change(
    molecules: list[Atoms],
    calculator: PhysNetCalculator,
    request: _Request,
    relaxation: Relaxation,
) -> list[EnergyDifference]:
    """Choose the final states and take the difference the sign convention asks for."""
    check_kind(request.kind)
    change = request.charge_change
    starts = [start_state(m, calculator, request.from_state) for m in molecules]
    finals = [
        _final_states(molecule, calculator, start, request.to_state, change)
        for molecule, start in zip(molecules, starts, strict=True)
    ]
    adiabatic = request.kind == "adiabatic"
    initial = [
        relax(molecule, start, calculator, relaxation)[0]
        if adiabatic
        else with_state(molecule, start)
        for molecule, start in zip(molecules, starts, strict=True)
    ]
    batch = [[start, *mine] for start, mine in zip(starts, finals, strict=True)]
    differences = []
    for geometry, start, mine, row in zip(
        initial,
        starts,
        finals,
        vertical_energies(initial, calculator, batch),
        strict=True,
    ):
        end = lowest(mine, row[1:])
        energy = min(row[1:])
        final = with_state(geometry, end)
        if adiabatic:
            final, energy = relax(geometry, end, calculator, relaxation)
        differences.append(
            EnergyDifference(
                change * (energy - row[0]),
                (start, end),
                (row[0], energy),
                (geometry, final),
                request.kind,
            )
        )
    return differences


def _final_states(
    molecule: Atoms,
    calculator: PhysNetCalculator,
    start: ElectronicState,
    given: State | None,
    charge_change: int,
) -> list[ElectronicState]:
    """The given final state, or those to choose from."""
    if given is None:
        return ion_states(molecule, calculator, start, charge_change)
    final = as_state(given)
    charge = start.charge + charge_change
    if final.charge != charge:
        raise ValueError(
            f"the final state must have charge {signed(charge)}, one electron "
            f"away from {start}; got {final}"
        )
    return [final]
