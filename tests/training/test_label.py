import ase.io
import numpy as np
import pytest
from ase.build import molecule
from label_calculator import Springs
from label_plans import ONE, SHIFTS, content, plan_for
from physnet_training.label import Method, Plan, Run, label, read_structures
from physnet_training.packed import PackedDataset


def test_labels_of_every_possible_state_at_the_same_geometries(tmp_path):
    reports = []
    report = label(
        plan_for(), tmp_path / "set", run=ONE, on_progress=lambda *a: reports.append(a)
    )
    assert {(s.charge, s.multiplicity): n for s, n in report.labelled.items()} == {
        (0, 1): 3,
        (1, 2): 3,
        (-1, 2): 3,
        (0, 3): 3,
        (0, 2): 3,
    }
    assert {(s.charge, s.multiplicity): n for s, n in report.skipped.items()} == {
        (0, 1): 1,
        (1, 2): 1,
        (-1, 2): 1,
        (0, 3): 1,
        (0, 2): 1,
    }
    assert report.failures_file is None
    assert reports == [(k, 0, 15) for k in range(1, 16)]
    dataset = PackedDataset.open(tmp_path / "set")
    dataset.verify()
    assert dataset.groups == ("H2O", "CH3")
    assert dataset.levels == ("label_calculator:springs",)
    assert set(dataset.labels) == {
        "energy",
        "forces",
        "dipole",
        "charges",
        "spin_populations",
    }
    positions = dataset.take("positions", np.arange(36)).reshape(12, 3, 3)
    assert np.array_equal(positions[0], positions[3])  # four states of one geometry
    assert not np.array_equal(positions[0], positions[4])
    water = molecule("H2O")
    water.positions = positions[1]
    calculator = Springs(1, 2)
    water.calc = calculator
    assert dataset.states_of(np.array([1]))[0] == 1
    assert dataset.take("energy", np.array([1]))[0] == pytest.approx(
        water.get_potential_energy(), abs=1e-5
    )
    forces = dataset.take("forces", np.arange(3, 6))
    assert np.allclose(forces, water.get_forces(), atol=1e-5)


def test_the_manifest_says_where_labels_come_from(tmp_path):
    label(plan_for(), tmp_path / "set", run=ONE)
    [source] = PackedDataset.open(tmp_path / "set").manifests[0]["provenance"]
    assert source["method"] == "label_calculator:springs"
    assert source["versions"]["ase"]
    assert source["sampling"]["seed"] == 5
    assert source["structures"] == ["CH3", "H2O"]
    assert source["num_molecules"] == 15
    assert source["residuals"]["largest_net_force_ev_per_angstrom"] < 1e-10


def test_number_of_workers_changes_nothing(tmp_path):
    label(plan_for(), tmp_path / "one", run=ONE)
    label(plan_for(), tmp_path / "two", run=Run(workers=2))
    assert content(tmp_path / "one") == content(tmp_path / "two")
    other = SHIFTS.model_copy(update={"seed": 6})
    label(plan_for(sampling=other), tmp_path / "other", run=ONE)
    assert content(tmp_path / "one") != content(tmp_path / "other")


def test_without_states_each_structure_has_its_own(tmp_path):
    frames = [molecule("OH"), molecule("OH"), molecule("O2")]
    frames[0].info |= {"charge": -1, "spin_multiplicity": 1, "name": "hydroxide"}
    ase.io.write(tmp_path / "in.extxyz", frames)
    structures = read_structures([str(tmp_path / "in.extxyz"), "CH2_s3B1d"])
    plan = Plan.of(structures, Method("label_calculator:springs"))
    label(plan, tmp_path / "set", run=ONE)
    dataset = PackedDataset.open(tmp_path / "set")
    charges, multiplicities = dataset.states_of(np.arange(4))
    assert charges.tolist() == [-1, 0, 0, 0]
    assert multiplicities.tolist() == [1, 2, 3, 3]
    assert dataset.groups == ("hydroxide", "HO", "O2", "CH2_s3B1d")


def test_numbers_that_are_none_are_failures(tmp_path):
    with pytest.raises(RuntimeError, match="energy that are not finite; all are liste"):
        label(plan_for(["H2O"], "NotFinite"), tmp_path / "set", run=ONE)
    assert not (tmp_path / "set").exists()


def test_what_a_method_lacks_is_missing_not_zero(tmp_path):
    label(plan_for(["H2O"], "EnergyOnly"), tmp_path / "set", run=ONE)
    assert set(PackedDataset.open(tmp_path / "set").labels) == {"energy"}
