"""What a key of a data file means, and in which unit its numbers are.

Names and units stand in ``physnet_ase.quantities`` and ``physnet_ase.state`` only.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from physnet_ase.quantities import DERIVED, QUANTITIES, labels
from physnet_ase.state import STATE_KEYS, state_key
from physnet_ase.units import conversion_factor, known_units
from physnet_training.sources.options import Reading, ReadOptions

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
_ASSUMED = {"length": "angstrom", "dipole": "e*angstrom", "charge": "e", "none": ""}
_VOLUMES = {"a3": "a^3", "ang3": "ang^3", "angstrom3": "angstrom^3", "bohr3": "bohr^3"}


@dataclass(frozen=True)
class Meaning:
    """What a key says by its name.

    Attributes:
        quantity: Name in ``sought()``.
        unit: As the key carries it, empty where it does not.
        level: Level of theory, what follows the unit.
    """

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


def dimension_of(quantity: str) -> str:
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
    """A key that continues a name with a unit, and a level of theory behind it.

    ``energy_hartree_B3LYP`` is in hartree at B3LYP, ``gradient_hartree_bohr`` in
    hartree/bohr.
    """
    head = key[: len(name) + 1]
    exact = len(name) == 1 and head != name + "_"
    if head.lower() != name.lower() + "_" or exact:
        return None
    parts = key[len(name) + 1 :].split("_")
    for end in range(min(len(parts), 4), 0, -1):
        words = [part.lower() for part in parts[:end] if part.lower() != "per"]
        words = [_VOLUMES.get(word, word) for word in words]
        for unit in ("/".join(words), "*".join(words)):
            if conversion_factor(dimension_of(quantity), unit) is not None:
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
        named = [key for key in present if _means(key, quantity)]
        return sorted(named, key=lambda key: _rank(quantity, key))
    key = chosen[quantity]
    if key not in present:
        near = difflib.get_close_matches(key, present, n=3, cutoff=0.4)
        raise ValueError(
            f"unknown key {key!r} asked for as {quantity}; "
            f"{'similar' if near else 'present'}: {', '.join(near or present)}"
        )
    return [key]


def _means(key: str, quantity: str) -> bool:
    found = meaning(key)
    return found is not None and found.quantity == quantity


def _rank(quantity: str, key: str) -> int:
    """Place of a key among the usual ones; others come behind."""
    names = sought()[quantity]
    return names.index(key) if key in names else len(names)


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
    if named is not None and named.quantity in (*trainable(), *_STATE):
        return named.quantity
    for part, like in LOOKS_LIKE.items():
        if part in key.lower():
            return like
    return "forces" if vector else None


_STATE = ("total_charge", "spin_multiplicity")


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
        option, dimension = self._option(quantity), dimension_of(quantity)
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
        if key in self.defaults:
            return self.defaults[key], f"{key} is so by the file's format"
        if dimension in ("charge", "none"):
            return _ASSUMED[dimension], "always"
        if dimension in _ASSUMED:
            return _ASSUMED[dimension], "assumed, neither file nor option says"
        raise ValueError(
            f"units missing: {key} ({quantity}) carries none; give --energy-unit (and "
            "--length-unit if lengths are not in angstrom)"
        )

    def _option(self, quantity: str) -> str | None:
        options, dimension = self.options, dimension_of(quantity)
        length = options.length_unit or "angstrom"
        if dimension == "force" and options.force_unit:
            return options.force_unit
        composed = options.energy_unit and {
            "force": f"{options.energy_unit}/{length}",
            "stress": f"{options.energy_unit}/{length}^3",
        }
        simple = {
            "energy": options.energy_unit,
            "length": options.length_unit,
            "dipole": options.dipole_unit,
        }
        return simple.get(dimension) or (composed or {}).get(dimension)


def factor_to_internal(quantity: str, unit: str) -> float:
    """Factor from a unit to the one used inside (eV, Å, eV/Å, e·Å, e, eV/Å³).

    Raises:
        ValueError: The unit is unknown; the message lists the known ones.
    """
    dimension = dimension_of(quantity)
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
        if name not in _STATE
    ]
    rows.append(("`convert`", "level of theory", QUANTITIES["level"].aliases))
    lines = ["| what | keys | who reads them |", "|---|---|---|"]
    for who, what, keys in rows:
        shown = ", ".join(f"`{key}`" for key in dict.fromkeys(keys))
        lines.append(f"| {what} | {shown} | {who} |")
    return lines
