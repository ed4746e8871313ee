"""Molecules from SMILES: relatives, bonds, geometries."""

import sys

import numpy as np
import pytest
from physnet_training.label import (
    Method,
    Plan,
    Run,
    Sampling,
    label,
    read_structures,
    smiles_structure,
)
from physnet_training.label.plan import check_bonds, read_smiles, relatives

from physnet_ase.commands.smiles import conformer, numbers_and_state
from physnet_ase.state import ElectronicState

pytest.importorskip("rdkit")


@pytest.mark.parametrize(
    ("smiles", "kind", "expected"),
    [
        ("CO", "radicals", ["C[O]", "[CH2]O"]),
        ("CC", "radicals", ["C[CH2]"]),  # six equivalent hydrogens
        ("C=O", "radicals", ["[CH]=O"]),
        ("CC=O", "protonated", ["CC=[OH+]"]),
        ("C#N", "protonated", ["C#[NH+]"]),
        ("CC", "protonated", []),
        ("C[N+](=O)[O-]", "protonated", ["C[N+]([O-])=[OH+]"]),
        ("CCO", "deprotonated", ["CC[O-]"]),
        ("CC=O", "deprotonated", ["[CH2-]C=O"]),
        ("C#C", "deprotonated", ["[C-]#C"]),
        ("c1ccc[nH]1", "radicals", ["C1=CC=C[N]1", "[c]1ccc[nH]1", "[c]1cc[nH]c1"]),
    ],
)
def test_relatives_have_one_hydrogen_more_or_less(smiles, kind, expected):
    from rdkit import Chem

    names = [name for _, name in relatives(smiles, [kind])]
    assert {*names} == {Chem.CanonSmiles(name) for name in expected}
    change = {"radicals": -1, "protonated": 1, "deprotonated": -1}[kind]
    charge = {"radicals": 0, "protonated": 1, "deprotonated": -1}[kind]
    before, *_ = numbers_and_state(smiles)
    for name in names:
        numbers, state = numbers_and_state(name)
        assert len(numbers) == len(before) + change
        assert state == ElectronicState(charge, 2 if kind == "radicals" else 1)


def test_only_closed_shells_have_relatives_and_no_more_than_asked():
    assert list(relatives("C[O]", ["radicals"])) == []
    assert list(relatives("C[NH3+]", ["deprotonated"])) == []
    kinds = ["radicals", "protonated"]
    assert len(list(relatives("CCO", kinds, most=1))) == 2


@pytest.mark.parametrize("smiles", ["CCO", "C[CH2]", "C[NH3+]", "[C-]#N", "FC=CCl"])
def test_geometries_have_the_bonds_and_are_repeatable(smiles):
    atoms = conformer(smiles)
    check_bonds(smiles, atoms)
    assert np.array_equal(atoms.numbers, numbers_and_state(smiles)[0])
    assert np.array_equal(atoms.positions, conformer(smiles).positions)
    assert np.allclose(atoms.get_center_of_mass(), 0.0)


def test_a_geometry_that_reacted_is_refused():
    atoms = conformer("CCO")
    atoms.positions[8] += [0.0, 0.0, 4.0]
    with pytest.raises(
        ValueError, match="the bond O2-H8 broke on relaxing: this is no"
    ):
        check_bonds("CCO", atoms)
    atoms.positions *= 0.5
    with pytest.raises(ValueError, match="the bond .* formed on relaxing"):
        check_bonds("CCO", atoms)


@pytest.mark.parametrize(
    ("smiles", "message"),
    [
        ("C(", "smiles:C.: molecule 0 .0-based.: 'C.' is no SMILES that RDKit underst"),
        ("O.O", "'O.O' is more than one molecule; list each by itself"),
    ],
)
def test_smiles_that_are_none_are_named(smiles, message):
    with pytest.raises(ValueError, match=message):
        read_structures([f"smiles:{smiles}"])


def test_lists_are_read_and_species_come_once(tmp_path):
    (tmp_path / "a.smi").write_text("CO methanol\n\nC=O\n")
    (tmp_path / "b.json").write_text('["CO", {"smiles": "CN"}]')
    assert read_smiles(tmp_path / "a.smi") == ["CO", "C=O"]
    paths = [str(tmp_path / name) for name in ("a.smi", "b.json")]
    names = [s.name for s in read_structures(paths, kinds=["radicals"])]
    assert names == ["CO", "C[O]", "[CH2]O", "C=O", "[CH]=O", "CN", "C[NH]", "[CH2]N"]
    (tmp_path / "c.json").write_text('[{"name": "CO"}]')
    with pytest.raises(ValueError, match="c.json must be a JSON list of SMILES or of"):
        read_smiles(tmp_path / "c.json")
    (tmp_path / "d.smi").write_text("\n")
    with pytest.raises(ValueError, match="d.smi holds no SMILES"):
        read_smiles(tmp_path / "d.smi")


def test_ions_keep_their_state_and_others_take_what_is_asked():
    ion, molecule = smiles_structure("C[NH3+]"), smiles_structure("CN")
    assert str(ion.state) == "charge +1, multiplicity 1"
    assert molecule.state is None
    assert str(smiles_structure("C[NH]", own_state=True).state) == (
        "charge 0, multiplicity 2"
    )


def test_a_molecule_that_falls_apart_on_relaxing_is_a_failure(tmp_path):
    # Springs pull all atoms to the same distance: bonds form that the SMILES lacks.
    plan = Plan.of(
        read_structures(["smiles:CCO"]),
        Method("label_calculator:springs"),
        sampling=Sampling(relax=True),
    )
    with pytest.raises(RuntimeError, match="formed on relaxing: this is no longer CCO"):
        label(plan, tmp_path / "set", run=Run(workers=1))


def test_without_rdkit_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match="install physnet-ase.smiles."):
        smiles_structure("CO")
