"""PhysNetCalculator: properties, units, refusals, life in ASE."""

import copy
import pickle
import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import (
    calculate_numerical_forces,
    calculate_numerical_stress,
)
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from physnet_ase import PhysNetCalculator, untrained_potential
from physnet_ase.config import ModelConfig
from physnet_ase.potential import Potential
from physnet_ase.programs import Programs

TINY = ModelConfig(num_features=8, num_radial=8, num_blocks=1, cutoff=5.0)
STATES = ((0, 1), (1, 2), (-1, 2), (0, 3), (0, 2), (1, 1))


@pytest.fixture(scope="module")
def potential():
    return untrained_potential(TINY, states=STATES)


@pytest.fixture
def calculator(potential):
    return PhysNetCalculator(potential)


@pytest.fixture
def water():
    return molecule("H2O")


def test_all_properties_of_a_molecule(calculator, potential, water):
    water.positions += [1.0, -2.0, 0.5]
    water.calc = calculator
    energy = water.get_potential_energy()
    assert water.get_potential_energy(force_consistent=True) == energy
    assert isinstance(energy, float)
    water.get_forces()
    results = calculator.results
    shapes = {name: np.shape(value) for name, value in results.items()}
    assert shapes == {
        "energy": (),
        "free_energy": (),
        "energies": (3,),
        "forces": (3, 3),
        "dipole": (3,),
        "charges": (3,),
    }
    assert all(value.dtype == np.float64 for value in results.values())
    direct = potential.evaluate(
        water, properties=("energy", "forces", "dipole", "charges", "energies")
    )
    assert energy == pytest.approx(direct.energy, abs=1e-5)
    assert results["energies"].sum() == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(water.get_forces(), direct.forces, atol=1e-5)
    np.testing.assert_allclose(
        water.get_dipole_moment(), water.get_charges() @ water.positions, atol=1e-9
    )
    assert water.get_charges().sum() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(("charge", "multiplicity"), STATES[:4])
def test_forces_are_minus_the_gradient_in_every_state(potential, charge, multiplicity):
    atoms = molecule("NH3")
    atoms.rattle(0.05, seed=3)
    atoms.calc = PhysNetCalculator(potential, charge, multiplicity, dtype="float64")
    numerical = calculate_numerical_forces(atoms, eps=1e-4)
    # Central differences: the error is that of the third derivative, 1e-8 Å² times it.
    np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-6)
    assert np.abs(numerical).max() > 0.1


def test_stress_of_a_cell_thinner_than_the_cutoff_is_the_strain_derivative(potential):
    atoms = bulk("C", "diamond", a=3.6)
    atoms.rattle(0.05, seed=1)
    atoms.calc = PhysNetCalculator(potential, dtype="float64")
    numerical = calculate_numerical_stress(atoms, eps=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-7)
    np.testing.assert_allclose(
        atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6
    )
    assert np.abs(numerical).max() > 1e-3
    assert "dipole" not in atoms.calc.results


def test_hessian_is_the_derivative_of_the_forces(potential, water):
    calculator = PhysNetCalculator(potential, dtype="float64")
    water.rattle(0.05, seed=2)
    hessian = calculator.get_hessian(water)
    assert hessian.shape == (9, 9)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-10)
    water.calc = calculator
    step = 1e-4
    for column in (0, 4):
        forces = []
        for sign in (+1, -1):
            moved = water.copy()
            moved.positions.flat[column] += sign * step
            moved.calc = calculator
            forces.append(moved.get_forces().ravel())
        numerical = -(forces[0] - forces[1]) / (2 * step)
        np.testing.assert_allclose(hessian[:, column], numerical, atol=1e-5)


def test_one_evaluation_gives_everything_whatever_is_asked_first(
    calculator, potential, water, monkeypatch
):
    kinds = []
    run = Programs.run

    def recording_run(self, graph, kind):
        kinds.append(kind)
        return run(self, graph, kind)

    monkeypatch.setattr(Programs, "run", recording_run)
    water.calc = calculator
    water.get_potential_energy()
    water.get_charges()
    water.get_forces()
    water.get_dipole_moment()
    assert kinds == ["forces"]
    water.set_cell([5.0, 5.0, 5.0])
    water.pbc = True
    water.get_potential_energy()
    water.get_stress()
    assert kinds == ["forces", "stress"]


def test_single_atoms_and_different_systems_in_any_order(calculator):
    names = ["H2O", "O", "CH4", "H2O", "C6H6", "O"]
    energies = []
    for name in names:
        atoms = molecule(name)
        atoms.set_initial_magnetic_moments(None)
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
        assert atoms.get_forces().shape == (len(atoms), 3)
    assert energies[0] == energies[3]
    assert energies[1] == energies[5]
    assert len(set(energies)) == 4


def test_states_share_compiled_code_and_calculators_on_one_potential_too(potential):
    first = PhysNetCalculator(potential)
    water = molecule("H2O")
    first.get_forces(water)
    before = first.num_compilations
    for charge, multiplicity in STATES[:4]:
        PhysNetCalculator(potential, charge, multiplicity).get_forces(water)
    assert first.num_compilations == before


@pytest.mark.parametrize("pbc", [False, (True, True, False)])
def test_stress_needs_three_periodic_directions(calculator, pbc):
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 1]], cell=[4, 4, 4], pbc=pbc)
    atoms.calc = calculator
    with pytest.raises(PropertyNotImplementedError, match="three periodic"):
        atoms.get_stress()
    assert np.isfinite(atoms.get_forces()).all()


def test_no_dipole_along_periodic_directions(calculator):
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 1]], cell=[4, 4, 4], pbc=(1, 0, 0))
    with pytest.raises(PropertyNotImplementedError, match="no dipole"):
        calculator.get_property("dipole", atoms)


def test_magmoms_only_where_trained(calculator, water):
    assert "magmoms" in PhysNetCalculator.implemented_properties
    with pytest.raises(PropertyNotImplementedError):
        calculator.get_property("magmoms", water)
    spins = untrained_potential(TINY.model_copy(update={"spin_populations": True}))
    moments = PhysNetCalculator(spins, multiplicity=3).get_magnetic_moments(water)
    assert moments.shape == (3,)
    assert moments.sum() == pytest.approx(2.0, abs=1e-5)


def test_float64_by_argument_or_by_the_potential(potential, water):
    low = PhysNetCalculator(potential)
    high = PhysNetCalculator(potential, dtype="float64")
    given = PhysNetCalculator(potential.astype("float64"))
    assert (low.dtype, high.dtype, given.dtype) == ("float32", "float64", "float64")
    energies = [c.get_potential_energy(water) for c in (low, high, given)]
    assert energies[1] == energies[2] != energies[0]
    assert energies[0] == pytest.approx(energies[1], abs=1e-4)


def test_a_model_directory_is_as_good_as_a_potential(potential, water, tmp_path):
    potential.save(tmp_path / "model")
    loaded = PhysNetCalculator(tmp_path / "model")
    expected = PhysNetCalculator(potential).get_potential_energy(water)
    assert loaded.get_potential_energy(water) == expected


def test_copying_and_pickling_atoms_with_the_calculator(calculator, water):
    water.info["charge"] = 1
    water.calc = calculator
    energy = water.get_potential_energy()
    for twin in (copy.deepcopy(water), pickle.loads(pickle.dumps(water))):
        assert twin.calc is not calculator
        assert twin.get_potential_energy() == energy
        twin.info["charge"] = -1
        assert twin.get_potential_energy() != energy
    assert copy.deepcopy(calculator).potential is calculator.potential
    assert calculator.copy().results == {}


def test_relaxation_dynamics_and_files(calculator, water, tmp_path):
    water.info.update(charge=1, spin_multiplicity=2)
    water.calc = calculator
    before = water.get_potential_energy()
    BFGS(water, logfile=None).run(fmax=0.5, steps=5)
    assert water.get_potential_energy() < before
    VelocityVerlet(water, timestep=0.1).run(2)
    energy = water.get_potential_energy()
    water.get_forces()
    for name in ("water.extxyz", "water.traj"):
        write(tmp_path / name, water)
        back = read(tmp_path / name)
        assert back.get_potential_energy() == pytest.approx(energy, abs=1e-6)
        np.testing.assert_allclose(back.get_forces(), water.get_forces(), atol=1e-6)
    assert back.info["charge"] == 1


@pytest.mark.parametrize("shift", [0.0, 7.9])
def test_a_molecule_in_a_box_is_the_free_molecule(potential, shift):
    calculator = PhysNetCalculator(potential, dtype="float64")
    free = molecule("CH3OH")
    boxed = free.copy()
    boxed.set_cell([16.0, 17.0, 18.0])
    boxed.pbc = True
    boxed.positions += shift  # through the boundary
    boxed.wrap()
    for info in ({"charge": 0, "spin": 1}, {"charge": 1, "spin": 2}):
        results = []
        for atoms in (free, boxed):
            atoms.info.update(info)
            atoms.calc = calculator
            results.append((atoms.get_potential_energy(), atoms.get_forces()))
        assert results[1][0] == pytest.approx(results[0][0], abs=1e-9)
        np.testing.assert_allclose(results[1][1], results[0][1], atol=1e-9)
    assert boxed.get_stress().shape == (6,)
    assert boxed.get_dipole_moment().shape == (3,)


def test_a_model_of_molecules_says_once_that_it_saw_no_crystal(potential):
    metadata = potential.metadata.model_copy(update={"periodic_structures": 0})
    model = Potential(metadata, potential.params)
    cell = molecule("H2O", vacuum=1.2, pbc=True)
    cell.set_initial_magnetic_moments(None)
    with pytest.warns(UserWarning, match="was not trained on periodic structures"):
        model.evaluate(cell)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.evaluate(cell)
        PhysNetCalculator(model).get_potential_energy(cell)


@pytest.mark.parametrize("side", [0.9, 1.0, 1.4])
def test_a_cell_of_an_angstrom_is_refused(potential, side):
    cell = Atoms("H", cell=[side, 3.0, 3.0], pbc=True, info={"spin": 2})
    with pytest.raises(ValueError, match=r"its own periodic image are only .* Å apart"):
        PhysNetCalculator(potential).get_potential_energy(cell)
