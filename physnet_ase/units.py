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
