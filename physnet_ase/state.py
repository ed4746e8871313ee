"""Electronic states: total charge and spin multiplicity, and what makes them possible."""

from dataclasses import dataclass
from typing import Any

import numpy as np


def as_integer(value: Any, name: str) -> int:
    """Return ``value`` as an int if it is a whole number of any numeric type.

    Accepts Python and NumPy integers, 0-d arrays and whole floats.

    Raises:
        ValueError: ``value`` is not a single whole number.
    """
    array = np.asarray(value)
    whole = (
        array.ndim == 0
        and array.dtype.kind in "iuf"
        and bool(np.isfinite(array))
        and float(array) == int(array)
    )
    if not whole:
        raise ValueError(f"{name} must be a single whole number, got {value!r}")
    return int(array)


@dataclass(frozen=True, order=True)
class ElectronicState:
    """Total charge in e and spin multiplicity 2S+1 of a molecule.

    Raises:
        ValueError: A value is not a whole number, or the multiplicity is below 1.
    """

    charge: int = 0
    multiplicity: int = 1

    def __post_init__(self) -> None:
        """Coerce whole numbers of any type to int."""
        object.__setattr__(self, "charge", as_integer(self.charge, "charge"))
        multiplicity = as_integer(self.multiplicity, "multiplicity")
        if multiplicity < 1:
            raise ValueError(f"multiplicity is 2S+1 and at least 1, got {multiplicity}")
        object.__setattr__(self, "multiplicity", multiplicity)

    def __str__(self) -> str:
        return f"charge {self.charge:+d}, multiplicity {self.multiplicity}"


def as_state(state: "ElectronicState | tuple[int, int]") -> ElectronicState:
    """Return a state from itself or from ``(charge, multiplicity)``."""
    return state if isinstance(state, ElectronicState) else ElectronicState(*state)


def num_electrons(numbers: Any, charge: int) -> int:
    """Number of electrons of atoms with atomic ``numbers`` at total ``charge``."""
    return int(np.sum(np.asarray(numbers, dtype=np.int64))) - charge


def lowest_multiplicity(numbers: Any, charge: int) -> int:
    """Lowest 2S+1 of the right parity: 1 for an even electron count, 2 for an odd one."""
    return 1 + num_electrons(numbers, charge) % 2


def check_possible(numbers: Any, state: ElectronicState) -> None:
    """Raise unless ``state`` is possible for these atoms.

    Raises:
        ValueError: More charge than protons, more unpaired electrons than electrons,
            or a multiplicity of the wrong parity; the message names the electron
            count and the multiplicities that are allowed.
    """
    electrons = num_electrons(numbers, state.charge)
    if electrons < 0:
        raise ValueError(
            f"charge {state.charge:+d} removes more electrons than the "
            f"{electrons + state.charge} protons of this molecule hold; allowed: at "
            f"most {electrons + state.charge:+d}"
        )
    if state.multiplicity - 1 > electrons or (electrons - state.multiplicity) % 2 == 0:
        allowed = list(range(1 + electrons % 2, electrons + 2, 2))
        shown = ", ".join(map(str, allowed[:4])) + (", …" if len(allowed) > 4 else "")
        raise ValueError(
            f"multiplicity {state.multiplicity} (2S+1) is impossible with {electrons} "
            f"electrons (charge {state.charge:+d}); allowed: {shown}"
        )
