"""Wrong units raise the alarm, real data in right ones does not."""

import re
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from data_files import batch, molecules_of
from physnet_training.audit.plausibility import (
    atom_energies,
    find_changes,
    judge_units,
    sample,
)
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset, PackedWriter

from physnet_ase.units import BOHR, HARTREE, KCAL_PER_MOL

DATA = Path(__file__).parents[2] / "training" / "data" / "states_dft"
QUANTITIES = ("atomic_numbers", "positions", "forces", "energy")
STATE = ("total_charge", "spin_multiplicity")


@pytest.fixture(scope="module")
def ladders(tmp_path_factory):
    target = tmp_path_factory.mktemp("plausible") / "ladders"
    convert(DATA / "ladders.npz", target)
    return PackedDataset.open(target)


def scaled(ladders, folder, energy=1.0, forces=1.0, length=1.0):
    """The same molecules with numbers as if a unit had been taken for another."""
    atoms, rows = np.arange(ladders.num_atoms), np.arange(ladders.num_molecules)
    values = {
        name: ladders.take(name, atoms if name in QUANTITIES[:3] else rows)
        for name in (*QUANTITIES, *STATE)
    }
    values["energy"] = values["energy"] * energy
    values["forces"] = values["forces"] * forces
    values["positions"] = values["positions"] * length
    with PackedWriter(folder) as writer:
        writer.append(molecules_of(ladders.n_atoms, values))
    return {v.quantity: v for v in judge_units(sample(PackedDataset.open(folder)))}


def test_right_units_are_plausible(ladders):
    verdicts = judge_units(sample(ladders))
    assert [v.quantity for v in verdicts] == [
        "energy", "forces", "energy and forces", "length"
    ]  # fmt: skip
    assert {v.verdict for v in verdicts} == {"plausible"}
    assert "total energies" in verdicts[0].text
    assert "energies change by 0.999 of what" in verdicts[2].text


TO_HARTREE, TO_KCAL = 1 / HARTREE, 1 / KCAL_PER_MOL


@pytest.mark.parametrize(
    ("wrong", "quantity", "text"),
    [
        ({"energy": TO_HARTREE}, "energy", "hartree read as eV; check --energy-unit"),
        ({"energy": TO_KCAL}, "energy", "kcal/mol read as eV"),
        ({"energy": 50.0}, "energy", "no electrons are bound like that"),
        ({"energy": HARTREE}, "energy", "eV read as hartree"),
        ({"length": 1 / BOHR}, "length", "bohr read as Å"),
        ({"length": 1 / BOHR}, "energy and forces", "by 0.529 of.*bohr read as Å"),
        ({"length": 0.1}, "length", "0.10 times .*check --length-unit"),
        ({"forces": BOHR / HARTREE}, "energy and forces", "hartree/bohr read as eV/Å"),
        ({"forces": -1}, "energy and forces", "gradients: the sign is wrong"),
        ({"forces": TO_KCAL}, "forces", "median 49.1 eV/Å.*check --force-unit"),
    ],
)
def test_wrong_units_raise_the_alarm(ladders, tmp_path, wrong, quantity, text):
    verdict = scaled(ladders, tmp_path / "set", **wrong)[quantity]
    assert verdict.verdict == "suspicious"
    assert re.search(text, verdict.text), verdict.text


def test_energies_relative_to_atoms_are_plausible(make_molecules, tmp_path):
    molecules = make_molecules([3] * 20, ["energy"])
    molecules["values"]["energy"] = np.linspace(-12.5, -11.5, 20)
    with PackedWriter(tmp_path / "set") as writer:
        writer.append(batch(molecules))
    [verdict, _] = judge_units(sample(PackedDataset.open(tmp_path / "set")))
    assert verdict == (
        "energy",
        "plausible",
        "-4 eV per atom: energies relative to a reference",
    )


def test_energies_without_core_electrons_are_unclear(ladders, tmp_path):
    verdict = scaled(ladders, tmp_path / "set", energy=0.21)["energy"]
    assert verdict.verdict == "unclear"
    assert "without core electrons, or another unit" in verdict.text


def test_small_forces_are_unclear_and_nothing_is_said_without_labels(
    ladders, make_dataset, tmp_path
):
    verdict = scaled(ladders, tmp_path / "set", forces=1e-3)["forces"]
    assert verdict.verdict == "unclear"
    assert "relaxed geometries" in verdict.text
    bare = PackedDataset.open(make_dataset([3, 4], labels=[]))
    assert [v.quantity for v in judge_units(sample(bare))] == ["length"]
    atoms = PackedDataset.open(make_dataset([1, 1], labels=[]))
    assert judge_units(sample(atoms)) == []


@pytest.mark.parametrize(
    ("number", "hartree"),
    # Hartree-Fock limits of C. Froese Fischer, The Hartree-Fock Method for Atoms (1977)
    [(6, -37.6886), (10, -128.5471), (18, -526.8175), (36, -2752.0550)],
)
def test_estimate_of_free_atoms(number, hartree):
    found = atom_energies(np.array([1, number]))[1] / HARTREE
    assert found == pytest.approx(hartree, rel=0.01)


def test_work_of_a_harmonic_molecule_is_exact_whatever_its_orientation(rng, tmp_path):
    """Two atoms on a spring, turned anywhere between the frames."""
    length = 1.1 + rng.uniform(-0.04, 0.04, 30)
    axis = rng.normal(size=(30, 3))
    axis /= np.linalg.norm(axis, axis=1)[:, None]
    positions = np.stack([0 * axis, length[:, None] * axis], axis=1) + 7.0
    pull = (30.0 * (length - 1.1))[:, None] * axis
    with PackedWriter(tmp_path / "set") as writer:
        writer.append(
            molecules_of(
                np.full(30, 2),
                {
                    "atomic_numbers": np.tile([1, 9], 30),
                    "positions": positions.reshape(60, 3),
                    "forces": np.stack([pull, -pull], axis=1).reshape(60, 3),
                    "energy": -2700.0 + 15.0 * (length - 1.1) ** 2,
                    "total_charge": np.zeros(30),
                    "spin_multiplicity": np.ones(30),
                },
            )
        )
    changes = find_changes(sample(PackedDataset.open(tmp_path / "set")))
    assert len(changes.work) > 15
    np.testing.assert_allclose(changes.work, changes.energies, atol=2e-6)


@pytest.mark.parametrize(
    ("energy", "forces", "verdict", "text"),
    [
        (1.0, 1.0, "plausible", "of what forces and positions say"),
        # All in hartree and bohr: they belong together, but are too soft.
        (TO_HARTREE, BOHR / HARTREE, "suspicious", "softer than molecules are"),
        (TO_KCAL, TO_KCAL, "suspicious", "stiffer than molecules are"),
    ],
)
def test_stiffness_of_a_thermal_ensemble(rng, tmp_path, energy, forces, verdict, text):
    """Independent oscillators of 30 eV/Å² at 3000 K around methane's geometry."""
    at_rest = 0.63 * np.array(
        [[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
    )
    away = rng.normal(scale=np.sqrt(0.26 / 30), size=(300, 5, 3))
    with PackedWriter(tmp_path / "set") as writer:
        writer.append(
            molecules_of(
                np.full(300, 5),
                {
                    "atomic_numbers": np.tile([6, 1, 1, 1, 1], 300),
                    "positions": (at_rest + away).reshape(-1, 3),
                    "forces": forces * (-30.0 * away).reshape(-1, 3),
                    "energy": energy * (-17.0 + 15.0 * (away**2).sum(axis=(1, 2))),
                    "total_charge": np.zeros(300),
                    "spin_multiplicity": np.ones(300),
                },
            )
        )
    samples = sample(PackedDataset.open(tmp_path / "set"))
    expected = 30 * forces**2 / energy
    assert find_changes(samples).stiffness == pytest.approx([expected], rel=0.15)
    found = {v.quantity: v for v in judge_units(samples)}["energy and forces"]
    assert (found.verdict, text in found.text) == (verdict, True)


@pytest.mark.parametrize("number", [100, 30])
@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (1.0, None),
        (-1.0, "look like gradients: the sign is wrong"),
        (BOHR / HARTREE, "softer than any are: check --force-unit"),
        (TO_KCAL, "stiffer than any are: check --force-unit"),
        (-BOHR / HARTREE, "the sign is wrong"),
    ],
)
def test_forces_of_the_wrong_sign_or_unit_show_in_bonds(
    rng, tmp_path, number, factor, text
):
    """Frames too far apart for the work of forces, energies that say nothing."""
    at_rest = molecule("CH3CHO").positions
    numbers = molecule("CH3CHO").numbers
    away = rng.normal(scale=0.09, size=(number, len(numbers), 3))
    away -= away.mean(axis=1, keepdims=True)
    with PackedWriter(tmp_path / "set") as writer:
        writer.append(
            molecules_of(
                np.full(number, len(numbers)),
                {
                    "atomic_numbers": np.tile(numbers, number),
                    "positions": (at_rest + away).reshape(-1, 3),
                    "forces": factor * (-25.0 * away).reshape(-1, 3),
                    "energy": -4150.0 + 12.5 * (away**2).sum(axis=(1, 2)),
                    "total_charge": np.zeros(number),
                    "spin_multiplicity": np.ones(number),
                },
            )
        )
    verdicts = judge_units(sample(PackedDataset.open(tmp_path / "set")))
    [found] = [v for v in verdicts if v.quantity == "forces"]
    assert found.verdict == ("plausible" if text is None else "suspicious")
    assert text is None or text in found.text


def test_bonds_of_single_frames_are_compared_with_each_other(rng, tmp_path):
    """No molecule comes twice, but all have bonds between carbon and hydrogen."""
    with PackedWriter(tmp_path / "set") as writer:
        for name in ("CH4", "C2H6", "C2H4", "CH3OH", "H2CO", "C6H6", "CH3CN", "CH3Cl"):
            atoms = molecule(name)
            away = rng.normal(scale=0.05, size=(len(atoms), 3))
            writer.append(
                molecules_of(
                    [len(atoms)],
                    {
                        "atomic_numbers": atoms.numbers,
                        "positions": atoms.positions + away,
                        "forces": 30.0 * away,
                        "energy": [-1000.0],
                        "total_charge": [0],
                        "spin_multiplicity": [1],
                    },
                )
            )
    verdicts = judge_units(sample(PackedDataset.open(tmp_path / "set")))
    [found] = [v for v in verdicts if v.quantity == "forces"]
    assert "the sign is wrong" in found.text
