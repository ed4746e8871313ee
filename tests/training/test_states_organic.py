"""The recipe that labels organic molecules: what it plans, and what it packs."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from physnet_training.cli import app as command
from physnet_training.label import Method
from physnet_training.label.output import Journal
from physnet_training.label.run import label_frame
from physnet_training.packed import PackedDataset
from typer.testing import CliRunner

from physnet_ase.commands.smiles import conformer

pytest.importorskip("rdkit")
pytest.importorskip("pyscf")
pytest.importorskip("tblite")
ROOT = Path(__file__).parents[2] / "training"
DATA = ROOT / "data" / "states_organic"


def script(name):
    path = ROOT / "recipes" / "states_organic" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    path = tmp_path_factory.mktemp("list") / "list.json"
    names = ["CCCCO", "CF", "CO", "C[NH3+]", "CC"]
    path.write_text(json.dumps([{"smiles": name} for name in names]))
    return path


@pytest.fixture(scope="module")
def plan(molecules):
    return script("label_organic").make_plan(molecules)


def test_chosen_molecules_of_the_list_come_first(molecules):
    make_plan = script("label_organic").make_plan
    chains = make_plan(molecules, ["CCCCO"]).chains
    assert chains[0].structure.name == "CCCCO"
    with pytest.raises(ValueError, match="--first names CCO, which .* lacks"):
        make_plan(molecules, ["CCO"])


def test_gaps_are_three_states_in_the_order_of_the_list_at_half_the_cost():
    plan = script("label_organic").gap_plan(["CCO", "C", "CCO", "CN", "CF"])
    assert [c.structure.name for c in plan.chains] == ["CCO", "C", "CN", "CF"]
    states = [(s.charge, s.multiplicity) for s in plan.chains[0].states]
    assert states == [(0, 1), (1, 2), (0, 3)]
    assert plan.settings()["method"]["basis"] == "def2-svp"
    assert {chain.kind for chain in plan.chains} == {"none", "modes"}


def test_tight_binding_labels_molecules_radicals_and_protonated_ones(rng):
    xtb = script("xtb_states")
    ethanol, water, ion = (molecule(name) for name in ("CH3CH2OH", "H2O", "H2O"))
    relaxed, moved = ethanol.copy(), ethanol.copy()
    moved.rattle(0.05, seed=1)
    structures = [relaxed, moved, water, ion]
    data = {
        "name": np.array(["CCO", "CCO", "O", "[OH2+]"]),
        "n_atoms": np.array([len(each) for each in structures]),
        "charge": np.array([0, 0, 0, 1]),
        "numbers": np.concatenate([each.numbers for each in structures]),
        "positions": np.concatenate([each.positions for each in structures]),
    }
    species = xtb.species_of(data, {"CCO", "O", "C", "[OH2+]"}, rng)
    kinds = [(each.name, each.kind, len(each.atoms)) for each in species]
    assert kinds == [
        ("CCO", "molecule", 9),
        ("CCO", "radical", 8),
        ("CCO", "protonated", 10),
        ("O", "molecule", 3),
        ("O", "radical", 2),
        ("O", "protonated", 4),
    ]
    np.testing.assert_array_equal(species[0].atoms.positions, moved.positions)
    proton = species[2].atoms.get_distances(-1, range(9))
    assert 0.8 < proton.min() < 1.2
    made = xtb.packed(species[:3], [xtb.labels_of(each) for each in species[:3]])
    assert made["geometry"].tolist() == [0, 0, 0, 0, 1, 1, 1, 2]
    states = zip(made["charge"].tolist(), made["multiplicity"].tolist(), strict=True)
    assert list(states)[:4] == [(0, 1), (1, 2), (-1, 2), (0, 3)]
    assert len(made["positions"]) == len(made["forces"]) == made["n_atoms"].sum() == 70
    assert np.abs(made["spin_populations"][9:18].sum() - 1.0) < 5e-3
    assert np.ptp(made["energy"][:4]) > 5.0


def test_what_is_common_and_not_yet_labelled_is_chosen_first():
    choose = script("choose").choose
    listed = ["CO", "CCO", "CCCO", "C#N", "CF", "C[NH3+]"]
    everything = {1, 6, 7, 8, 9}
    assert choose(listed, {"CO"}, 9, 3, {1, 6, 7, 8})[0] == "CCO"  # of few atoms
    found = choose(listed, set(), 9, 3, everything)
    assert sorted(found) == ["C#N", "CCO", "CF", "CO"]  # no ion, none too large
    assert len(choose(listed, set(), 2, 4, everything)) == 2


def test_what_the_heads_of_a_model_disagree_on_comes_first():
    by_disagreement = script("choose").by_disagreement
    found = by_disagreement(["C", "C1OO1", "C[SiH3]", "CCCO"], "states-organic")
    assert sorted(found) == ["C", "C1OO1", "CCCO"]  # silicon is none of its elements
    assert found.index("C1OO1") < found.index("CCCO")
    with pytest.raises(ValueError, match="nothing to disagree with"):
        by_disagreement(["C"], "states-dft-small")


def test_small_molecules_of_h_c_n_o_come_first_with_all_states(plan):
    names = [chain.structure.name for chain in plan.chains]
    molecules = dict.fromkeys(n for n in names if n in ("CCCCO", "CF", "CO", "CC"))
    assert list(molecules) == ["CO", "CC", "CF", "CCCCO"]
    methanol = [c for c in plan.chains if c.structure.name == "CO"]
    assert [(c.kind, len(c.states)) for c in methanol] == [
        ("none", 4),
        ("modes", 4),
        ("modes", 1),
    ]
    radicals = [c for c in plan.chains if c.structure.name == "C[O]"]
    states = [[(s.charge, s.multiplicity) for s in c.states] for c in radicals]
    assert states == [[(0, 2), (1, 1), (-1, 1)]]
    keys = [chain.key for chain in plan.chains]
    assert len(keys) == len(set(keys))
    assert plan.settings()["method"]["functional"] == "wb97x"
    assert plan.settings()["method"]["density_fit"] is True


def test_what_is_finished_becomes_a_file_that_converts(tmp_path, plan):
    pack = script("pack")
    chain = next(c for c in plan.chains if c.structure.name == "CO")
    atoms = conformer("CO")
    with Journal(tmp_path / "run.labels" / "journal.jsonl", plan.settings()) as journal:
        for state in chain.states:
            line = label_frame(chain, 0, atoms, state, Method())
            line["forces"] = (np.array(line["forces"]) + np.eye(3)[0]).tolist()
            spin = 0.5 * (state.multiplicity - 1)
            line["s_squared"] = spin * (spin + 1) + 0.3 * (state.charge == 1)
            journal.add("label", chain.label_key(0, state), line)
    target = tmp_path / "some.npz"
    runner = CliRunner()
    app = pack.typer.Typer()
    app.command()(pack.main)
    found = runner.invoke(app, [str(tmp_path / "run.labels"), str(target)])
    assert found.exit_code == 0, found.output
    assert "| molecule | 1 | 1 | 1 | 1 | 1 | 4 |" in found.output
    with np.load(target) as file:
        data = {name: file[name] for name in file.files}
    assert data["geometry"].tolist() == [0, 0, 0, 0]
    assert data["contaminated"].tolist() == [False, True, False, False]
    positions = data["positions"].reshape(4, 6, 3)
    forces = data["forces"].reshape(4, 6, 3)
    assert np.abs(forces.sum(axis=1)).max() < 1e-5
    assert np.abs(np.cross(positions, forces).sum(axis=1)).max() < 1e-5
    again = [str(tmp_path / "run.labels"), str(target), "--add-to", str(target)]
    assert runner.invoke(app, again).exit_code == 0
    with np.load(target) as file:  # what is packed already is not taken twice
        assert all(
            np.array_equal(file[name], data[name]) for name in ("name", "energy")
        )
        assert file["geometry"].tolist() == [0, 0, 0, 0]
    more = data | {"name": np.array(["other"] * 4), "energy": data["energy"] + 1.0}
    both = pack.joined(target, more)
    assert both["name"].tolist() == ["CO"] * 4 + ["other"] * 4
    assert len(both["positions"]) == 2 * len(data["positions"])
    with pytest.raises(ValueError, match="level_of_theory is"):
        pack.joined(target, more | {"level_of_theory": np.array("another")})
    converted = runner.invoke(command, ["convert", str(target), str(tmp_path / "set")])
    assert converted.exit_code == 0, converted.output
    assert PackedDataset.open(tmp_path / "set").groups == ("CO",)


def test_the_shipped_labels_are_whole_and_join_states_dft():
    with np.load(DATA / "states_organic.npz") as file:
        data = {name: file[name] for name in file.files}
    with np.load(ROOT / "data" / "states_dft" / "states_dft.npz") as file:
        assert str(data["level_of_theory"]) == str(file["level_of_theory"])
    assert data["n_atoms"].sum() == len(data["numbers"]) == len(data["forces"])
    for name, array in data.items():
        if array.dtype.kind == "f" and name != "temperature_K":
            assert np.isfinite(array).all(), name
    spin = 0.5 * (data["multiplicity"] - 1.0)
    excess = data["s_squared"] - spin * (spin + 1)
    assert (data["contaminated"] == (np.abs(excess) > 0.1)).all()
    assert (DATA / "states_organic.npz").stat().st_size < 30e6
    # A vertical ladder: one geometry, the molecule in its four states.
    first = data["geometry"] == data["geometry"][0]
    assert (data["name"][first] == data["name"][0]).all()
