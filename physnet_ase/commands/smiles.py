"""Molecules from SMILES, by RDKit: elements, state, and a first geometry."""

import math
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from physnet_ase.state import ElectronicState

Array = NDArray[Any]

SMILES_PREFIX = "smiles:"
"""Marks a SMILES where a file or a name may stand as well."""
_CONFORMERS = 5
_SEED = 7


def rdkit() -> Any:
    """``rdkit.Chem``, which tells of unusual valences no more.

    Raises:
        ImportError: RDKit is not installed.
    """
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import AllChem as AllChem  # makes it an attribute of Chem
    except ImportError as error:
        raise ImportError(
            "SMILES need RDKit, which is not installed; install physnet-ase[smiles]"
        ) from error
    rdBase.DisableLog("rdApp.*")
    return Chem


def parse_smiles(smiles: str) -> Any:
    """RDKit's molecule; refuses what is none, or several."""
    molecule = rdkit().MolFromSmiles(smiles)
    if molecule is None or not molecule.GetNumAtoms():
        raise ValueError(f"{smiles!r} is no SMILES that RDKit understands")
    if "." in smiles:
        raise ValueError(f"{smiles!r} is more than one molecule; list each by itself")
    return molecule


def numbers_and_state(smiles: str) -> tuple[Array, ElectronicState]:
    """[atoms] atomic numbers, hydrogen included, and the state."""
    chem = rdkit()
    molecule = chem.AddHs(parse_smiles(smiles))
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
    return numbers, ElectronicState(chem.GetFormalCharge(molecule), unpaired + 1)


def conformer(smiles: str) -> Atoms:
    """A geometry: the lowest of five from ETKDG in the force field MMFF94.

    Riniker & Landrum, J. Chem. Inf. Model. 2015, 55, 2562. Species that MMFF94 does not
    know, radicals above all, take UFF.

    Raises:
        ValueError: RDKit finds none.
    """
    chem = rdkit()
    molecule = chem.AddHs(parse_smiles(smiles))
    parameters = chem.AllChem.ETKDGv3()
    parameters.randomSeed = _SEED
    parameters.useRandomCoords = True
    found = list(chem.AllChem.EmbedMultipleConfs(molecule, _CONFORMERS, parameters))
    if not found:
        raise ValueError(f"RDKit finds no geometry of {smiles}")
    known = chem.AllChem.MMFFHasAllMoleculeParams(molecule)
    field = "MMFF" if known else "UFF"
    optimize = getattr(chem.AllChem, f"{field}OptimizeMoleculeConfs")
    try:
        ends = optimize(molecule, maxIters=1000)
        energies = [math.inf if failed < 0 else energy for failed, energy in ends]
    except (RuntimeError, ValueError):  # no force field has all its parameters
        energies = [0.0] * len(found)
    best = molecule.GetConformer(found[int(np.argmin(energies))])
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    atoms = Atoms(numbers, best.GetPositions())
    atoms.positions -= atoms.get_center_of_mass()  # the dipole of an ion is about 0
    return atoms
