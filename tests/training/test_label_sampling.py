import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT
from label_calculator import Springs
from physnet_training.label import (
    Method,
    Plan,
    Run,
    Sampling,
    label,
    parse_states,
    read_structures,
)
from physnet_training.label.sampling import (
    MIN_WAVENUMBER,
    displace,
    move,
    numerical_hessian,
    prepare,
    random_generator,
    vibrate,
)
from physnet_training.packed import PackedDataset

from physnet_ase.units import BOLTZMANN, FEMTOSECOND, HBAR, INVERSE_CM

ONE = Run(workers=1)


def relaxed(name="N2"):
    atoms = molecule(name)
    sampling = Sampling(relax=True, fmax=1e-4)
    hessian = prepare(atoms, EMT(), sampling, hessian=True)
    return atoms, hessian


def packed(names, states, sampling, target, factory="springs"):
    plan = Plan.of(
        read_structures(names, own_states=False),
        Method(f"label_calculator:{factory}"),
        parse_states(states),
        sampling,
    )
    label(plan, target, run=ONE)
    dataset = PackedDataset.open(target)
    size = int(dataset.n_atoms[0])
    rows = np.arange(dataset.num_atoms)
    return dataset, dataset.take("positions", rows).reshape(-1, size, 3)


def test_random_numbers_depend_on_seed_and_place_only():
    draws = [
        random_generator(*key).normal() for key in ((0, 1, 2), (0, 1, 3), (0, 2, 2))
    ]
    assert len(set(draws)) == 3
    assert random_generator(0, 1, 2).normal() == draws[0]


def test_displacements_have_the_amplitude():
    atoms = molecule("C6H6")
    steps = []
    for k in range(100):
        copy = atoms.copy()
        displace(copy, 0.07, random_generator(0, k))
        steps.append(copy.positions - atoms.positions)
    assert np.std(steps) == pytest.approx(0.07, rel=0.05)


def test_hessian_of_springs_is_analytic():
    atoms = molecule("H2")
    atoms.positions = [[0, 0, 0], [0, 0, 1.0]]
    atoms.calc = Springs(0, 1)
    hessian = numerical_hessian(atoms)
    expected = np.zeros((6, 6))
    expected[np.ix_([2, 5], [2, 5])] = 5.5 * np.array([[1, -1], [-1, 1]])
    assert np.allclose(hessian, expected, atol=2e-3)
    assert np.array_equal(atoms.positions[1], [0, 0, 1.0])


@pytest.mark.parametrize("temperature", [1.0, 3000.0])
def test_vibrations_have_the_spread_of_a_quantum_oscillator(temperature):
    atoms, hessian = relaxed()
    mass = atoms.get_masses()[0] / 2  # reduced mass of two equal atoms
    axis = np.array([*atoms.positions[0], *atoms.positions[1]])
    axis /= np.linalg.norm(axis)
    stiffness = axis @ hessian @ axis / 2  # of the bond length
    quantum = HBAR * FEMTOSECOND * np.sqrt(stiffness / mass)
    length, bonds = atoms.get_distance(0, 1), []
    for k in range(2000):
        copy = atoms.copy()
        vibrate(copy, hessian, temperature, random_generator(3, k))
        assert np.allclose(copy.get_center_of_mass(), atoms.get_center_of_mass())
        bonds.append(copy.get_distance(0, 1) - length)
    thermal = 1.0 / np.tanh(quantum / (2 * BOLTZMANN * temperature))
    variance = (HBAR * FEMTOSECOND) ** 2 / (2 * mass * quantum) * thermal
    assert np.var(bonds) == pytest.approx(variance, rel=0.1)


def test_soft_modes_are_bounded():
    atoms, hessian = relaxed()
    copy = atoms.copy()
    vibrate(copy, 0.0 * hessian, 300.0, random_generator(0, 0))
    bound = (HBAR * FEMTOSECOND) ** 2 * 2 * BOLTZMANN * 300 / 2
    bound /= 7.0 * (MIN_WAVENUMBER * INVERSE_CM) ** 2
    assert 0 < abs(copy.get_distance(0, 1) - atoms.get_distance(0, 1))
    assert abs(copy.get_distance(0, 1) - atoms.get_distance(0, 1)) < 5 * bound**0.5


def test_dynamics_reach_the_temperature_and_stay_in_place():
    atoms = molecule("N2")
    centre = atoms.get_center_of_mass()
    sampling = Sampling(kind="dynamics", stride=20, burn_in=100, friction_per_ps=50)
    kinetic = []
    for k in range(150):
        move(atoms, EMT(), sampling, temperature_K=500, rng=random_generator(0, k))
        kinetic.append(atoms.get_kinetic_energy())
        assert np.allclose(atoms.get_center_of_mass(), centre)
    assert np.mean(kinetic) == pytest.approx(3 * BOLTZMANN * 500, rel=0.15)


def test_trajectory_in_pieces_is_the_trajectory_in_one(tmp_path):
    sampling = Sampling(kind="dynamics", samples=4, stride=5, burn_in=10)
    dataset, frames = packed(["H2O"], "0,1 1,2", sampling, tmp_path / "set")
    assert dataset.states == {(0, 1): 4, (1, 2): 4}
    assert not np.allclose(frames[0], frames[4], atol=1e-3)  # each on its own surface
    journal = tmp_path / "set.labels" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    other = tmp_path / "again.labels"
    other.mkdir()
    (other / journal.name).write_text("".join(lines[:6]))
    _, again = packed(["H2O"], "0,1 1,2", sampling, tmp_path / "again")
    assert np.array_equal(frames, again)


def test_relaxed_starts_are_shared_by_temperatures_and_own_to_states(tmp_path):
    sampling = Sampling(
        kind="modes", relax=True, samples=2, temperatures=(100, 300), vertical=False
    )
    dataset, frames = packed(["H2O"], "0,1 1,2", sampling, tmp_path / "set")
    assert dataset.states == {(0, 1): 4, (1, 2): 4}
    text = (tmp_path / "set.labels" / "journal.jsonl").read_text()
    assert text.count('"start"') == 2
    bonds = np.linalg.norm(frames[:, 0] - frames[:, 1], axis=-1)
    assert np.abs(bonds - 1.0).max() < 0.3


def test_a_preparation_that_fails_fails_its_labels_with_the_reason(tmp_path):
    sampling = Sampling(kind="displace", relax=True, samples=2, vertical=False)
    _, frames = packed(["H2O"], "0,1 1,2", sampling, tmp_path / "set", "raising")
    assert len(frames) == 2
    text = (tmp_path / "set.labels" / "failures.csv").read_text().splitlines()
    assert text[1:] == [
        f"H2O,H2O,{k},,1,2,no convergence in 7 cycles" for k in range(2)
    ]


def test_forces_and_momenta_that_are_no_numbers_stop_the_sampling():
    class Broken(Springs):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.results["forces"][0] = np.nan

    atoms = molecule("H2O")
    with pytest.raises(RuntimeError, match="method returned forces that are not finit"):
        prepare(atoms, Broken(0, 1), Sampling(), hessian=True)
    sampling = Sampling(kind="dynamics", stride=2, burn_in=0)
    with pytest.raises(RuntimeError, match="broke down: positions or momenta are not"):
        move(atoms, Broken(0, 1), sampling, temperature_K=9, rng=random_generator(0))


def test_a_trajectory_that_breaks_starts_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sampling = Sampling(kind="dynamics", samples=3, stride=5, burn_in=5)
    dataset, _ = packed(["H2O"], "0,1 1,2", sampling, tmp_path / "set", "failing_once")
    assert dataset.states == {(0, 1): 3, (1, 2): 2}


@pytest.mark.parametrize("kind", ["displace", "dynamics"])
def test_vertical_sets_share_their_geometries(tmp_path, kind):
    sampling = Sampling(kind=kind, samples=2, vertical=True, stride=2, burn_in=0)
    _, frames = packed(["H2O"], "0,1 1,2 0,3", sampling, tmp_path / "set")
    frames = frames.reshape(2, 3, 3, 3)
    assert (frames == frames[:, :1]).all()
    assert not np.array_equal(frames[0], frames[1])
