"""PhysNetCalculator under ASE's own drivers: filters, NEB, vibrations, threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.md.langevin import Langevin
from ase.mep import NEB
from ase.optimize import BFGS, FIRE, LBFGS
from ase.vibrations import Vibrations

from physnet_ase import PhysNetCalculator, untrained_potential
from physnet_ase.config import ModelConfig
from physnet_ase.potential import Potential

TINY = ModelConfig(num_features=8, num_radial=8, num_blocks=1, cutoff=5.0, zbl=True)
POTENTIAL = untrained_potential(TINY, states=((0, 1), (1, 2), (0, 3)), seed=2)


@pytest.fixture
def water():
    atoms = molecule("H2O")
    atoms.calc = PhysNetCalculator(POTENTIAL)
    return atoms


@pytest.mark.parametrize("optimizer", [BFGS, LBFGS, FIRE])
def test_optimizers_go_downhill_with_constraints(water, optimizer):
    water.set_constraint(FixAtoms([0]))
    oxygen, before = water.positions[0].copy(), water.get_potential_energy()
    assert optimizer(water, logfile=None).run(fmax=0.1, steps=200)
    assert water.get_potential_energy() < before
    np.testing.assert_array_equal(water.positions[0], oxygen)


def test_cell_filter_lowers_the_pressure():
    atoms = bulk("C", "diamond", a=3.3)
    atoms.calc = PhysNetCalculator(POTENTIAL, dtype="float64")
    before = np.abs(atoms.get_stress()).max()
    energy = atoms.get_potential_energy()
    FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4, steps=2)
    assert atoms.get_potential_energy() < energy
    assert np.abs(atoms.get_stress()).max() < 0.9 * before


def test_band_of_an_ion_with_one_calculator_for_all_images(water):
    calculator = PhysNetCalculator(POTENTIAL, charge=1, multiplicity=2)
    last = water.copy()
    last.positions[1] += [0.0, 0.4, 0.4]
    images = [water.copy(), water.copy(), last]
    for image in images:
        image.calc = calculator
    band = NEB(images, method="improvedtangent", allow_shared_calculator=True)
    band.interpolate()
    # Shared between images, so nothing may be left over from the image before.
    forces = band.get_forces()
    assert forces.shape == (3, 3)
    middle = PhysNetCalculator(POTENTIAL, 1, 2).get_potential_energy(images[1].copy())
    assert images[1].get_potential_energy() == pytest.approx(middle, abs=1e-5)


def test_bands_are_the_same_with_one_calculator_or_with_many(water):
    last = water.copy()
    last.positions[1] += [0.0, 0.4, 0.4]
    forces = []
    shared = PhysNetCalculator(POTENTIAL)
    for own in (False, True):
        images = [water.copy(), water.copy(), water.copy(), last.copy()]
        for image in images:
            image.calc = PhysNetCalculator(POTENTIAL) if own else shared
        band = NEB(images, method="improvedtangent", allow_shared_calculator=not own)
        band.interpolate()
        FIRE(band, logfile=None).run(fmax=1e-6, steps=3)
        forces.append(band.get_forces())
        assert not np.allclose(images[1].positions, images[2].positions)
    np.testing.assert_allclose(forces[0], forces[1], atol=1e-4)


def test_vibrations_agree_with_the_analytic_hessian(tmp_path):
    atoms = molecule("H2O")
    calculator = PhysNetCalculator(POTENTIAL, dtype="float64")
    atoms.calc = calculator
    vibrations = Vibrations(atoms, name=tmp_path / "vibrations", delta=1e-3)
    vibrations.run()
    numerical = vibrations.get_vibrations().get_hessian_2d()
    # Differences over ±1e-3 Å: the error is the fourth derivative times 1e-7 Å².
    np.testing.assert_allclose(calculator.get_hessian(atoms), numerical, atol=1e-2)


def test_dynamics_keeps_the_state_and_moves(water):
    water.info["charge"] = 1
    start = water.positions.copy()
    Langevin(
        water,
        0.1,
        temperature_K=300,
        friction=0.01,
        fixcm=False,
        rng=np.random.default_rng(0),
    ).run(3)
    assert np.abs(water.positions - start).max() > 0.0
    fresh = PhysNetCalculator(POTENTIAL, charge=1).get_potential_energy(water.copy())
    assert water.get_potential_energy() == pytest.approx(fresh, abs=1e-5)


def test_threads_that_compile_at_once_compile_each_program_once():
    fresh = Potential(POTENTIAL.metadata, POTENTIAL.params)

    def forces(index):
        return PhysNetCalculator(fresh).get_forces(molecule(("H2O", "CH4")[index % 2]))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(forces, range(8)))
    assert fresh.num_compilations == 2
    for index, array in enumerate(found):
        np.testing.assert_array_equal(array, found[index % 2])


def test_threads_with_a_calculator_each_share_one_potential():
    def energy(index):
        atoms = molecule("H2O")
        atoms.positions[0, 2] += 0.01 * (index // 2)
        dtype = ("float32", "float64")[index % 2]
        return PhysNetCalculator(POTENTIAL, dtype=dtype).get_potential_energy(atoms)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(energy, range(8)))
    assert together == [energy(index) for index in range(8)]
    assert len(set(together)) == 8
