"""Physical constants and the units used inside: eV, Å, e, amu, fs (CODATA 2018)."""

HARTREE = 27.211386245988
"""One hartree in eV."""
BOHR = 0.529177210903
"""One bohr in Å."""
KCAL_PER_MOL = 4184.0 / (6.02214076e23 * 1.602176634e-19)
"""One kcal/mol in eV."""
COULOMB_CONSTANT = HARTREE * BOHR
"""e²/(4πε₀) in eV·Å."""
DEBYE = 0.20819433442462576
"""One debye in e·Å."""
GIGAPASCAL = 1e-21 / 1.602176634e-19
"""One GPa in eV/Å³."""
BOLTZMANN = 8.617333262e-5
"""Boltzmann constant in eV/K."""
FEMTOSECOND = 0.09822694788464063
"""One fs in the time unit Å·sqrt(amu/eV), to the last digit of ASE (CODATA 2014)."""
HBAR = 0.6582119569509066
"""Reduced Planck constant in eV·fs."""
INVERSE_CM = 1.239841984332003e-4
"""hc·cm⁻¹: the quantum of one wavenumber, in eV."""
INFRARED_INTENSITY = 974.8801118
"""N_A e²/(12 ε₀ c² amu) in km/mol: intensity of a mode with dμ/dQ = 1 e/√amu."""

TO_EV = {
    "eV": 1.0,
    "meV": 1e-3,
    "hartree": HARTREE,
    "kcal/mol": KCAL_PER_MOL,
    "kJ/mol": KCAL_PER_MOL / 4.184,
    "rydberg": HARTREE / 2,
}
"""Energy units accepted at the file boundary, as factors to eV."""
TO_ANGSTROM = {"angstrom": 1.0, "bohr": BOHR, "nm": 10.0}
"""Length units accepted at the file boundary, as factors to Å."""
TO_ELECTRON_ANGSTROM = {"e*angstrom": 1.0, "debye": DEBYE, "e*bohr": BOHR}
"""Dipole units accepted at the file boundary, as factors to e·Å."""
TO_EV_PER_CUBIC_ANGSTROM = {"GPa": GIGAPASCAL, "kbar": GIGAPASCAL / 10}
"""Pressure units accepted besides energy/length^3, as factors to eV/Å³."""

_ENERGY = {name.lower(): factor for name, factor in TO_EV.items()} | {
    "ha": HARTREE,
    "eh": HARTREE,
    "au": HARTREE,
    "hartrees": HARTREE,
    "kcal": KCAL_PER_MOL,
    "kcalmol": KCAL_PER_MOL,
    "kj": KCAL_PER_MOL / 4.184,
    "kjmol": KCAL_PER_MOL / 4.184,
    "ry": HARTREE / 2,
}
_LENGTH = TO_ANGSTROM | {"ang": 1.0, "å": 1.0, "a": 1.0}
_DIPOLE = TO_ELECTRON_ANGSTROM | {
    "e*å": 1.0,
    "d": DEBYE,
    "elementary_charge*bohr": BOHR,
    "elementary_charge*angstrom": 1.0,
}
_CHARGE = dict.fromkeys(("e", "electrons", "electron", "elementary_charge"), 1.0)
_PRESSURE = {name.lower(): f for name, f in TO_EV_PER_CUBIC_ANGSTROM.items()}


def conversion_factor(dimension: str, unit: str) -> float | None:
    """Factor from a unit to the one used inside; None where the unit is unknown.

    Args:
        dimension: "energy", "length", "force", "dipole", "charge" or "stress".
        unit: In any case of letters, as "hartree/bohr" or "kcal/mol/angstrom".
    """
    unit = unit.split("(")[0].strip().lower().replace(" ", "")
    simple = {"energy": _ENERGY, "length": _LENGTH, "dipole": _DIPOLE}
    if dimension in simple:
        return simple[dimension].get(unit)
    if dimension == "charge":
        return _CHARGE.get(unit)
    energy, _, length = unit.rpartition("/")
    power = 1
    if dimension == "stress":
        if unit in _PRESSURE:
            return _PRESSURE[unit]
        if not length.endswith("^3"):
            return None
        length, power = length.removesuffix("^3"), 3
    if energy not in _ENERGY or length not in _LENGTH:
        return None
    return float(_ENERGY[energy] / _LENGTH[length] ** power)


def known_units(dimension: str) -> list[str]:
    """Units of a dimension, to name in a message."""
    power = "^3" if dimension == "stress" else ""
    listed = {
        "energy": list(TO_EV),
        "length": list(TO_ANGSTROM),
        "dipole": list(TO_ELECTRON_ANGSTROM),
        "charge": list(_CHARGE),
    }.get(dimension) or [f"{e}/{a}{power}" for e in TO_EV for a in TO_ANGSTROM]
    return listed + (list(TO_EV_PER_CUBIC_ANGSTROM) if dimension == "stress" else [])
