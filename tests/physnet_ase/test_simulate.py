"""The driver: time, conservation, restarts, overflow, and how it stops."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read
from jax_md import space

from physnet_ase import simulate, untrained_potential
from physnet_ase.config import ModelConfig
from physnet_ase.simulate.ensembles import make_integrator
from physnet_ase.velocities import degrees_of_freedom

CONFIG = ModelConfig(
    num_features=4,
    num_radial=4,
    num_blocks=1,
    num_residual_atomic=0,
    num_residual_interaction=0,
    num_residual_output=0,
    cutoff=4.0,
)


@pytest.fixture(scope="module")
def potential():
    return untrained_potential(CONFIG, seed=3)


def test_harmonic_oscillator_has_its_period_in_fs():
    """m = 12 amu, k = 30 eV/Å²: 2π sqrt(m/k) = 40.46 fs, worked out by hand.

    sqrt(12 amu / 30 eV/Å²) = sqrt(0.4 · 1.66054e-27 kg · 1e-20 m² / 1.60218e-19 J)
    = 6.4386 fs.
    """
    mass, stiffness, timestep_fs = 12.0, 30.0, 0.25
    settings = simulate.SimulationSettings(timestep_fs=timestep_fs)
    init_fn, step_fn = make_integrator(
        settings,
        lambda position, **_: 0.5 * stiffness * jnp.sum(position**2),
        space.free()[1],
    )
    start = jnp.array([[0.1, 0.0, 0.0]])
    state = init_fn(
        jax.random.PRNGKey(0), start, mass=jnp.array([mass]), momenta=jnp.zeros((1, 3))
    )

    def step(state, _):
        state = step_fn(state)
        return state, state.position[0, 0]

    _, track = jax.jit(lambda s: jax.lax.scan(step, s, length=1000))(state)
    x = np.concatenate([[0.1], np.asarray(track)])
    before = np.flatnonzero((x[:-1] > 0) & (x[1:] <= 0))
    crossings = before + x[before] / (x[before] - x[before + 1])
    period = np.mean(np.diff(crossings)) * timestep_fs
    assert period == pytest.approx(40.46, rel=0.01)


def test_nve_conserves_energy_and_writes_what_the_potential_says(potential, tmp_path):
    atoms = molecule("CH3OH")
    path = tmp_path / "run.extxyz"
    seen = []
    result = simulate.run(
        atoms,
        potential,
        charge=1,
        multiplicity=2,
        temperature_K=300,
        timestep_fs=0.25,
        steps=220,
        save_every=20,
        trajectory=path,
        on_progress=seen.append,
    )
    frames = read(path, ":")
    assert [frame.info["time_fs"] for frame in frames] == result.times_fs.tolist()
    assert result.times_fs.tolist() == [5.0 * i for i in range(12)]
    assert result.temperatures_K[0] == pytest.approx(300.0, rel=1e-4)
    assert np.ptp(result.kinetic_energies) > 0.01  # energy does flow
    assert np.ptp(result.total_energies) < 1e-3
    assert abs(result.drift) < 1.0  # meV/atom/ps; a float32 run of 55 fs gives < 0.1
    assert [p.step for p in seen] == [100, 200, 220]
    assert seen[-1].total_energy == pytest.approx(result.total_energies[-1])
    assert not atoms.info  # the caller's atoms are left alone
    assert atoms.calc is None
    middle = frames[6]
    direct = potential.evaluate(middle)  # its info holds charge and multiplicity
    assert direct.state.charge == 1
    # extxyz keeps 8 decimals of the positions.
    assert middle.get_potential_energy() == pytest.approx(direct.energy, abs=1e-5)
    np.testing.assert_allclose(middle.get_forces(), direct.forces, atol=1e-5)
    masses = middle.get_masses()[:, None]
    np.testing.assert_allclose(np.sum(middle.get_momenta(), axis=0), 0.0, atol=1e-4)
    kinetic = 0.5 * np.sum(middle.get_momenta() ** 2 / masses)
    assert kinetic == pytest.approx(result.kinetic_energies[6], rel=1e-5)
    assert result.atoms.get_potential_energy() == result.potential_energies[-1]


@pytest.mark.parametrize("suffix", ["extxyz", "traj"])
def test_restart_is_bit_identical(potential, tmp_path, suffix):
    options = {
        "ensemble": "nvt-langevin",
        "block_steps": 15,
        "save_every": 5,
        "checkpoint_every": 30,
        "timestep_fs": 1.0,
        "skin": 0.2,
    }
    atoms = molecule("NH3")
    whole = simulate.run(
        atoms, potential, steps=60, trajectory=tmp_path / f"a.{suffix}", **options
    )
    files = {
        "trajectory": tmp_path / f"b.{suffix}",
        "checkpoint": tmp_path / "b.npz",
    }

    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == 45:  # frames of 30..45 are written, the checkpoint is of 30
            raise Killed

    with pytest.raises(Killed):
        simulate.run(atoms, potential, steps=60, on_progress=kill, **files, **options)
    assert len(read(files["trajectory"], ":")) == 10
    rest = simulate.run(atoms, potential, steps=60, resume=True, **files, **options)
    np.testing.assert_array_equal(rest.times_fs, whole.times_fs)
    np.testing.assert_array_equal(rest.total_energies, whole.total_energies)
    np.testing.assert_array_equal(rest.atoms.positions, whole.atoms.positions)
    np.testing.assert_array_equal(rest.atoms.get_momenta(), whole.atoms.get_momenta())
    straight, resumed = read(whole.path, ":"), read(rest.path, ":")
    assert [f.info["time_fs"] for f in resumed] == whole.times_fs.tolist()
    for one, two in zip(straight, resumed, strict=True):
        np.testing.assert_array_equal(one.positions, two.positions)


def test_overflowing_list_is_enlarged_and_the_block_redone(potential, caplog):
    """Two molecules fly into each other: their list starts with their own pairs."""
    left, right = molecule("CH4"), molecule("CH4")
    right.positions[:, 0] += 7.0
    atoms = left + right
    speed = np.zeros((10, 3))
    speed[:5, 0], speed[5:, 0] = 0.5, -0.5  # Å/(Å·sqrt(amu/eV)): 0.05 Å/fs
    atoms.set_velocities(speed)
    options = {"timestep_fs": 0.5, "steps": 60, "save_every": 20}
    with caplog.at_level(logging.INFO, logger="physnet_ase"):
        grown = simulate.run(atoms, potential, skin=0.2, **options)
    assert "neighbour list full" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="physnet_ase"):
        roomy = simulate.run(atoms, potential, skin=8.0, **options)
    assert "neighbour list full" not in caplog.text
    np.testing.assert_allclose(
        grown.atoms.positions, roomy.atoms.positions, rtol=0, atol=1e-4
    )
    np.testing.assert_allclose(
        grown.total_energies, roomy.total_energies, rtol=0, atol=1e-4
    )


def test_numbers_that_are_not_finite_stop_the_run_with_the_step(potential, tmp_path):
    atoms = molecule("H2O")
    momenta = np.zeros((3, 3))
    momenta[1, 0] = 8e37  # float32 ends at 3e38: the fifth of these steps is beyond it
    atoms.set_momenta(momenta)
    path = tmp_path / "lost.extxyz"
    with pytest.raises(
        FloatingPointError, match=r"step (\d+) .*last good frame"
    ) as info:
        simulate.run(
            atoms, potential, timestep_fs=10.0, steps=40, save_every=1, trajectory=path
        )
    step = int(info.value.args[0].split()[1])
    assert 1 <= step < 40
    assert len(read(path, ":")) == step  # frames 0 … step - 1


def test_nose_hoover_conserves_its_energy_and_heats(potential):
    atoms = molecule("CH3OH")
    result = simulate.run(
        atoms,
        potential,
        ensemble="nvt-nose-hoover",
        temperature_K=600,
        thermostat_fs=20,
        timestep_fs=0.25,
        steps=300,
    )
    assert np.ptp(result.total_energies) > 0.05  # the bath exchanges energy
    assert np.ptp(result.conserved_energies) < 2e-3
    # 12 of 18 degrees of freedom move; jax-md alone would aim at 3/2 of this.
    assert degrees_of_freedom(atoms, "nvt-nose-hoover") == 12
    assert 300 < np.mean(result.temperatures_K) < 900


def test_npt_conserves_its_energy_while_the_box_breathes(potential):
    """A triclinic cell in any orientation; also the test of our repaired step."""
    atoms = Atoms(cell=[[9.5, 0.3, 0.1], [0.4, 9.6, -0.2], [0.0, 0.7, 9.4]], pbc=True)
    for index in range(4):
        part = molecule("H2O")
        part.translate(4.7 * np.array([index % 2, index // 2, index % 2]))
        atoms += part
    result = simulate.run(
        atoms,
        potential,
        ensemble="npt",
        pressure_GPa=-0.02,
        barostat_fs=60,
        timestep_fs=0.5,
        steps=60,
        save_every=5,
    )
    growth = result.atoms.get_volume() / atoms.get_volume()
    assert growth > 1.05  # negative pressure pulls
    shape = result.atoms.cell.array / growth ** (1 / 3)
    np.testing.assert_allclose(shape, atoms.cell.array, atol=1e-4)
    assert np.ptp(result.potential_energies) > 0.02
    # Falls with the square of the time step; jax-md's own step gives 0.012.
    assert np.ptp(result.conserved_energies) < 1e-4
    direct = potential.evaluate(result.atoms).energy
    assert result.potential_energies[-1] == pytest.approx(direct, abs=1e-4)


def test_langevin_keeps_the_temperature_of_free_atoms(potential):
    """Ten atoms too far apart to feel each other: 30 degrees of freedom at 300 K."""
    atoms = Atoms("H10", positions=[[40.0 * i, 0.0, 0.0] for i in range(10)])
    result = simulate.run(
        atoms,
        potential,
        ensemble="nvt-langevin",
        friction_per_ps=100,
        timestep_fs=2.0,
        steps=4000,
        block_steps=1000,
        multiplicity=1,
    )
    # 8 ps at a correlation time of 5 fs: the mean is known to about 1 %.
    assert np.mean(result.temperatures_K) == pytest.approx(300.0, rel=0.05)
    assert np.isnan(result.drift)  # nothing is conserved, and nothing is claimed
