"""What the user says about sources, and what keys of data files mean.

Names and units stand in ``physnet_ase.quantities`` and ``physnet_ase.state`` only.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from physnet_ase.quantities import DERIVED, QUANTITIES, labels
from physnet_ase.state import STATE_KEYS, state_key
from physnet_ase.units import conversion_factor, known_units


@dataclass(frozen=True)
class ReadOptions:
    """What the user says about the sources.

    Attributes:
        energy_unit: Unit of energies, where the file does not carry it.
        length_unit: Unit of positions and cells, where the file does not carry it.
        force_unit: Unit of forces; None: energy unit per length unit.
        dipole_unit: Unit of dipoles, where the file does not carry it.
        keys: Quantity -> key in the file, where the name is not a usual one or several
            compete.
        ignore: Keys that are left out, whatever they look like.
        where: Key -> value: only molecules for which the file says this.
        level: Level of theory, where the file does not carry it.
        allow_missing: Take NaN in a label as "this label is missing".
        assume_multiplicity: ``"lowest"`` fills in missing multiplicities.
        first_row: Only molecules with this 0-based number in the source or a higher
            one; readers seek where the format allows.
    """

    energy_unit: str | None = None
    length_unit: str | None = None
    force_unit: str | None = None
    dipole_unit: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    where: Mapping[str, str] = field(default_factory=dict)
    level: str | None = None
    allow_missing: bool = False
    assume_multiplicity: Literal["lowest"] | None = None
    first_row: int = 0


@dataclass
class Reading:
    """What a reader took from a source and what it left; filled while it reads.

    Attributes:
        units: Quantity -> unit taken and how it is known.
        unused: Keys that mean nothing here, in the order in which they came.
        ignored: Keys that were left out because the user said so.
    """

    units: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


N_ATOMS = ("n_atoms", "N")
"""Keys of the number of atoms of each molecule."""
PREFIXES = ("ref_", "reference_", "dft_")
"""Prefixes, in any case of letters, that keys of labels may have."""
LOOKS_LIKE = {
    "energy": "energy",
    "force": "forces",
    "gradient": "gradient",
    "dipole": "dipole",
    "stress": "stress",
    "virial": "virial",
    "charge": "total_charge",
    "mult": "spin_multiplicity",
    "spin": "spin_multiplicity",
}
"""Parts of keys that look like a label or a state -> what they look like."""
NO_LABELS = (
    "energies",
    "stresses",
    "magmom",
    "momenta",
    "velocities",
    "masses",
    "tags",
    "initial_charges",
    "initial_magmoms",
)
"""ASE's names for what is no label here: atomic energies, dynamics, starting values."""
STATE = ("total_charge", "spin_multiplicity")
_ASSUMED = {"length": "angstrom", "dipole": "e*angstrom", "charge": "e", "none": ""}
_VOLUMES = {"a3": "a^3", "ang3": "ang^3", "angstrom3": "angstrom^3", "bohr3": "bohr^3"}


@dataclass(frozen=True)
class Meaning:
    """What a key says by its name: a sought quantity, its unit, a level of theory."""

    quantity: str
    unit: str = ""
    level: str = ""


def sought() -> dict[str, tuple[str, ...]]:
    """What readers look for: quantity -> keys under which data files store it."""
    found = {name: QUANTITIES[name].aliases for name in ("atomic_numbers", "positions")}
    found["n_atoms"] = N_ATOMS
    for label in labels():
        found[label.name] = (label.name, *label.aliases)
    found |= {name: keys for name, (_, _, keys) in DERIVED.items()}
    found["total_charge"] = STATE_KEYS["charge"]
    found["spin_multiplicity"] = STATE_KEYS["multiplicity"] + STATE_KEYS["unpaired"]
    found |= {name: QUANTITIES[name].aliases for name in ("cell", "pbc")}
    return found | {"name": QUANTITIES["group"].aliases}


def trainable() -> tuple[str, ...]:
    """Labels as files may hold them: those of the table and those derived from them."""
    return (*(label.name for label in labels()), *DERIVED)


def field_of(quantity: str) -> str:
    """The quantity of the table that a sought one becomes."""
    return DERIVED[quantity][0] if quantity in DERIVED else quantity


def _dimension_of(quantity: str) -> str:
    """Kind of unit of a sought quantity."""
    if quantity in DERIVED:
        return DERIVED[quantity][1]
    return QUANTITIES[quantity].dimension


def meaning(key: str) -> Meaning | None:
    """What a key says by its name; None where it says nothing."""
    return _meaning(key, tuple(QUANTITIES))


@lru_cache(maxsize=4096)
def _meaning(key: str, _table: tuple[str, ...]) -> Meaning | None:
    kind = state_key(key)
    if kind is not None:
        return Meaning("total_charge" if kind == "charge" else "spin_multiplicity")
    plain = without_prefix(key)
    for quantity, names in sought().items():
        if _is_one_of(key, names):
            return Meaning(quantity)
        if quantity in trainable() and _is_one_of(plain, names):
            return Meaning(quantity)
    for quantity in trainable():
        for name in sought()[quantity]:
            found = _suffixed(quantity, name, plain)
            if found is not None:
                return found
    return None


def without_prefix(key: str) -> str:
    """A key without the words that say where labels come from."""
    for prefix in PREFIXES:
        if key.lower().startswith(prefix):
            return key[len(prefix) :]
    return key


def _is_one_of(key: str, names: Iterable[str]) -> bool:
    """Letters may be of any case, but for names of one letter."""
    return any(
        key == name or (len(name) > 1 and key.lower() == name.lower()) for name in names
    )


def _suffixed(quantity: str, name: str, key: str) -> Meaning | None:
    """As ``energy_hartree_B3LYP``: a name, its unit, a level of theory behind it."""
    head = key[: len(name) + 1]
    exact = len(name) == 1 and head != name + "_"
    if head.lower() != name.lower() + "_" or exact:
        return None
    parts = key[len(name) + 1 :].split("_")
    for end in range(min(len(parts), 4), 0, -1):
        words = [part.lower() for part in parts[:end] if part.lower() != "per"]
        words = [_VOLUMES.get(word, word) for word in words]
        for unit in ("/".join(words), "*".join(words)):
            if conversion_factor(_dimension_of(quantity), unit) is not None:
                return Meaning(quantity, unit, "_".join(parts[end:]))
    return None


def find_keys(
    quantity: str, available: Iterable[str], chosen: Mapping[str, str]
) -> list[str]:
    """Keys that hold a quantity: the chosen one, or all that are named like it.

    Raises:
        ValueError: The chosen key is not there.
    """
    present = [key for key in available if isinstance(key, str)]
    if quantity not in chosen:
        named = [k for k in present if (m := meaning(k)) and m.quantity == quantity]
        usual = sought()[quantity]  # others come behind
        return sorted(named, key=lambda k: (*usual, k).index(k))
    key = chosen[quantity]
    if key not in present:
        near = difflib.get_close_matches(key, present, n=3, cutoff=0.4)
        raise ValueError(
            f"unknown key {key!r} asked for as {quantity}; "
            f"{'similar' if near else 'present'}: {', '.join(near or present)}"
        )
    return [key]


def find_all_keys(
    quantities: Iterable[str], available: Iterable[str], chosen: Mapping[str, str]
) -> dict[str, list[str]]:
    """Quantity -> keys; of a label that is stored in two ways, one.

    A key that was chosen as one thing is nothing else. A virial beside a stress says
    the same again. So do a gradient and forces, but which is which has to be said.

    Raises:
        ValueError: As for ``find_keys``, or there are forces and a gradient.
    """
    present = list(available)
    keys = {}
    for quantity in quantities:
        taken = {key for name, key in chosen.items() if name != quantity}
        free = [key for key in present if key not in taken]
        keys[quantity] = find_keys(quantity, free, chosen)
    if keys.get("stress") and "virial" in keys:
        keys["virial"] = []
    if keys.get("forces") and keys.get("gradient"):
        asked = {"forces", "gradient"} & set(chosen)
        if len(asked) != 1:
            raise ValueError(
                f"there are forces ({keys['forces'][0]}) and a gradient "
                f"({keys['gradient'][0]}); choose with --key "
                f"forces={keys['forces'][0]}"
            )
        keys[({"forces", "gradient"} - asked).pop()] = []
    return keys


def competing(quantity: str, keys: list[str]) -> ValueError:
    """The error for several keys that may not stand side by side."""
    return ValueError(
        f"several keys could be the {quantity}: {', '.join(keys)}; choose with "
        f"--key {quantity}={keys[0]}"
    )


def check_unused(
    unused: Mapping[str, Any],
    vectors: Iterable[str],
    options: ReadOptions,
    reading: Reading,
) -> None:
    """Note the keys that are not read; refuse those that look like labels or states.

    What competes with a key that the user chose is settled and only noted.

    Args:
        unused: Key -> its array or value.
        vectors: Keys of those that hold three numbers for each atom.
        options: What the user says.
        reading: Where they are noted.

    Raises:
        ValueError: The message names the keys and what to say.
    """
    settled = {family for name in options.keys for family in _family(name)}
    stopping = {}
    for key, value in unused.items():
        if key not in reading.unused:
            reading.unused.append(key)
        like = _looks_like(key, value, key in vectors)
        if like is not None and not settled & _family(like):
            stopping[key] = like
    if stopping:
        first, like = next(iter(stopping.items()))
        what = ", ".join(
            f"{key} looks like {name.replace('_', ' ')}"
            for key, name in stopping.items()
        )
        ignored = " ".join(f"--ignore {key}" for key in stopping)
        raise ValueError(
            f"{what}, but {'is' if len(stopping) == 1 else 'are'} not read; leave out "
            f"with {ignored}, or take with --key {like}={first}"
        )


def _looks_like(key: str, value: Any, vector: bool) -> str | None:
    if key in NO_LABELS or np.asarray(value).dtype.kind not in "iuf":
        return None
    named = meaning(key)
    if named is not None and named.quantity in (*trainable(), *STATE):
        return named.quantity
    for part, like in LOOKS_LIKE.items():
        if part in key.lower():
            return like
    return "forces" if vector else None


def _family(quantity: str) -> set[str]:
    """What is settled together with a quantity."""
    families = (
        {"forces", "gradient"},
        {"stress", "virial"},
        {"total_charge", "charges"},
        {"spin_multiplicity", "spin_populations"},
    )
    return next((family for family in families if quantity in family), {quantity})


class UnitChoice:
    """Resolves units: what the file declares, the key's suffix, option, format.

    Args:
        options: What the user says.
        reading: Receives quantity -> unit and how it is known.
        declared: Key -> unit as the file itself declares it.
        defaults: Key -> unit by definition of the file's format.
    """

    def __init__(
        self,
        options: ReadOptions,
        reading: Reading,
        *,
        declared: Mapping[str, str],
        defaults: Mapping[str, str],
    ) -> None:
        self.options = options
        self.units = reading.units
        self._factors: dict[tuple[str, str], float] = {}
        self.declared = declared
        self.defaults = defaults

    def factor(self, quantity: str, key: str) -> float:
        """Factor to the internal unit; negative for a gradient, which is -force.

        Raises:
            ValueError: The unit is missing or unknown, or file and option disagree.
        """
        if (quantity, key) not in self._factors:
            unit, why = self._choose(quantity, key)
            if unit:
                self.units.setdefault(quantity, f"{unit} ({why})")
            factor = factor_to_internal(quantity, unit)
            sign = -1.0 if quantity == "gradient" else 1.0
            self._factors[quantity, key] = sign * factor
        return self._factors[quantity, key]

    def _choose(self, quantity: str, key: str) -> tuple[str, str]:
        option, dimension = self._option(quantity), _dimension_of(quantity)
        named = meaning(key)
        stated = self.declared.get(key) or (named.unit if named is not None else "")
        if stated:
            if option and factor_to_internal(quantity, stated) != factor_to_internal(
                quantity, option
            ):
                raise ValueError(
                    f"{key} is in {stated} by the file, in {option} by the options; "
                    "drop the option or correct the file"
                )
            return stated, f"the file says so of {key}"
        if option:
            return option, "by option"
        usual = self.defaults.get(key)
        if usual:
            return usual, f"{key} is so by the file's format"
        if dimension in ("charge", "none"):
            return _ASSUMED[dimension], "always"
        if dimension in _ASSUMED:
            return _ASSUMED[dimension], "assumed, neither file nor option says"
        raise ValueError(
            f"units missing: {key} ({quantity}) carries none; give --energy-unit (and "
            "--length-unit if lengths are not in angstrom)"
        )

    def _option(self, quantity: str) -> str | None:
        options, dimension = self.options, _dimension_of(quantity)
        energy, length = options.energy_unit, options.length_unit or "angstrom"
        given = {
            "energy": energy,
            "length": options.length_unit,
            "dipole": options.dipole_unit,
            "force": options.force_unit or (energy and f"{energy}/{length}"),
            "stress": energy and f"{energy}/{length}^3",
        }
        return given.get(dimension)


def factor_to_internal(quantity: str, unit: str) -> float:
    """Factor from a unit to the one used inside (eV, Å, eV/Å, e·Å, e, eV/Å³).

    Raises:
        ValueError: The unit is unknown; the message lists the known ones.
    """
    dimension = _dimension_of(quantity)
    if dimension == "none":
        return 1.0
    factor = conversion_factor(dimension, unit)
    if factor is None:
        raise ValueError(
            f"unknown unit {unit!r} of {quantity}; known: "
            f"{', '.join(known_units(dimension))}"
        )
    return factor


def key_table() -> list[str]:
    """Which keys mean what and who reads them, as a table in Markdown."""
    words = {
        "atomic_numbers": "atomic numbers, or element symbols",
        "n_atoms": "atoms per molecule, of ragged arrays",
        "gradient": "gradient, the negative forces",
        "virial": "virial, the negative stress times the volume",
        "cell": "cell vectors",
        "pbc": "periodic directions",
        "name": "name, to hold out whole molecules",
    }
    state = ("calculator, commands, `label`, `convert`", "total charge")
    rows = [(*state, STATE_KEYS["charge"])]
    rows.append((state[0], "multiplicity 2S+1", STATE_KEYS["multiplicity"]))
    rows.append((state[0], "unpaired electrons 2S", STATE_KEYS["unpaired"]))
    rows += [
        ("`convert`", words.get(name, name.replace("_", " ")), keys)
        for name, keys in sought().items()
        if name not in STATE
    ]
    rows.append(("`convert`", "level of theory", QUANTITIES["level"].aliases))
    lines = ["| what | keys | who reads them |", "|---|---|---|"]
    for who, what, keys in rows:
        shown = ", ".join(f"`{key}`" for key in dict.fromkeys(keys))
        lines.append(f"| {what} | {shown} | {who} |")
    return lines


Array = NDArray[Any]
_WHOLE = ("level_of_theory", "theory")
_METHODS = ("method", "functional")
_BASES = ("basis", "basis_set")


def level_columns(available: Collection[Any], options: ReadOptions) -> list[str]:
    """Keys that say the level of theory, without those that ``--where`` fixes.

    Where there is a solvent model, the word of a solvent says nothing more.

    Raises:
        ValueError: The key that was chosen is not there.
    """
    chosen = options.keys.get("level")
    if chosen is not None:
        if chosen not in available:
            raise ValueError(f"there is no key {chosen!r}, asked for as level")
        return [chosen]
    columns = [
        key
        for key in available
        if isinstance(key, str) and key.lower() in QUANTITIES["level"].aliases
    ]
    if any(key.lower() == "solvent_model" for key in columns):
        columns = [key for key in columns if key.lower() != "solvent"]
    return [key for key in columns if key not in options.where]


def level_of(
    columns: Mapping[str, Any], otherwise: str, options: ReadOptions
) -> str | Array:
    """The level of theory: one word, or one for each molecule where columns differ.

    Args:
        columns: Key of ``level_columns`` -> word, or array of words.
        otherwise: What the format or the key of the energy says.
        options: ``level`` names what the file does not say.

    Raises:
        ValueError: ``--level`` names one level, but the columns hold several.
    """
    tables = {key: np.atleast_1d(np.asarray(words)) for key, words in columns.items()}
    different = any((words != words[0]).any() for words in tables.values())
    if options.level:
        if different:
            refuse_one_level(tables, options)
        return options.level
    if not different:  # the usual case
        return name_of({k: str(words[0]) for k, words in tables.items()}, otherwise)
    rows = np.broadcast_arrays(*tables.values())
    names = [
        name_of(dict(zip(tables, map(str, row), strict=True)), otherwise)
        for row in zip(*rows, strict=True)
    ]
    return np.array(names)


def refuse_one_level(columns: Mapping[str, Any], options: ReadOptions) -> None:
    """Stop: one level was asked for, and there are several.

    Raises:
        ValueError: Always.
    """
    shown = "; ".join(
        f"{key} is {', '.join(sorted(set(map(str, words)))[:4])}"
        for key, words in columns.items()
    )
    key = next(iter(columns))
    raise ValueError(
        f"--level {options.level!r} names one level of theory for all, but {shown}; "
        f"keep one with --where {key}=VALUE, or leave --level out to store each one's "
        "own"
    )


def name_of(said: Mapping[str, str], otherwise: str) -> str:
    """``METHOD/BASIS, SOLVENT`` of what one molecule's columns say."""
    return _name(tuple(said.items()), otherwise)


@lru_cache(maxsize=1024)
def _name(said: tuple[tuple[str, str], ...], otherwise: str) -> str:
    words = {key.lower(): word for key, word in said if word}

    def first(keys: tuple[str, ...]) -> str:
        return next((words.pop(key) for key in keys if key in words), "")

    whole, method, basis = first(_WHOLE), first(_METHODS), first(_BASES)
    if not whole:
        method = method or otherwise
    both = "/".join(word for word in (method, basis) if word)
    parts = dict.fromkeys([whole, both, *words.values()])
    return ", ".join(part for part in parts if part)
