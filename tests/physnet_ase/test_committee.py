"""Several potentials through one calculator: means, and how far they disagree."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.fd import calculate_numerical_forces
from ase.db import connect
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from structures import formaldehyde, thin_cell

from physnet_ase import ElectronicState, PhysNetCalculator, untrained_potential
from physnet_ase.committee import Committee
from physnet_ase.config import ModelConfig

TINY = ModelConfig(num_features=8, num_radial=8, num_blocks=1, cutoff=5.0)
OTHER = ModelConfig(num_features=6, num_radial=4, num_blocks=2, cutoff=4.0)
STATES = ((0, 1), (1, 2), (-1, 2), (1, 1))
MEMBERS = [
    untrained_potential(TINY, states=STATES, seed=1),
    untrained_potential(OTHER, states=STATES, seed=2),
    untrained_potential(TINY, states=STATES, seed=3),
]


@pytest.mark.parametrize("charge", [0, 1, -1])
def test_results_are_means_and_deviations_over_the_members(charge):
    atoms = formaldehyde(charge=charge)
    calculator = PhysNetCalculator(MEMBERS)
    alone = []
    for member in MEMBERS:
        one = PhysNetCalculator(member)
        one.get_forces(atoms)
        assert not {"energy_std", "forces_std", "member_energies"} & one.results.keys()
        alone.append(one.results)
    calculator.get_forces(atoms)
    found = calculator.results
    for name in ("energy", "energies", "forces", "charges", "dipole"):
        mean = np.mean([results[name] for results in alone], axis=0)
        np.testing.assert_allclose(found[name], mean, atol=1e-5)
    energies = [results["energy"] for results in alone]
    forces = [results["forces"] for results in alone]
    np.testing.assert_allclose(found["member_energies"], energies, atol=1e-5)
    np.testing.assert_allclose(found["energy_std"], np.std(energies), atol=1e-5)
    np.testing.assert_allclose(found["forces_std"], np.std(forces, axis=0), atol=1e-5)
    assert found["energy_std"] > 1e-3
    assert all(value.dtype == np.float64 for value in found.values())


def test_members_that_agree_deviate_by_nothing():
    calculator = PhysNetCalculator([MEMBERS[0], MEMBERS[0]])
    water = molecule("H2O")
    calculator.get_forces(water)
    assert calculator.results["energy_std"] == 0.0
    assert not calculator.results["forces_std"].any()
    alone = PhysNetCalculator(MEMBERS[0]).get_potential_energy(water)
    assert calculator.results["energy"] == alone
    assert calculator.num_compilations == MEMBERS[0].num_compilations


def test_the_mean_force_is_the_slope_of_the_mean_energy():
    atoms = formaldehyde()
    atoms.calc = PhysNetCalculator(MEMBERS, dtype="float64")
    numerical = calculate_numerical_forces(atoms, eps=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-6)
    assert np.abs(numerical).max() > 0.1


def test_stress_hessian_and_evaluate_are_means():
    calculator = PhysNetCalculator(MEMBERS, dtype="float64")
    cell = thin_cell()
    stresses = [PhysNetCalculator(m, dtype="float64").get_stress(cell) for m in MEMBERS]
    # Members of other cutoffs share the k-vectors of the shortest, 1e-7 of Ewald's sum.
    np.testing.assert_allclose(
        calculator.get_stress(cell), np.mean(stresses, axis=0), atol=1e-7
    )
    water = molecule("H2O")
    hessians = [
        PhysNetCalculator(m, dtype="float64").get_hessian(water) for m in MEMBERS
    ]
    np.testing.assert_allclose(
        calculator.get_hessian(water), np.mean(hessians, axis=0), atol=1e-8
    )
    rows = calculator.potential.evaluate([water, formaldehyde()], [(0, 1), (1, 2)])
    assert rows[1][1].state == ElectronicState(1, 2)
    assert rows[1][1].forces_std.shape == (4, 3)
    expected = calculator.get_potential_energy(formaldehyde(charge=1))
    assert rows[1][1].energy == pytest.approx(expected, abs=1e-9)
    with pytest.raises(ValueError, match="features of different models"):
        calculator.potential.evaluate(water, properties=("features",))


def test_only_what_all_members_have_seen_is_accepted():
    narrow = untrained_potential(TINY, elements=(1, 8, 9), states=((0, 1), (0, 3)))
    committee = Committee([MEMBERS[0], narrow])
    assert committee.elements == (1, 8)
    assert committee.states == (ElectronicState(0, 1),)
    calculator = PhysNetCalculator([MEMBERS[0], narrow])
    calculator.get_forces(molecule("H2O"))
    with pytest.raises(ValueError, match="model 2 of 2: atom 0 is C"):
        calculator.get_forces(molecule("CH4"))
    with pytest.raises(ValueError, match="model 1 of 2: .*not trained on .* 3"):
        PhysNetCalculator([MEMBERS[0], narrow], multiplicity=3).get_forces(
            molecule("H2O")
        )


def test_committees_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one potential"):
        PhysNetCalculator([])
    stranger = untrained_potential(TINY, elements=(9,), states=((0, 1),))
    with pytest.raises(ValueError, match="must share elements and states.*F in charge"):
        PhysNetCalculator([MEMBERS[0], stranger])
    with pytest.raises(FileNotFoundError, match="no model at 'nowhere'"):
        PhysNetCalculator([MEMBERS[0], "nowhere"])


def test_models_from_disk_precision_and_copies(tmp_path):
    MEMBERS[1].save(tmp_path / "second")
    water = molecule("H2O")
    calculator = PhysNetCalculator((MEMBERS[0], tmp_path / "second"), charge=1)
    expected = PhysNetCalculator(MEMBERS[:2], charge=1).get_potential_energy(water)
    assert calculator.get_potential_energy(water) == expected
    assert calculator.copy().get_potential_energy(water) == expected
    double = PhysNetCalculator([MEMBERS[0].astype("float64"), MEMBERS[1]])
    assert double.dtype == "float64"
    single = PhysNetCalculator(MEMBERS[0])
    assert single.potential is MEMBERS[0]
    assert Committee.of(MEMBERS[0]).members == (MEMBERS[0],)


@pytest.mark.parametrize("name", ["atoms.extxyz", "atoms.traj", "atoms.db"])
def test_files_keep_the_state_and_the_mean(tmp_path, name):
    water = molecule("H2O")
    water.info.update(charge=1, spin_multiplicity=2)
    water.calc = PhysNetCalculator(MEMBERS)
    VelocityVerlet(water, timestep=0.1).run(1)
    forces = water.get_forces()
    if name.endswith(".db"):
        # ASE's database leaves `info` behind; its place for such things is `data`.
        with connect(tmp_path / name) as database:
            database.write(water, data=water.info)
        row = connect(tmp_path / name).get(1)
        back = row.toatoms()
        state = row.data["charge"], row.data["spin_multiplicity"]
    else:
        write(tmp_path / name, water)
        back = read(tmp_path / name)
        state = (back.info["charge"], back.info["spin_multiplicity"])
    assert isinstance(back, Atoms)
    assert state == (1, 2)
    assert back.get_potential_energy() == pytest.approx(
        water.get_potential_energy(), abs=1e-6
    )
    np.testing.assert_allclose(back.get_forces(), forces, atol=1e-6)
