"""Energies of molecules in several states: which states, and their evaluation."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.evaluation import Result
from physnet_ase.observables.results import Kind, State
from physnet_ase.state import ElectronicState, as_state, is_possible, signed, with_state

Energies = tuple[float, ...]


def start_state(
    molecule: Atoms, calculator: PhysNetCalculator, state: State | None
) -> ElectronicState:
    """The given state, or the one in which the calculator sees the molecule."""
    return calculator.resolve_state(molecule) if state is None else as_state(state)


def seen_states(
    molecule: Atoms, calculator: PhysNetCalculator, charge: int | None = None
) -> list[ElectronicState]:
    """States the model was trained on that are possible for the molecule, sorted.

    Raises:
        ValueError: There is none (of this ``charge``).
    """
    found = sorted(
        state
        for state in calculator.potential.states
        if charge in (None, state.charge) and is_possible(molecule.numbers, state)
    )
    if not found:
        wanted = "" if charge is None else f" with charge {signed(charge)}"
        raise ValueError(
            f"the model has seen no state of {molecule.get_chemical_formula()}{wanted}"
            f" that its electrons allow; {_seen(calculator)}"
        )
    return found


def ion_states(
    molecule: Atoms,
    calculator: PhysNetCalculator,
    start: ElectronicState,
    charge_change: int,
) -> list[ElectronicState]:
    """States one electron away that the model has seen: multiplicities m±1.

    Raises:
        ValueError: The model has seen none.
    """
    charge = start.charge + charge_change
    wanted = (start.multiplicity - 1, start.multiplicity + 1)
    found = sorted(
        state
        for state in calculator.potential.states
        if state.charge == charge
        and state.multiplicity in wanted
        and is_possible(molecule.numbers, state)
    )
    if not found:
        raise ValueError(
            f"the model has seen no state with charge {signed(charge)} and a "
            f"multiplicity one away from {start} of {molecule.get_chemical_formula()}; "
            f"{_seen(calculator)}. Pass to_state= or retrain with ions"
        )
    return found


def final_states(
    molecule: Atoms,
    calculator: PhysNetCalculator,
    start: ElectronicState,
    given: State | None,
    charge_change: int,
) -> list[ElectronicState]:
    """The given final state, or those one electron away to choose from.

    Raises:
        ValueError: The given state has another charge, or the model has seen none.
    """
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


def _seen(calculator: PhysNetCalculator) -> str:
    listed = "; ".join(str(state) for state in sorted(calculator.potential.states))
    return f"seen in training: {listed}"


def evaluate_states(
    molecules: Sequence[Atoms],
    calculator: PhysNetCalculator,
    states: Sequence[Sequence[ElectronicState]],
    properties: Sequence[str],
) -> list[list[Result]]:
    """Evaluate each molecule in each of its states, all in one batch.

    Raises:
        ValueError: A structure or a state cannot be evaluated.
    """
    jobs = [
        with_state(molecule, state)
        for molecule, mine in zip(molecules, states, strict=True)
        for state in mine
    ]
    if not jobs:
        return []
    results = iter(
        calculator.potential.evaluate(
            jobs,
            properties=properties,
            allow_unseen_states=calculator.allow_unseen_states,
        )
    )
    return [[next(results) for _ in mine] for mine in states]


def vertical_energies(
    molecules: Sequence[Atoms],
    calculator: PhysNetCalculator,
    states: Sequence[Sequence[ElectronicState]],
) -> list[Energies]:
    """Energies in eV of each molecule in each of its states, in one batch.

    Raises:
        ValueError: A structure or a state cannot be evaluated.
    """
    rows = evaluate_states(molecules, calculator, states, ("energy",))
    return [tuple(float(result.energy) for result in row) for row in rows]


def check_open(molecule: Atoms, quantity: str) -> None:
    """Raise unless the molecule has no periodic direction.

    Raises:
        ValueError: It has one; the message names the ``quantity``.
    """
    if molecule.pbc.any():
        raise ValueError(
            f"{molecule.get_chemical_formula()}: a {quantity} belongs to a molecule; "
            f"got pbc={molecule.pbc.tolist()}"
        )


def check_kind(kind: Kind) -> None:
    """Raise unless ``kind`` is "vertical" or "adiabatic"."""
    if kind not in ("vertical", "adiabatic"):
        raise ValueError(f"kind must be 'vertical' or 'adiabatic', got {kind!r}")


def lowest(states: Sequence[ElectronicState], energies: Energies) -> ElectronicState:
    """The state of lowest energy."""
    return states[int(np.argmin(energies))]
