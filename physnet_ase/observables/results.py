"""What the observables return, and the rule: one molecule in, one result out."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import (
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    overload,
)

import numpy as np
from ase import Atoms

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.potential import unfamiliar_is_fine
from physnet_ase.state import ElectronicState

Kind = Literal["vertical", "adiabatic"]
"""All states at one geometry, or each at its own minimum."""
State = ElectronicState | tuple[int, int]
"""A state, or its (charge, multiplicity)."""


@dataclass(frozen=True, eq=False)
class Observable:
    """A number and what it was made of.

    Attributes:
        value: The observable in eV.
        states: Electronic states, in the order of ``energies``.
        energies: Total energies in eV.
        geometries: Copies of the atoms the energies belong to; their ``info`` holds
            the state.
    """

    value: float
    states: tuple[ElectronicState, ...]
    energies: tuple[float, ...]
    geometries: tuple[Atoms, ...]

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True, eq=False)
class Levels(Observable):
    """Energies of states, to which zero-point energies may have been added.

    Attributes:
        zero_point_energies: ½ Σ ħω in eV in the order of ``energies``, and part of
            ``value``; ``None`` where the correction was not asked for.
        member_energies: What each member of a committee, models or heads, says of
            ``energies`` in eV, shape (members, states); ``None`` without a committee.
    """

    zero_point_energies: tuple[float, ...] | None = field(default=None, kw_only=True)
    member_energies: np.ndarray | None = field(default=None, kw_only=True)

    @property
    def std(self) -> float | None:
        """Standard deviation of ``value`` over a committee's members in eV, or None.

        Members are compared at the geometries of the committee. What they have in
        common, such as a shift of all states, does not count.
        """
        if self.member_energies is None:
            return None
        return float(np.std(self._values(self.member_energies)))

    def _values(self, energies: np.ndarray) -> np.ndarray:
        """``value``, but for corrections and sign, of each row of energies."""
        raise NotImplementedError

    @property
    def corrected_energies(self) -> tuple[float, ...]:
        """``energies`` with the zero-point energies, where asked for, in eV."""
        corrections = self.zero_point_energies or (0.0,) * len(self.energies)
        return tuple(
            energy + correction
            for energy, correction in zip(self.energies, corrections, strict=True)
        )


@dataclass(frozen=True, eq=False)
class EnergyDifference(Levels):
    """Energy between two states; ``kind`` says at which geometries."""

    kind: Kind

    @property
    def from_state(self) -> ElectronicState:
        """The initial state."""
        return self.states[0]

    @property
    def to_state(self) -> ElectronicState:
        """The final state, chosen or given."""
        return self.states[1]

    def _values(self, energies: np.ndarray) -> np.ndarray:
        values: np.ndarray = energies[:, 1] - energies[:, 0]
        return values


@dataclass(frozen=True, eq=False)
class StateEnergies(Levels):
    """Energies of several states; ``value`` is the gap between the lowest two."""

    kind: Kind

    @property
    def ground_state(self) -> ElectronicState:
        """The state of lowest energy."""
        return self.states[int(np.argmin(self.corrected_energies))]

    @property
    def relative_energies(self) -> tuple[float, ...]:
        """Energies above the ground state in eV."""
        energies = self.corrected_energies
        return tuple(energy - min(energies) for energy in energies)

    @property
    def relative_stds(self) -> tuple[float, ...] | None:
        """Standard deviations of ``relative_energies`` over a committee, in eV."""
        if self.member_energies is None:
            return None
        ground = self.states.index(self.ground_state)
        above = self.member_energies - self.member_energies[:, ground, None]
        return tuple(above.std(axis=0).tolist())

    def _values(self, energies: np.ndarray) -> np.ndarray:
        order = np.argsort(self.corrected_energies)
        values: np.ndarray = energies[:, order[:2][-1]] - energies[:, order[0]]
        return values


@dataclass(frozen=True, eq=False)
class ReorganizationEnergy(Observable):
    """Four points: E_a(R_a), E_b(R_a), E_b(R_b), E_a(R_b) for the states a → b."""

    @property
    def final_relaxation(self) -> float:
        """E_b(R_a) − E_b(R_b) in eV: relaxation after the electron has gone."""
        return self.energies[1] - self.energies[2]

    @property
    def initial_relaxation(self) -> float:
        """E_a(R_b) − E_a(R_a) in eV: relaxation after the electron has come back."""
        return self.energies[3] - self.energies[0]


@dataclass(frozen=True, eq=False)
class FukuiFunctions:
    """Condensed Fukui functions, one number per atom; each row of ``value`` sums to 1.

    Attributes:
        value: ``f_plus``, ``f_minus`` and ``f_zero`` as rows, shape (3, atoms).
        states: States with N−1, N and N+1 electrons.
        energies: Their total energies in eV.
        charges: Their atomic charges in e, shape (3, atoms).
        geometries: The atoms in these states, all at the same positions.
    """

    value: np.ndarray
    states: tuple[ElectronicState, ...]
    energies: tuple[float, ...]
    charges: np.ndarray
    geometries: tuple[Atoms, ...]

    @property
    def f_plus(self) -> np.ndarray:
        """Where an added electron goes: attack by a nucleophile."""
        row: np.ndarray = self.value[0]
        return row

    @property
    def f_minus(self) -> np.ndarray:
        """Where a removed electron comes from: attack by an electrophile."""
        row: np.ndarray = self.value[1]
        return row

    @property
    def f_zero(self) -> np.ndarray:
        """Mean of the two: attack by a radical."""
        row: np.ndarray = self.value[2]
        return row


@dataclass(frozen=True, eq=False)
class CrossingPoint(Observable):
    """Lowest point where two states have the same energy.

    ``value`` is that energy (the mean of the two states') in eV.

    Attributes:
        gap: Energy of the second state minus the first there, in eV.
        residual_gradient: Largest atomic component along the seam, in eV/Å.
        num_steps: Steps of the search.
    """

    gap: float
    residual_gradient: float
    num_steps: int


P = ParamSpec("P")
R = TypeVar("R")


class OneOrMany(Protocol[P, R]):
    """A function that takes one molecule or a list of them."""

    @overload
    def __call__(
        self,
        atoms: Atoms,
        calculator: PhysNetCalculator,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...

    @overload
    def __call__(
        self,
        atoms: Sequence[Atoms],
        calculator: PhysNetCalculator,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[R]: ...


def one_or_many(
    function: Callable[Concatenate[list[Atoms], PhysNetCalculator, P], list[R]],
) -> OneOrMany[P, R]:
    """Let a function of a list of molecules also take a single one.

    A single ``Atoms`` gives a single result, a list gives a list; a list shares its
    batches of evaluation. Where a committee answers, results say what its members say.
    """

    @functools.wraps(function)
    def call(
        atoms: Any, calculator: PhysNetCalculator, *args: P.args, **kwargs: P.kwargs
    ) -> Any:
        if not isinstance(calculator, PhysNetCalculator):
            raise TypeError(
                "an observable needs a PhysNetCalculator, got "
                f"{type(calculator).__name__}; wrap a potential: "
                "PhysNetCalculator(potential)"
            )
        several = [atoms] if isinstance(atoms, Atoms) else list(atoms)
        results = function(several, calculator, *args, **kwargs)
        if calculator.potential.num_members > 1:
            results = _with_members(results, calculator)
        return results[0] if isinstance(atoms, Atoms) else results

    return cast(OneOrMany[P, R], call)


def _with_members(results: list[R], calculator: PhysNetCalculator) -> list[R]:
    """Levels with the energies of a committee's members, all in one batch."""
    geometries = [
        geometry
        for result in results
        if isinstance(result, Levels)
        for geometry in result.geometries
    ]
    if not geometries:
        return results
    with unfamiliar_is_fine():  # said already
        evaluated = iter(
            calculator.potential.evaluate(
                geometries,
                properties=("energy",),
                allow_unseen_states=calculator.allow_unseen_states,
            )
        )
    return [
        replace(
            result,
            member_energies=np.stack(
                [next(evaluated).member_energies for _ in result.geometries], axis=1
            ),
        )
        if isinstance(result, Levels)
        else result
        for result in results
    ]
