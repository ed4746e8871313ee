"""Electronic states: total charge and spin multiplicity, and which are possible."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

CHARGE_KEYS = ("charge",)
"""Keys of ``atoms.info`` that hold the total charge in e."""
MULTIPLICITY_KEYS = ("spin_multiplicity", "multiplicity", "mult", "spin")
"""Keys of ``atoms.info`` that hold 2S+1; any that are present must agree."""
WHOLE_SUM_TOLERANCE = 1e-3
"""Largest rounding error of a sum over atoms that still counts as a whole number."""


def signed(charge: int) -> str:
    """The charge as people write it: +1, 0, -1."""
    return f"{charge:+d}" if charge else "0"


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
        return f"charge {signed(self.charge)}, multiplicity {self.multiplicity}"


def as_state(state: "ElectronicState | tuple[int, int]") -> ElectronicState:
    """Return a state from itself or from ``(charge, multiplicity)``."""
    return state if isinstance(state, ElectronicState) else ElectronicState(*state)


def num_electrons(numbers: Any, charge: int) -> int:
    """Number of electrons of atoms with atomic ``numbers`` at total ``charge``."""
    return int(np.sum(np.asarray(numbers, dtype=np.int64))) - charge


def lowest_multiplicity(numbers: Any, charge: int) -> int:
    """Lowest 2S+1 of the right parity: 1 for even, 2 for odd electron counts."""
    return 1 + num_electrons(numbers, charge) % 2


def is_possible(numbers: Any, state: ElectronicState) -> bool:
    """Whether atoms with atomic ``numbers`` can be in ``state`` at all."""
    electrons = num_electrons(numbers, state.charge)
    unpaired = state.multiplicity - 1
    return 0 <= unpaired <= electrons and (electrons - unpaired) % 2 == 0


def check_possible(numbers: Any, state: ElectronicState) -> None:
    """Raise unless ``state`` is possible for these atoms.

    Raises:
        ValueError: More charge than protons, more unpaired electrons than electrons,
            or a multiplicity of the wrong parity; the message names the electron
            count and the multiplicities that are allowed.
    """
    if is_possible(numbers, state):
        return
    if num_electrons(numbers, state.charge) < 0:
        raise ValueError(
            f"charge {signed(state.charge)} removes more electrons than there are; "
            f"{_allowed_charges(numbers)}"
        )
    raise ValueError(
        f"multiplicity {state.multiplicity} (2S+1) is impossible; "
        f"{_allowed_multiplicities(numbers, state.charge)}"
    )


def _allowed_charges(numbers: Any) -> str:
    electrons = num_electrons(numbers, 0)
    return (
        f"neutral it has {electrons} electrons; allowed: whole charges up to "
        f"{electrons:+d}"
    )


def _allowed_multiplicities(numbers: Any, charge: int) -> str:
    electrons = num_electrons(numbers, charge)
    allowed = list(range(1 + electrons % 2, electrons + 2, 2))
    shown = ", ".join(map(str, allowed[:4])) + (", …" if len(allowed) > 4 else "")
    return (
        f"with charge {signed(charge)} it has {electrons} electrons; allowed "
        f"multiplicities: {shown}"
    )


def resolve_state(
    atoms: "Atoms",
    charge: int | None = None,
    multiplicity: int | None = None,
    *,
    strict: bool = False,
) -> ElectronicState:
    """Return the state of ``atoms`` from the first source that names it.

    Charge and multiplicity are looked up separately, each in this order:
    ``atoms.info``, the argument, the sum of ``initial_charges`` (for 2S: of
    ``initial_magmoms``) when any of them is not zero, the default (charge 0, lowest
    multiplicity of the right parity). ``atoms.info`` is only read.

    Args:
        atoms: The molecule or cell.
        charge: Total charge in e where ``atoms.info`` holds none.
        multiplicity: 2S+1 where ``atoms.info`` holds none.
        strict: Refuse to fall back on the default.

    Raises:
        ValueError: A value is not a whole number, two keys of ``atoms.info`` disagree,
            the state is impossible for these atoms, or ``strict`` and no source.
    """
    try:
        return _resolve(atoms, charge, multiplicity, strict)
    except ValueError as error:
        raise ValueError(f"{atoms.get_chemical_formula()}: {error}") from error


def _resolve(
    atoms: "Atoms", charge: int | None, multiplicity: int | None, strict: bool
) -> ElectronicState:
    numbers = atoms.numbers
    try:
        found_charge, charge_source = _lookup(
            atoms, CHARGE_KEYS, ("charge", charge), _charge_sum
        )
    except ValueError as error:
        raise ValueError(f"{error}; {_allowed_charges(numbers)}") from error
    known_charge = found_charge or 0
    check_possible(numbers, _lowest_state(numbers, known_charge))
    try:
        found_multiplicity, multiplicity_source = _lookup(
            atoms, MULTIPLICITY_KEYS, ("multiplicity", multiplicity), _multiplicity_sum
        )
        state = (
            _lowest_state(numbers, known_charge)
            if found_multiplicity is None
            else ElectronicState(known_charge, found_multiplicity)
        )
    except ValueError as error:
        allowed = _allowed_multiplicities(numbers, known_charge)
        raise ValueError(f"{error}; {allowed}") from error
    found = {"charge": found_charge, "multiplicity": found_multiplicity}
    missing = [name for name, value in found.items() if value is None]
    if strict and missing:
        raise ValueError(
            f"strict=True and no {' and no '.join(missing)} given; set "
            "atoms.info['charge'] and atoms.info['spin_multiplicity'], or pass charge= "
            "and multiplicity="
        )
    try:
        check_possible(numbers, state)
    except ValueError as error:
        raise ValueError(
            f"{error} (charge from {charge_source}, multiplicity from "
            f"{multiplicity_source})"
        ) from error
    return state


def with_state(atoms: "Atoms", state: ElectronicState) -> "Atoms":
    """Return a copy of ``atoms`` whose ``info`` holds ``state``; no calculator."""
    copy: Atoms = atoms.copy()
    for key in MULTIPLICITY_KEYS:
        copy.info.pop(key, None)
    copy.info["charge"] = state.charge
    copy.info["spin_multiplicity"] = state.multiplicity
    return copy


def _lookup(
    atoms: "Atoms",
    keys: Sequence[str],
    argument: tuple[str, int | None],
    sum_fn: Callable[["Atoms"], int | None],
) -> tuple[int | None, str]:
    """Return the first value found and the words that name its source."""
    values = {
        key: as_integer(atoms.info[key], f"atoms.info[{key!r}]")
        for key in keys
        if key in atoms.info
    }
    if len(set(values.values())) > 1:
        shown = ", ".join(f"{key}={value}" for key, value in values.items())
        raise ValueError(
            f"atoms.info holds contradicting multiplicities 2S+1: {shown}; keep one"
        )
    if values:
        return next(iter(values.values())), f"atoms.info[{next(iter(values))!r}]"
    name, value = argument
    if value is not None:
        return as_integer(value, name), f"{name}={value}"
    total = sum_fn(atoms)
    if total is not None:
        return total, "the atoms' initial " + (
            "charges" if name == "charge" else "magnetic moments"
        )
    return None, "the default"


def _charge_sum(atoms: "Atoms") -> int | None:
    """Total of ``initial_charges`` in e, or None when all are zero or absent."""
    if not atoms.has("initial_charges") or not atoms.arrays["initial_charges"].any():
        return None
    return _whole_sum(atoms.arrays["initial_charges"], "initial_charges")


def _multiplicity_sum(atoms: "Atoms") -> int | None:
    """2S+1 of the total of ``initial_magmoms``, or None when all are zero or absent."""
    if not atoms.has("initial_magmoms") or not atoms.arrays["initial_magmoms"].any():
        return None
    moments = atoms.arrays["initial_magmoms"]
    if moments.ndim != 1:
        raise ValueError(
            f"initial_magmoms must hold one number per atom, got shape "
            f"{moments.shape}; set atoms.info['spin_multiplicity'] instead"
        )
    # A molecule whose majority spin points down has the same multiplicity.
    return 1 + abs(_whole_sum(moments, "initial_magmoms"))


def _lowest_state(numbers: Any, charge: int) -> ElectronicState:
    return ElectronicState(charge, lowest_multiplicity(numbers, charge))


def _whole_sum(values: np.ndarray, name: str) -> int:
    total = float(np.sum(values, dtype=np.float64))
    if not np.isfinite(total) or abs(total - round(total)) > WHOLE_SUM_TOLERANCE:
        key = "charge" if name == "initial_charges" else "spin_multiplicity"
        raise ValueError(
            f"the sum of {name} must be a whole number, got {total:.6g}; correct "
            f"them or set atoms.info[{key!r}]"
        )
    return round(total)
