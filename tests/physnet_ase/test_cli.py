"""The command physnet-ase: output, files, exit codes, one-line errors."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read, write
from command_line import call, refused

from physnet_ase import (
    PhysNetCalculator,
    untrained_potential,
)
from physnet_ase.config import ModelConfig

TINY = ModelConfig(num_features=8, num_radial=8, num_blocks=1, cutoff=5.0, zbl=True)
STATES = ((0, 1), (1, 2), (-1, 2), (0, 3), (0, 2))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "model"
    untrained_potential(TINY, states=STATES, seed=2).save(path)
    return str(path)


@pytest.fixture
def energy_of(model):
    calculator = PhysNetCalculator(model)
    return calculator.get_potential_energy


def test_info_prints_what_the_model_knows(model):
    text = call("info", model).stdout
    assert "H, C, N, O" in text
    assert "num_features" in text
    stored = json.loads(call("info", model, "--json").stdout)
    assert stored["config"]["num_features"] == 8
    assert len(stored["states"]) == len(STATES)


def test_energy_of_a_named_molecule_in_a_state(model, energy_of):
    atoms = molecule("H2O")
    atoms.info["charge"] = 1
    report = json.loads(
        call("energy", "H2O", "--model", model, "--charge", 1, "--json").stdout
    )
    assert report["energy_eV"] == pytest.approx(energy_of(atoms), abs=1e-6)
    assert (report["charge"], report["multiplicity"]) == (1, 2)
    assert np.shape(report["forces_eV_per_A"]) == (3, 3)
    assert sum(report["charges_e"]) == pytest.approx(1.0, abs=1e-5)
    shown = call("energy", "H2O", "--model", model, "--charge", -1).stdout
    assert "H2O, charge -1, multiplicity 2" in shown


def test_options_override_the_state_that_a_file_holds(model, tmp_path):
    atoms = molecule("H2O")
    atoms.info.update(charge=1, mult=2)
    write(tmp_path / "ion.extxyz", [molecule("CH4"), atoms])
    path = tmp_path / "ion.extxyz"

    def state(*options):
        report = call("energy", path, "--model", model, "--json", *options).stdout
        return [
            json.loads(report)[key] for key in ("formula", "charge", "multiplicity")
        ]

    assert state() == ["H2O", 1, 2]
    assert state("--charge", 0, "--multiplicity", 3) == ["H2O", 0, 3]
    assert state("--charge", -1) == ["H2O", -1, 2]
    report = call("energy", f"{path}@0", "--model", model, "--json").stdout
    assert json.loads(report)["formula"] == "CH4"


def test_moments_of_a_named_neutral_do_not_follow_it_into_an_ion(model):
    def multiplicity(*options):
        report = call("energy", "O2", "--model", model, "--json", *options).stdout
        return json.loads(report)["multiplicity"]

    assert multiplicity() == 3
    assert multiplicity("--charge", 1) == 2


def test_optimize_writes_the_relaxed_structure(model, tmp_path):
    path = tmp_path / "relaxed.extxyz"
    arguments = ("--model", model, "--charge", 1, "--fmax", 0.05, "--output", path)
    report = json.loads(call("optimize", "H2O", *arguments, "--json").stdout)
    assert report["max_force_eV_per_A"] <= 0.05
    assert report["steps"] > 1
    relaxed = read(path)
    np.testing.assert_allclose(relaxed.positions, report["positions_A"], atol=1e-6)
    assert relaxed.get_potential_energy() == pytest.approx(report["energy_eV"])
    assert relaxed.info["charge"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["relaxed.extxyz"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["energy", "H2Oo"], ["H2Oo: no such file", "did you mean H2O"]),
        (["energy", "H2O", "--multiplicity", 2], ["10 electrons", "1, 3, 5"]),
        (["energy", "H2O", "--charge", 2], ["not trained on charge +2"]),
        (["energy", "HCl"], ["Cl", "it knows H, C, N, O"]),
        (["optimize", "H2O", "--fmax", -1], ["fmax must be positive"]),
        (["states", "H2O", "--plot", "/no/such/levels.png"], ["/no/such does not"]),
        (["energy", "H2O", "--output", "water.nonsense"], ["water.nonsense", "format"]),
    ],
)
def test_bad_input_is_one_line_and_code_2(model, arguments, words):
    line = refused(*arguments, "--model", model)
    for word in words:
        assert word in line


def test_missing_models_and_damaged_files_are_named(model, tmp_path):
    assert "no model at" in refused("energy", "H2O", "--model", tmp_path / "none")
    assert "no model at" in refused("info", tmp_path / "none")
    broken = tmp_path / "broken.xyz"
    broken.write_text("3\nwater\nO 0 0\n")
    assert f"{broken}: ASE cannot read" in refused("energy", broken, "--model", model)


def test_what_does_not_converge_is_code_1_and_writes_nothing(model, tmp_path):
    path = tmp_path / "water.xyz"
    arguments = ("optimize", "H2O", "--model", model, "--steps", 2, "--output", path)
    line = refused(*arguments, code=1)
    assert "did not converge in 2 steps: largest force" in line
    assert not path.exists()


def test_unseen_states_can_be_allowed_with_a_warning_line(model):
    arguments = ("energy", "H2O", "--model", model, "--charge", 2)
    result = call(*arguments, "--allow-unseen-states", "--json")
    assert json.loads(result.stdout)["charge"] == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("physnet-ase: warning: the model was not trained on")


def test_help_is_fast_and_imports_no_jax():
    code = (
        "import sys\n"
        "from physnet_ase.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'jax', 'ase', 'matplotlib', 'jax_md'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "optimize" in done.stdout
    # Measured 0.2 s; a busy machine gets ten times that, importing JAX takes longer.
    assert time.perf_counter() - start < 5.0


def test_optimize_relaxes_every_structure_of_a_file(model, tmp_path):
    several = [molecule("H2O"), molecule("H2O")]
    several[1].positions[1] += 0.05
    write(tmp_path / "several.xyz", several)
    path = tmp_path / "relaxed.extxyz"
    arguments = ("--model", model, "--charge", 1, "--fmax", 0.05, "--output", path)
    result = call("optimize", tmp_path / "several.xyz", *arguments, "--json")
    rows = json.loads(result.stdout)["structures"]
    assert [row["charge"] for row in rows] == [1, 1]
    assert all(row["max_force_eV_per_A"] <= 0.05 for row in rows)
    energies = [atoms.get_potential_energy() for atoms in read(path, ":")]
    assert energies == pytest.approx([row["energy_eV"] for row in rows])
