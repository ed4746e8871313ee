"""What a key of a data file means, and in which unit its numbers are."""

import difflib
from collections.abc import Iterable, Mapping

from physnet_ase.units import (
    GIGAPASCAL,
    TO_ANGSTROM,
    TO_ELECTRON_ANGSTROM,
    TO_EV,
)

ALIASES: dict[str, tuple[str, ...]] = {
    "atomic_numbers": ("atomic_numbers", "numbers", "species", "Z", "z"),
    "positions": ("positions", "R", "coord", "coordinates"),
    "n_atoms": ("n_atoms", "N"),
    "energy": ("energy", "E", "REF_energy"),
    "forces": ("forces", "F", "REF_forces"),
    "gradient": ("gradient", "gradients"),
    "dipole": ("dipole", "D"),
    "total_charge": ("total_charge", "charge", "Q"),
    "spin_multiplicity": (
        "spin_multiplicity",
        "multiplicity",
        "mult",
        "spin",
        "total_spin",
        "S",
        "M",
    ),
    "charges": ("charges", "q", "mulliken_charges", "hirshfeld_charges"),
    "spin_populations": ("spin_populations", "spin_charges", "magmoms"),
    "cell": ("cell",),
    "pbc": ("pbc",),
    "stress": ("stress",),
    "virial": ("virial", "virials"),
    "name": ("name",),
}
"""Quantity -> keys under which data files store it; every spin is 2S+1."""

_STATE = ("total_charge", "spin_multiplicity")
_SUFFIXED = ("energy", "forces", "gradient", "dipole")
_ENERGY_UNITS = {name.lower(): factor for name, factor in TO_EV.items()} | {
    "ha": TO_EV["hartree"],
    "eh": TO_EV["hartree"],
}
_LENGTH_UNITS = TO_ANGSTROM | {"ang": 1.0, "å": 1.0}
_DIPOLE_UNITS = TO_ELECTRON_ANGSTROM | {
    "e*å": 1.0,
    "d": TO_ELECTRON_ANGSTROM["debye"],
    "elementary_charge*bohr": TO_ELECTRON_ANGSTROM["e*bohr"],
    "elementary_charge*angstrom": 1.0,
}
_CHARGE_UNITS = ("e", "electrons", "electron", "elementary_charge")
_PRESSURE_UNITS = {"gpa": GIGAPASCAL, "kbar": GIGAPASCAL / 10}

LABEL_QUANTITIES = (
    "energy",
    "forces",
    "gradient",
    "dipole",
    "charges",
    "spin_populations",
    "stress",
    "virial",
)
"""Quantities a file may hold as labels; a gradient is the negative force, a virial the
negative stress times the volume."""


def find_keys(
    quantity: str, available: Iterable[str], chosen: Mapping[str, str]
) -> list[str]:
    """Keys that hold a quantity: the chosen one, or all that are named like it.

    Several keys are returned for charge and multiplicity only; the reader compares
    them.

    Raises:
        ValueError: The chosen key is not there, or several keys compete.
    """
    present = list(available)
    if quantity in chosen:
        key = chosen[quantity]
        if key not in present:
            near = difflib.get_close_matches(key, present, n=3, cutoff=0.4)
            raise ValueError(
                f"unknown key {key!r} asked for as {quantity}; "
                f"{'similar' if near else 'present'}: {', '.join(near or present)}"
            )
        return [key]
    found = [key for key in ALIASES[quantity] if key in present]
    if quantity in _SUFFIXED:
        found += [k for k in present if k not in found and unit_suffix(quantity, k)[0]]
    if len(found) > 1 and quantity not in _STATE:
        raise ValueError(
            f"several keys could be the {quantity}: {', '.join(found)}; choose with "
            f"--key {quantity}={found[0]}"
        )
    return found


def find_all_keys(
    quantities: Iterable[str], available: Iterable[str], chosen: Mapping[str, str]
) -> dict[str, list[str]]:
    """Quantity -> keys; of a label that is stored in two ways, one.

    A virial beside a stress says the same again. So do a gradient and forces, but which
    is which has to be said.

    Raises:
        ValueError: As for ``find_keys``, or there are forces and a gradient.
    """
    present = list(available)
    keys = {quantity: find_keys(quantity, present, chosen) for quantity in quantities}
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


def unit_suffix(quantity: str, key: str) -> tuple[str | None, str]:
    """Unit at the end of a key's first part, and what follows it.

    ``energy_hartree_B3LYP`` is ``("hartree", "B3LYP")``, ``gradient_hartree_bohr`` is
    ``("hartree/bohr", "")``, ``energy`` is ``(None, "")``.
    """
    for alias in ALIASES[quantity]:
        if not key.lower().startswith(alias.lower() + "_"):
            continue
        parts = key[len(alias) + 1 :].split("_")
        for end in range(min(len(parts), 4), 0, -1):
            words = [part.lower() for part in parts[:end] if part.lower() != "per"]
            for unit in ("/".join(words), "*".join(words)):
                if _known_factor(quantity, unit) is not None:
                    return unit, "_".join(parts[end:])
    return None, ""


def factor_to_internal(quantity: str, unit: str) -> float:
    """Factor from a unit to the one used inside (eV, Å, eV/Å, e·Å, e, eV/Å³).

    Raises:
        ValueError: The unit is unknown; the message lists the known ones.
    """
    plain = unit.split("(")[0].strip().lower().replace(" ", "")
    factor = _known_factor(quantity, plain)
    if factor is not None:
        return factor
    power = "^3" if quantity == "stress" else ""
    known = {
        "energy": list(TO_EV),
        "virial": list(TO_EV),
        "positions": list(TO_ANGSTROM),
        "dipole": list(TO_ELECTRON_ANGSTROM),
        "charges": list(_CHARGE_UNITS),
        "spin_populations": list(_CHARGE_UNITS),
    }.get(quantity, [f"{e}/{a}{power}" for e in TO_EV for a in TO_ANGSTROM])
    known += list(_PRESSURE_UNITS) if quantity == "stress" else []
    raise ValueError(f"unknown unit {unit!r} of {quantity}; known: {', '.join(known)}")


def _known_factor(quantity: str, unit: str) -> float | None:
    if quantity in ("energy", "virial"):
        return _ENERGY_UNITS.get(unit)
    if quantity in ("positions", "cell"):
        return _LENGTH_UNITS.get(unit)
    if quantity == "dipole":
        return _DIPOLE_UNITS.get(unit)
    if quantity in ("charges", "spin_populations"):
        return 1.0 if unit in _CHARGE_UNITS else None
    power = 1
    energy, slash, length = unit.rpartition("/")
    if quantity == "stress":
        if unit in _PRESSURE_UNITS:
            return _PRESSURE_UNITS[unit]
        if not length.endswith("^3"):
            return None
        length, power = length.removesuffix("^3"), 3
    if not slash or energy not in _ENERGY_UNITS or length not in _LENGTH_UNITS:
        return None
    return float(_ENERGY_UNITS[energy] / _LENGTH_UNITS[length] ** power)
