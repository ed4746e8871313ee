"""SMILES on the command line: a geometry in the state that they say."""

import pytest

from physnet_ase.commands.structure_files import read_structure
from physnet_ase.state import ElectronicState, resolve_state

pytest.importorskip("rdkit")


@pytest.mark.parametrize(
    ("smiles", "formula", "state"),
    [
        ("C1=CC=CC=C1", "C6H6", (0, 1)),
        ("C[NH3+]", "CH6N", (1, 1)),
        ("[CH3]", "CH3", (0, 2)),
    ],
)
def test_smiles_are_structures(
    smiles: str, formula: str, state: tuple[int, int]
) -> None:
    atoms = read_structure(f"smiles:{smiles}", None, None)
    assert atoms.get_chemical_formula() == formula
    assert resolve_state(atoms) == ElectronicState(*state)


def test_options_say_another_state() -> None:
    atoms = read_structure("smiles:O", 1, 2)
    assert resolve_state(atoms) == ElectronicState(1, 2)


def test_what_is_no_smiles_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'C\(' is no SMILES"):
        read_structure("smiles:C(", None, None)
    with pytest.raises(ValueError, match="SMILES begin with smiles:"):
        read_structure("CCO", None, None)
