"""Minima of molecules in their states: relaxed, and proven where that is asked."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ase import Atoms

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.minimization import relax_all
from physnet_ase.observables.harmonic import Vibrations, vibrations
from physnet_ase.observables.levels import Energies, check_kind, vertical_energies
from physnet_ase.observables.relaxation import Relaxation, relax
from physnet_ase.observables.results import Kind
from physnet_ase.potential import Potential
from physnet_ase.state import ElectronicState, with_state

_DESCENTS = 3
"""How often a ridge is left downhill before a relaxation counts as failed."""


class Minimum(NamedTuple):
    """A relaxed geometry, with its vibrations where it was proven to be a minimum."""

    geometry: Atoms
    energy: float  # eV
    vibrations: Vibrations | None


class StateLevels(NamedTuple):
    """A molecule in each of its states."""

    geometries: tuple[Atoms, ...]
    energies: Energies  # eV
    zero_point_energies: tuple[float, ...] | None  # eV


def check_zero_point(kind: Kind, zero_point: bool) -> None:
    """Raise when a zero-point correction is asked for vertical energies.

    Raises:
        ValueError: It is.
    """
    if zero_point and kind == "vertical":
        raise ValueError(
            "zero_point=True needs kind='adiabatic': a vertical energy ends at a "
            "geometry that is no minimum of the final state and has no zero-point level"
        )


def settle(
    atoms: Atoms,
    state: ElectronicState,
    calculator: PhysNetCalculator,
    relaxation: Relaxation,
    *,
    proven: bool = False,
) -> Minimum:
    """Relax in one state; ``proven`` makes sure that the end is a minimum.

    Raises:
        ValueError: The structure or its state cannot be evaluated.
        RuntimeError: The relaxation did not converge, or not to a minimum.
    """
    geometry, energy = relax(atoms, state, calculator, relaxation)
    if not proven:
        return Minimum(geometry, energy, None)
    return proven_minimum(geometry, calculator, relaxation)


def settle_all(
    starts: Sequence[tuple[Atoms, ElectronicState]],
    calculator: PhysNetCalculator,
    relaxation: Relaxation,
    *,
    proven: bool = False,
) -> list[Minimum]:
    """Relax many, each in its state: together, unless ASE has to do it.

    Raises:
        ValueError: A structure or its state cannot be evaluated; it is named.
        RuntimeError: Not all reached a minimum; those that did not are named.
    """
    potential = calculator.potential
    # A committee's mean forces, and FIRE, are known to ASE only.
    if (
        len(starts) < 2
        or not isinstance(potential, Potential)
        or relaxation.optimizer != "BFGS"
    ):
        return [
            settle(atoms, state, calculator, relaxation, proven=proven)
            for atoms, state in starts
        ]
    found = relax_all(
        starts,
        potential,
        fmax=relaxation.fmax,
        steps=relaxation.steps,
        allow_unseen_states=calculator.allow_unseen_states,
    )
    for one in found:
        one.atoms.calc = None
    if proven:
        return [proven_minimum(one.atoms, calculator, relaxation) for one in found]
    return [Minimum(one.atoms, one.energy, None) for one in found]


def proven_minimum(
    geometry: Atoms, calculator: PhysNetCalculator, relaxation: Relaxation
) -> Minimum:
    """The minimum at, or below, a relaxed geometry.

    A molecule that starts symmetric stays so, on a ridge if need be: planar H2CO whose
    anion is a pyramid. From there it is moved along its imaginary mode and relaxed
    again, each time to a third of the force: on the flat ridge of a methyl group that
    turns, the forces are below those at which the first relaxation stops.

    Args:
        geometry: Relaxed; its ``info`` holds the state.
        calculator: The calculator.
        relaxation: How to relax again.

    Raises:
        RuntimeError: A relaxation did not converge, or ended on a ridge every time.
    """
    found = vibrations(geometry, calculator, fmax=None)
    for _ in range(_DESCENTS):
        if not found.imaginary.any():
            break
        relaxation = replace(relaxation, fmax=relaxation.fmax / 3.0)
        lower, _ = relax(found.displaced(0), found.states[0], calculator, relaxation)
        found = vibrations(lower, calculator, fmax=None)
    found.check_minimum()
    return Minimum(found.geometries[0], found.energies[0], found)


def zero_point_energies(minima: Sequence[Minimum]) -> tuple[float, ...] | None:
    """½ Σ ħω of each in eV; ``None`` unless all were proven."""
    known = proven_vibrations(minima)
    return tuple(one.value for one in known) if len(known) == len(minima) else None


def proven_vibrations(minima: Sequence[Minimum]) -> list[Vibrations]:
    """Vibrations of those that were proven."""
    return [one.vibrations for one in minima if one.vibrations is not None]


def level_energies(
    molecules: Sequence[Atoms],
    calculator: PhysNetCalculator,
    states: Sequence[Sequence[ElectronicState]],
    kind: Kind,
    relaxation: Relaxation,
    *,
    zero_point: bool = False,
) -> list[StateLevels]:
    """Geometries and energies of each molecule in each of its states.

    Raises:
        ValueError: ``kind`` is unknown, or a state cannot be evaluated.
        RuntimeError: An adiabatic relaxation did not converge, or not to a minimum.
    """
    check_kind(kind)
    check_zero_point(kind, zero_point)
    if kind == "vertical":
        energies = vertical_energies(molecules, calculator, states)
        return [
            StateLevels(tuple(with_state(molecule, state) for state in mine), row, None)
            for molecule, mine, row in zip(molecules, states, energies, strict=True)
        ]
    starts = [
        (molecule, state)
        for molecule, mine in zip(molecules, states, strict=True)
        for state in mine
    ]
    settled = iter(settle_all(starts, calculator, relaxation, proven=zero_point))
    levels = []
    for mine in states:
        minima = [next(settled) for _ in mine]
        levels.append(
            StateLevels(
                tuple(one.geometry for one in minima),
                tuple(one.energy for one in minima),
                zero_point_energies(minima),
            )
        )
    return levels
