"""Observables of losing or gaining one electron: IE, EA, reorganization energy."""

from collections.abc import Sequence
from typing import NamedTuple

from ase import Atoms

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.observables.levels import (
    check_kind,
    final_states,
    ion_states,
    lowest,
    start_state,
    vertical_energies,
)
from physnet_ase.observables.minima import (
    Minimum,
    check_zero_point,
    settle_all,
    zero_point_energies,
)
from physnet_ase.observables.relaxation import Relaxation
from physnet_ase.observables.results import (
    EnergyDifference,
    Kind,
    ReorganizationEnergy,
    State,
    one_or_many,
)
from physnet_ase.state import ElectronicState, as_state, with_state

_DEFAULT = Relaxation()


@one_or_many
def ionization_energy(
    atoms: list[Atoms],
    calculator: PhysNetCalculator,
    kind: Kind = "vertical",
    from_state: State | None = None,
    to_state: State | None = None,
    relaxation: Relaxation = _DEFAULT,
    *,
    zero_point: bool = False,
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
        zero_point: Add the zero-point energies of the two minima, and make sure that
            they are minima; adiabatic only.

    Raises:
        ValueError: A state cannot be evaluated, or the model has seen no ion.
        RuntimeError: An adiabatic relaxation did not converge, or not to a minimum.
    """
    request = _Request(kind, from_state, to_state, +1, zero_point)
    return _charge_change(atoms, calculator, request, relaxation)


@one_or_many
def electron_affinity(
    atoms: list[Atoms],
    calculator: PhysNetCalculator,
    kind: Kind = "vertical",
    from_state: State | None = None,
    to_state: State | None = None,
    relaxation: Relaxation = _DEFAULT,
    *,
    zero_point: bool = False,
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
        zero_point: Add the zero-point energies of the two minima, and make sure that
            they are minima; adiabatic only.

    Raises:
        ValueError: A state cannot be evaluated, or the model has seen no anion.
        RuntimeError: An adiabatic relaxation did not converge, or not to a minimum.
    """
    request = _Request(kind, from_state, to_state, -1, zero_point)
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
    starts = [start_state(molecule, calculator, from_state) for molecule in atoms]
    couples = relaxed_couples(atoms, starts, to_state, calculator, relaxation)
    results = []
    for start, (end, first, second) in zip(starts, couples, strict=True):
        geometries = first.geometry, second.geometry
        at_a, at_b = vertical_energies(
            geometries, calculator, [[start, end], [end, start]]
        )
        results.append(
            ReorganizationEnergy(
                at_a[1] - at_b[0] + at_b[1] - at_a[0],
                (start, end),
                at_a + at_b,
                geometries,
            )
        )
    return results


def relaxed_couples(
    molecules: Sequence[Atoms],
    starts: Sequence[ElectronicState],
    to_state: State | None,
    calculator: PhysNetCalculator,
    relaxation: Relaxation,
    *,
    proven: bool = False,
) -> list[tuple[ElectronicState, Minimum, Minimum]]:
    """Relax in one state, and from there in another, by default the lowest cation's.

    Returns:
        The other state, and both minima, of each molecule.

    Raises:
        ValueError: A state cannot be evaluated, or the model has seen no cation.
        RuntimeError: A relaxation did not converge, or if ``proven`` not to a minimum.
    """
    jobs = list(zip(molecules, starts, strict=True))
    first = settle_all(jobs, calculator, relaxation, proven=proven)
    geometries = [one.geometry for one in first]
    if to_state is None:
        candidates = [ion_states(m, calculator, start, +1) for m, start in jobs]
        rows = vertical_energies(geometries, calculator, candidates)
        ends = [lowest(c, row) for c, row in zip(candidates, rows, strict=True)]
    else:
        ends = [as_state(to_state)] * len(first)
    jobs = list(zip(geometries, ends, strict=True))
    second = settle_all(jobs, calculator, relaxation, proven=proven)
    return list(zip(ends, first, second, strict=True))


class _Request(NamedTuple):
    """One change of charge: ``charge_change`` is +1 for an ionization."""

    kind: Kind
    from_state: State | None
    to_state: State | None
    charge_change: int
    zero_point: bool


def _charge_change(
    molecules: list[Atoms],
    calculator: PhysNetCalculator,
    request: _Request,
    relaxation: Relaxation,
) -> list[EnergyDifference]:
    """Choose the final states and take the difference the sign convention asks for."""
    check_kind(request.kind)
    check_zero_point(request.kind, request.zero_point)
    change = request.charge_change
    starts = [start_state(m, calculator, request.from_state) for m in molecules]
    finals = [
        final_states(molecule, calculator, start, request.to_state, change)
        for molecule, start in zip(molecules, starts, strict=True)
    ]
    jobs = list(zip(molecules, starts, strict=True))
    initial = _reached(jobs, calculator, request, relaxation)
    rows = vertical_energies(
        [one.geometry for one in initial],
        calculator,
        [[start, *mine] for start, mine in zip(starts, finals, strict=True)],
    )
    ends = [lowest(mine, row[1:]) for mine, row in zip(finals, rows, strict=True)]
    jobs = [(one.geometry, end) for one, end in zip(initial, ends, strict=True)]
    final = _reached(jobs, calculator, request, relaxation)
    differences = []
    for before, after, start, end, row in zip(
        initial, final, starts, ends, rows, strict=True
    ):
        adiabatic = request.kind == "adiabatic"
        energies = row[0], after.energy if adiabatic else min(row[1:])
        corrections = zero_point_energies((before, after))
        rise = energies[1] - energies[0]
        if corrections is not None:
            rise += corrections[1] - corrections[0]
        differences.append(
            EnergyDifference(
                request.charge_change * rise,
                (start, end),
                energies,
                (before.geometry, after.geometry),
                request.kind,
                zero_point_energies=corrections,
            )
        )
    return differences


def _reached(
    jobs: Sequence[tuple[Atoms, ElectronicState]],
    calculator: PhysNetCalculator,
    request: _Request,
    relaxation: Relaxation,
) -> list[Minimum]:
    """Geometries of states: relaxed, or for vertical energies as they are."""
    if request.kind == "vertical":
        # Energies are known from the batch of all states.
        nan = float("nan")
        return [Minimum(with_state(atoms, state), nan, None) for atoms, state in jobs]
    return settle_all(jobs, calculator, relaxation, proven=request.zero_point)
