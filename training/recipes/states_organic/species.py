"""Molecules of a list, their radicals and closed-shell ions, as SMILES in a fixed order."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rdkit import Chem, RDLogger

RDLogger.DisableLog("rdApp.*")

MOLECULE_STATES = ((0, 1), (1, 2), (-1, 2), (0, 3))
RADICAL_STATES = ((0, 2), (1, 1), (-1, 1))


@dataclass(frozen=True)
class Species:
    """Something to label.

    Attributes:
        smiles: Canonical.
        kind: ``molecule``, ``radical``, ``protonated`` or ``deprotonated``.
        parent: SMILES of the molecule in the list that it comes from.
        heavy: Number of atoms other than hydrogen.
        states: (charge, multiplicity); the first one is relaxed.
    """

    smiles: str
    kind: str
    parent: str
    heavy: int
    states: tuple[tuple[int, int], ...]


def read_list(path: Path) -> list[str]:
    """SMILES of a JSON list of {"smiles": …}, in its order."""
    return [entry["smiles"] for entry in json.loads(path.read_text("utf-8"))]


def family(smiles: str, *, most: int = 3) -> Iterator[Species]:
    """A molecule, and its radicals and ions that one H more or less makes.

    Args:
        smiles: A neutral closed-shell molecule.
        most: Most radicals, and most ions of each sign.
    """
    molecule = Chem.MolFromSmiles(smiles)
    electrons = sum(a.GetAtomicNum() + a.GetTotalNumHs() for a in molecule.GetAtoms())
    if Chem.GetFormalCharge(molecule) or electrons % 2:
        raise ValueError(f"{smiles} is no neutral molecule with paired electrons")
    heavy = molecule.GetNumHeavyAtoms()
    parent = Chem.MolToSmiles(molecule)
    yield Species(parent, "molecule", parent, heavy, MOLECULE_STATES)
    for kind, change, states in (
        ("radical", _without_hydrogen, RADICAL_STATES),
        ("protonated", _protonated, ((1, 1),)),
        ("deprotonated", _deprotonated, ((-1, 1),)),
    ):
        made = dict.fromkeys(
            name for name in (change(molecule, i) for i in _sites(molecule)) if name
        )
        for name in list(made)[:most]:
            yield Species(name, kind, parent, heavy, states)


def _sites(molecule: Chem.Mol) -> list[int]:
    """Atoms that are not equivalent; hetero atoms first."""
    ranks = list(Chem.CanonicalRankAtoms(molecule, breakTies=False))
    first = {rank: index for index, rank in reversed(list(enumerate(ranks)))}
    order = {8: 0, 7: 1, 16: 2, 6: 3}

    def key(index: int) -> tuple[int, int]:
        return order.get(molecule.GetAtomWithIdx(index).GetAtomicNum(), 9), index

    return sorted(first.values(), key=key)


def _changed(
    molecule: Chem.Mol, index: int, *, hydrogens: int, charge: int, radicals: int
) -> str | None:
    """Canonical SMILES after a change at one atom, or None where valence forbids it."""
    changed = Chem.RWMol(molecule)
    atom = changed.GetAtomWithIdx(index)
    atom.SetNumExplicitHs(atom.GetTotalNumHs() + hydrogens)
    atom.SetNoImplicit(True)
    atom.SetFormalCharge(atom.GetFormalCharge() + charge)
    atom.SetNumRadicalElectrons(radicals)
    try:
        Chem.SanitizeMol(changed)
    except Chem.MolSanitizeException:
        return None
    again = Chem.MolFromSmiles(Chem.MolToSmiles(changed))
    return None if again is None else Chem.MolToSmiles(again)


def _without_hydrogen(molecule: Chem.Mol, index: int) -> str | None:
    if not molecule.GetAtomWithIdx(index).GetTotalNumHs():
        return None
    return _changed(molecule, index, hydrogens=-1, charge=0, radicals=1)


def _protonated(molecule: Chem.Mol, index: int) -> str | None:
    atom = molecule.GetAtomWithIdx(index)
    if atom.GetAtomicNum() not in (7, 8, 16) or atom.GetFormalCharge():
        return None
    return _changed(molecule, index, hydrogens=1, charge=1, radicals=0)


def _deprotonated(molecule: Chem.Mol, index: int) -> str | None:
    atom = molecule.GetAtomWithIdx(index)
    if not atom.GetTotalNumHs():
        return None
    if atom.GetAtomicNum() == 6 and not _acidic(atom):
        return None
    return _changed(molecule, index, hydrogens=-1, charge=-1, radicals=0)


def _acidic(atom: Chem.Atom) -> bool:
    """An alkyne's C–H, or one next to C=O, C=N, C≡N, N=O."""
    if atom.GetHybridization() == Chem.HybridizationType.SP:
        return True
    return any(
        bond.GetBondTypeAsDouble() >= 2 and bond.GetOtherAtom(next_to).GetAtomicNum() in (7, 8, 16)
        for next_to in atom.GetNeighbors()
        for bond in next_to.GetBonds()
    )
