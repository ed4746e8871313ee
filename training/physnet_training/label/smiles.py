"""Molecules from SMILES: their radicals and ions, their bonds, a first geometry."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from numpy.typing import NDArray

Array = NDArray[Any]
Relative = Literal["radicals", "protonated", "deprotonated"]
"""What one hydrogen more or less makes of a molecule."""

_BOND_REACH = 1.3  # times the sum of both covalent radii
_CONFORMERS = 5
_SEED = 7
_ELEMENT_ORDER = {8: 0, 7: 1, 16: 2}


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


def read_smiles(path: Path) -> list[str]:
    """SMILES of a list: the first word of each line, or JSON of ``{"smiles": …}``.

    Raises:
        ValueError: There are none.
    """
    text = path.read_text("utf-8")
    if path.suffix == ".json":
        try:
            entries = json.loads(text)
            smiles = [e if isinstance(e, str) else e["smiles"] for e in entries]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f'{path} must be a JSON list of SMILES or of {{"smiles": …}} ({error})'
            ) from error
    else:
        smiles = [line.split()[0] for line in text.splitlines() if line.strip()]
    if not smiles:
        raise ValueError(f"{path} holds no SMILES")
    return smiles


def parse_smiles(smiles: str) -> Any:
    """RDKit's molecule.

    Raises:
        ValueError: It is no SMILES, or of several molecules.
    """
    molecule = rdkit().MolFromSmiles(smiles)
    if molecule is None or not molecule.GetNumAtoms():
        raise ValueError(f"{smiles!r} is no SMILES that RDKit understands")
    if "." in smiles:
        raise ValueError(f"{smiles!r} is more than one molecule; list each by itself")
    return molecule


def numbers_and_state(smiles: str) -> tuple[Array, int, int]:
    """[atoms] atomic numbers, hydrogen included, charge and multiplicity."""
    chem = rdkit()
    molecule = chem.AddHs(parse_smiles(smiles))
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
    return numbers, chem.GetFormalCharge(molecule), unpaired + 1


def relatives(
    smiles: str, kinds: Sequence[Relative], *, most: int | None = None
) -> Iterator[tuple[Relative, str]]:
    """Radicals and closed-shell ions that one hydrogen more or less makes.

    Equivalent atoms count once; hetero atoms come first. Protons go to uncharged N, O
    and S; they leave O, N and S, alkynes, and carbon next to a multiple bond to N, O or
    S.

    Args:
        smiles: A neutral molecule with paired electrons; others have no relatives.
        kinds: Which.
        most: Most of each kind; None: all.

    Yields:
        Kind and canonical SMILES.

    Raises:
        ValueError: A kind is unknown.
    """
    unknown = sorted(set(kinds) - {*get_args(Relative)})
    if unknown:
        raise ValueError(
            f"--relatives must be of {', '.join(get_args(Relative))}, got {unknown[0]}"
        )
    _, charge, multiplicity = numbers_and_state(smiles)
    if charge or multiplicity != 1:
        return
    molecule = parse_smiles(smiles)
    changes: dict[Relative, Callable[[Any], str | None]] = {
        "radicals": lambda atom: _changed(atom, hydrogens=-1, unpaired=1),
        "protonated": lambda atom: _changed(atom, hydrogens=1, charge=1),
        "deprotonated": lambda atom: (
            _changed(atom, hydrogens=-1, charge=-1) if _is_acidic(atom) else None
        ),
    }
    sites = _distinct_atoms(molecule)
    for kind in kinds:
        made = dict.fromkeys(filter(None, map(changes[kind], sites)))
        for name in list(made)[:most]:
            yield kind, name


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
    optimize = (
        chem.AllChem.MMFFOptimizeMoleculeConfs
        if known
        else chem.AllChem.UFFOptimizeMoleculeConfs
    )
    try:
        energies = [
            energy if failed >= 0 else math.inf
            for failed, energy in optimize(molecule, maxIters=1000)
        ]
    except (RuntimeError, ValueError):  # no force field has all its parameters
        energies = [0.0] * len(found)
    best = molecule.GetConformer(found[int(np.argmin(energies))])
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    atoms = Atoms(numbers, best.GetPositions())
    atoms.positions -= atoms.get_center_of_mass()  # the dipole of an ion is about 0
    return atoms


def check_bonds(smiles: str, atoms: Atoms) -> None:
    """Raise where a geometry has other bonds than its SMILES, as after a reaction.

    Raises:
        ValueError: The message names one bond that was made or broken.
    """
    molecule = rdkit().AddHs(parse_smiles(smiles))
    expected = {
        tuple(sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())))
        for bond in molecule.GetBonds()
    }
    radii = covalent_radii[atoms.numbers]
    close = atoms.get_all_distances() < _BOND_REACH * (radii[:, None] + radii[None])
    present = {(int(i), int(j)) for i, j in np.argwhere(close) if i < j}
    for pair in sorted(expected ^ present):
        first, second = (f"{atoms.symbols[index]}{index}" for index in pair)
        change = "broke" if pair in expected else "formed"
        raise ValueError(
            f"the bond {first}-{second} {change} on relaxing: this is no longer "
            f"{smiles}"
        )


def _distinct_atoms(molecule: Any) -> list[Any]:
    """One of each set of equivalent atoms, O, N and S before the others."""
    ranks = list(rdkit().CanonicalRankAtoms(molecule, breakTies=False))
    first = {rank: index for index, rank in reversed(list(enumerate(ranks)))}
    atoms = [molecule.GetAtomWithIdx(index) for index in sorted(first.values())]
    return sorted(atoms, key=lambda a: _ELEMENT_ORDER.get(a.GetAtomicNum(), 9))


def _changed(
    atom: Any, *, hydrogens: int, charge: int = 0, unpaired: int = 0
) -> str | None:
    """Canonical SMILES after a change at one atom, or None where it cannot be."""
    chem = rdkit()
    hetero = atom.GetAtomicNum() in _ELEMENT_ORDER
    if hydrogens > 0 and (not hetero or atom.GetFormalCharge()):
        return None
    if atom.GetTotalNumHs() + hydrogens < 0:
        return None
    changed = chem.RWMol(atom.GetOwningMol())
    chem.Kekulize(changed, clearAromaticFlags=True)  # the ring may lose its aromaticity
    site = changed.GetAtomWithIdx(atom.GetIdx())
    site.SetNumExplicitHs(atom.GetTotalNumHs() + hydrogens)
    site.SetNoImplicit(True)
    site.SetFormalCharge(atom.GetFormalCharge() + charge)
    site.SetNumRadicalElectrons(unpaired)
    again = chem.MolFromSmiles(chem.MolToSmiles(changed))
    return None if again is None else str(chem.MolToSmiles(again))


def _is_acidic(atom: Any) -> bool:
    if not atom.GetTotalNumHs():
        return False
    if atom.GetAtomicNum() in _ELEMENT_ORDER:
        return True
    if str(atom.GetHybridization()) == "SP":
        return True
    return any(
        bond.GetBondTypeAsDouble() >= 2
        and bond.GetOtherAtom(neighbor).GetAtomicNum() in _ELEMENT_ORDER
        for neighbor in atom.GetNeighbors()
        for bond in neighbor.GetBonds()
    )
