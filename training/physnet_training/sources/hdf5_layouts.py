"""Published HDF5 layouts, recognised by what a group holds, and what they define.

* SPICE (openmm/spice-dataset, ``downloader/downloader.py``): a group per molecule with
  one ``atomic_numbers`` for all ``conformations`` (bohr), ``dft_total_energy``
  (hartree), ``dft_total_gradient`` (hartree/bohr), ``scf_dipole`` (e·bohr),
  ``mbis_charges`` (e, shape (n, A, 1)) and the mapped SMILES; ωB97M-D3BJ/def2-TZVPPD.
  Eastman et al., Sci. Data 10, 11 (2023).
* ANI-1x and ANI-1ccx (aiqm/ANI1x_datasets): a group per formula, ``coordinates`` (Å),
  ``LEVEL.energy`` (hartree), ``LEVEL.forces`` (hartree/Å), NaN where a level was not
  computed. Smith et al., Sci. Data 7, 134 (2020). Sources disagree on the unit of its
  dipoles, so they are taken only when asked for.
* ANI-1 and ANI-2x, the layout of TorchANI: ``species``, ``coordinates`` (Å),
  ``energies`` (hartree), ``forces`` (hartree/Å). Devereux et al., J. Chem. Theory
  Comput. 16, 4192 (2020).
* AIMNet2 and AIMNet2-NSE (isayevlab/aimnetcentral): groups by size with ``coord`` (Å),
  ``numbers``, ``energy`` (eV), ``forces`` (eV/Å), ``dipole`` (e·Å), ``charges``,
  ``spin_charges``, ``charge``, ``mult``.
"""

import re
from collections.abc import Mapping

import numpy as np
from ase.data import atomic_numbers as NUMBER_OF

from physnet_training.sources.array_table import Definition
from physnet_training.sources.array_values import Rows, plain_text
from physnet_training.sources.molecules import ReadOptions

_SPICE = Definition(
    keys={
        "positions": "conformations",
        "energy": "dft_total_energy",
        "gradient": "dft_total_gradient",
        "dipole": "scf_dipole",
        "charges": "mbis_charges",
    },
    units={
        "conformations": "bohr",
        "dft_total_energy": "hartree",
        "dft_total_gradient": "hartree/bohr",
        "scf_dipole": "e*bohr",
    },
    level="wB97M-D3BJ/def2-TZVPPD",
    facts=("charge from the formal charges of the mapped SMILES, as SPICE has them",),
)
_SINGLETS = "charge 0 and multiplicity 1, ANI sets hold neutral singlets only"
_ANI_LEVELS = {
    "wb97x_dz": "wB97X/6-31G*",
    "wb97x_tz": "wB97X/def2-TZVPP",
    "ccsd(t)_cbs": "CCSD(T)*/CBS",
    "hf_dz": "HF/cc-pVDZ",
    "hf_tz": "HF/cc-pVTZ",
    "hf_qz": "HF/cc-pVQZ",
}
_TORCHANI = Definition(
    keys={"energy": "energies"},
    units={
        "coordinates": "angstrom",
        "energies": "hartree",
        "forces": "hartree/angstrom",
    },
    facts=(_SINGLETS,),
)
_AIMNET = Definition(
    defaults={
        "coord": "angstrom",
        "energy": "eV",
        "forces": "eV/angstrom",
        "dipole": "e*angstrom",
    }
)
_BRACKET = re.compile(
    r"\[\d*(?P<symbol>[A-Za-z][a-z]?)[^\]:+-]*(?P<charge>\++\d*|-+\d*)?"
    r"(?::(?P<number>\d+))?\]"
)


def recognise(arrays: Mapping[str, Rows], options: ReadOptions) -> Definition:
    """What is known of a group by the keys it holds; nothing of an unknown layout."""
    keys = set(arrays)
    if {"atomic_numbers", "conformations", "dft_total_energy"} <= keys:
        return _SPICE
    if {"atomic_numbers", "coordinates"} <= keys and any(
        k in keys for k in _ani_keys()
    ):
        return _ani(options)
    if {"species", "coordinates", "energies"} <= keys:
        return _TORCHANI
    return _AIMNET if {"coord", "numbers", "energy"} <= keys else Definition()


def known_state(
    arrays: Mapping[str, Rows], definition: Definition, count: int
) -> dict[str, Rows]:
    """Charges and multiplicities that a layout defines without storing them.

    Raises:
        ValueError: The SMILES of a SPICE group is not that of its atoms.
    """
    if definition is _SPICE and "smiles" in arrays:
        smiles = plain_text(np.asarray(arrays["smiles"][()])).reshape(-1)[0]
        numbers = np.asarray(arrays["atomic_numbers"][()])
        return {"total_charge": np.full(count, formal_charge(str(smiles), numbers))}
    if _SINGLETS in definition.facts:
        return {
            "total_charge": np.zeros(count, int),
            "spin_multiplicity": np.ones(count, int),
        }
    return {}


def formal_charge(smiles: str, numbers: Rows) -> int:
    """Sum of the formal charges of a mapped SMILES, checked against its atoms.

    Args:
        smiles: With every atom in brackets and its number, from 1, in the molecule:
            ``[H:2][O:1][H:3]``.
        numbers: [atoms] atomic numbers.

    Raises:
        ValueError: The SMILES does not map exactly these atoms.
    """
    mapped, total = {}, 0
    for atom in _BRACKET.finditer(smiles):
        symbol = atom["symbol"].capitalize()
        symbol = symbol if symbol in NUMBER_OF else symbol[0]
        mapped[int(atom["number"] or 0)] = NUMBER_OF.get(symbol, 0)
        total += _charge(atom["charge"] or "")
    wanted = dict(enumerate(np.asarray(numbers[()]).tolist(), start=1))
    if mapped != wanted:
        raise ValueError(
            f"the SMILES {smiles} does not map the atomic numbers "
            f"{list(wanted.values())} one to one, so the charge is unknown; correct it "
            "or name the charge with --key total_charge=NAME"
        )
    return total


def _charge(text: str) -> int:
    """A formal charge as SMILES has it: +, ++, -2."""
    if not text:
        return 0
    sign = 1 if text[0] == "+" else -1
    digits = text.lstrip("+-")
    return sign * (int(digits) if digits else len(text))


def _ani_keys() -> list[str]:
    return [f"{level}.energy" for level in _ANI_LEVELS]


def _ani(options: ReadOptions) -> Definition:
    """ANI-1x at one level: the one of the energies the user asks for, else DZ."""
    energy = options.keys.get("energy", "wb97x_dz.energy")
    prefix = energy.rpartition(".")[0]
    units = {"coordinates": "angstrom"}
    for level in _ANI_LEVELS:
        units[f"{level}.energy"] = "hartree"
        units[f"{level}.forces"] = "hartree/angstrom"
    return Definition(
        keys={"energy": energy, "forces": f"{prefix}.forces"},
        units=units,
        level=_ANI_LEVELS.get(prefix, prefix),
        facts=(
            _SINGLETS,
            "NaN means not computed; where neither energy nor forces were, left out",
        ),
        nan_is_missing=True,
    )
