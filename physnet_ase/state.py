"""Electronic states: total charge and spin multiplicity, and which are possible."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

_Number = TypeVar("_Number", int, float)
StateKind = Literal["charge", "multiplicity", "unpaired"]
"""What a key says of the state: charge in e, 2S+1, or 2S."""
STATE_KEYS: dict[StateKind, tuple[str, ...]] = {
    "charge": ("charge", "total_charge", "net_charge", "molecular_charge", "Q"),
    "multiplicity": (
        "spin_multiplicity",
        "multiplicity",
        "mult",
        "spin",
        "total_spin",
        "spin_mult",
        "molecular_multiplicity",
        "S",
        "M",
    ),
    "unpaired": (
        "unpaired_electrons",
        "num_unpaired_electrons",
        "n_unpaired",
        "unpaired",
        "uhf",
    ),
}
"""Keys of ``atoms.info``, and of data files, that hold the state; all that are present
must agree. Letters may be of any case, but for keys of one letter."""
WHOLE_SUM_TOLERANCE = 1e-3
"""Largest rounding error of a sum over atoms that still counts as a whole number."""


@lru_cache(maxsize=1024)
def state_key(key: str) -> StateKind | None:
    """What a key says of the electronic state; None where it says nothing."""
    for kind, keys in STATE_KEYS.items():
        if key in keys or (len(key) > 1 and key.lower() in keys):
            return kind
    return None


def state_keys(available: Iterable[Any]) -> dict[StateKind, list[str]]:
    """The keys that hold charge, multiplicity and unpaired electrons."""
    found: dict[StateKind, list[str]] = {kind: [] for kind in STATE_KEYS}
    for key in available:
        kind = state_key(key) if isinstance(key, str) else None
        if kind is not None:
            found[kind].append(key)
    return found


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


def as_number(value: Any, name: str) -> float:
    """Return ``value`` as a float if it is one number of any type.

    Raises:
        ValueError: It is something else.
    """
    array = np.asarray(value)
    if array.ndim != 0 or array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be a single number, got {value!r}")
    return float(array)


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


def free_atom_multiplicity(number: int, charge: int) -> int | None:
    """2S+1 of the ground state of a free atom or ion; None where no table says it.

    Neutral atoms as ASE tabulates them; ions of the main groups up to argon as the
    neutral atom with as many electrons.
    """
    from ase.data import ground_state_magnetic_moments as moments

    electrons = number - charge
    if charge != 0 and not 0 < max(number, electrons) <= 18:
        return None
    if electrons == 0:
        return 1
    return 1 + round(float(moments[electrons])) if electrons < len(moments) else None


def default_multiplicity(numbers: Any, charge: int) -> int:
    """2S+1 where nothing names one: the lowest of the right parity.

    A free atom gets its ground state by Hund's rules where that is known: no one means
    the singlet of carbon or oxygen by writing the atom alone.
    """
    lowest = lowest_multiplicity(numbers, charge)
    if len(numbers) != 1:
        return lowest
    return free_atom_multiplicity(int(numbers[0]), charge) or lowest


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
    ``atoms.info`` (see ``STATE_KEYS``; attributes of these names that other packages
    put on ``Atoms`` count as entries), the argument, the sum of ``initial_charges``
    (for 2S: of ``initial_magmoms``) when any of them is not zero, the default (charge
    0, the lowest multiplicity of the right parity, a free atom's ground state).
    ``atoms.info`` is only read.

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
            _named(atoms, "charge"), ("charge", charge), lambda: _charge_sum(atoms)
        )
    except ValueError as error:
        raise ValueError(f"{error}; {_allowed_charges(numbers)}") from error
    known_charge = found_charge or 0
    check_possible(numbers, _lowest_state(numbers, known_charge))
    try:
        found_multiplicity, multiplicity_source = _lookup(
            _named(atoms, "multiplicity", "unpaired"),
            ("multiplicity", multiplicity),
            lambda: _multiplicity_sum(atoms),
        )
        state = ElectronicState(
            known_charge,
            default_multiplicity(numbers, known_charge)
            if found_multiplicity is None
            else found_multiplicity,
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


def stated_state(atoms: "Atoms") -> tuple[float | None, float | None]:
    """Charge and 2S+1 as ``resolve_state`` finds them, None where nothing says them.

    Neither whole nor possible need they be: a conversion lists what is not.

    Raises:
        ValueError: A value is no number, or two sources of the same rank disagree.
    """
    charge, _ = _lookup(
        _named(atoms, "charge", convert=as_number),
        ("charge", None),
        lambda: _charge_sum(atoms),
    )
    multiplicity, _ = _lookup(
        _named(atoms, "multiplicity", "unpaired", convert=as_number),
        ("multiplicity", None),
        lambda: _multiplicity_sum(atoms),
    )
    return charge, multiplicity


def with_state(atoms: "Atoms", state: ElectronicState) -> "Atoms":
    """Return a copy of ``atoms`` whose ``info`` holds ``state``; no calculator."""
    copy: Atoms = atoms.copy()
    for key in [key for keys in state_keys(copy.info).values() for key in keys]:
        del copy.info[key]
    copy.info["charge"] = state.charge
    copy.info["spin_multiplicity"] = state.multiplicity
    return copy


def _named(
    atoms: "Atoms",
    *kinds: StateKind,
    convert: Callable[[Any, str], _Number] = as_integer,
) -> dict[str, _Number]:
    """Charges, or 2S+1, in ``info`` and in attributes, by the words that name them.

    Raises:
        ValueError: One of them is not what ``convert`` takes.
    """
    named: dict[str, _Number] = {}
    info = {key: f"atoms.info[{key!r}]" for key in atoms.info if isinstance(key, str)}
    others = {key: f"atoms.{key}" for key in vars(atoms)}
    for kind in kinds:
        for entries, words in ((atoms.info, info), (vars(atoms), others)):
            for key in words:
                if state_key(key) != kind:
                    continue
                if len(key) == 1 and np.ndim(entries[key]) > 0:
                    continue  # an array under one letter is something else
                number = convert(entries[key], words[key])
                named[words[key]] = number + 1 if kind == "unpaired" else number
    return named


def _lookup(
    named: Mapping[str, _Number],
    argument: tuple[str, int | None],
    sum_fn: Callable[[], int | None],
) -> tuple[_Number | int | None, str]:
    """Return the first value found and the words that name its source.

    Raises:
        ValueError: Two names of the same thing disagree.
    """
    name, value = argument
    if len(set(named.values())) > 1:
        meaning = "charges" if name == "charge" else "multiplicities 2S+1"
        shown = ", ".join(f"{key} = {value:g}" for key, value in sorted(named.items()))
        raise ValueError(f"contradicting {meaning}: {shown}; keep one")
    if named:
        source, number = next(iter(named.items()))
        return number, source
    if value is not None:
        return as_integer(value, name), f"{name}={value}"
    total = sum_fn()
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
