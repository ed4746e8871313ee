"""The driver: time, conservation, restarts, overflow, and how it stops."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms, FixBondLength
from ase.io import read

from physnet_ase import simulate, untrained_potential
from physnet_ase.config import ModelConfig
from physnet_ase.simulate.analysis import read_frames
from physnet_ase.simulate.blocks import num_programs
from physnet_ase.simulate.ensembles import (
    CHAIN_LENGTH,
    Bodies,
    Chain,
    Controls,
    Evaluation,
    Motion,
    bath_energy,
    kinetic_energy,
    take_step,
)
from physnet_ase.units import BOLTZMANN, FEMTOSECOND
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


def oscillator(
    ensemble, timestep_fs, *, mass=12.0, stiffness=30.0, momentum=0.0, count=1
):
    """One atom on a spring for each replica: what a step needs, and its start."""
    one, zeros = jnp.ones(count), jnp.zeros(count)
    links, virial = jnp.zeros((count, CHAIN_LENGTH)), jnp.zeros((count, 3, 3))
    bodies = Bodies(
        owner=jnp.arange(count),
        place=jnp.zeros(count, jnp.int32),
        masses=mass * one,
        mobile=one > 0,
        degrees=3.0 * one,
        volume=zeros,
    )
    controls = Controls(
        timestep=jnp.float32(timestep_fs * FEMTOSECOND),
        thermal=BOLTZMANN * 300.0 * one,
        final_thermal=BOLTZMANN * 300.0 * one,
        ramp_steps=jnp.float32(1.0),
        friction=jnp.float32(0.05 / FEMTOSECOND),
        thermostat_time=jnp.float32(20.0 * FEMTOSECOND),
        barostat_time=jnp.float32(1.0),
        pressure=jnp.float32(0.0),
        compressibility=jnp.float32(1.0),
        keys=jnp.stack([jnp.arange(count), jnp.arange(count) + 7], 1).astype("uint32"),
    )

    def evaluate(positions, deformation):
        energy = 0.5 * stiffness * jnp.sum(positions**2, axis=1)
        return Evaluation(energy, -stiffness * positions, zeros, virial)

    positions = jnp.tile(jnp.array([[0.1, 0.0, 0.0]]), (count, 1))
    start = Motion(
        positions=positions,
        momenta=jnp.full((count, 3), momentum),
        found=evaluate(positions, virial),
        chain=Chain(links, links),
        cell_chain=Chain(links, links),
        deformation=virial,
        scale_velocity=zeros,
        heat=zeros,
    )

    def step(motion, index):
        motion = take_step(ensemble, evaluate, bodies, controls, motion, index)
        kinetic = kinetic_energy(bodies, motion.momenta)
        bath = bath_energy(ensemble, bodies, controls, motion, index) + motion.heat
        return motion, (motion.positions, kinetic, motion.found.energy + kinetic + bath)

    def track(steps):
        return jax.lax.scan(step, start, jnp.arange(steps))[1]

    return jax.jit(track, static_argnums=0)


def test_harmonic_oscillator_has_its_period_in_fs():
    """m = 12 amu, k = 30 eV/Å²: 2π sqrt(m/k) = 40.46 fs, worked out by hand.

    sqrt(12 amu / 30 eV/Å²) = sqrt(0.4 · 1.66054e-27 kg · 1e-20 m² / 1.60218e-19 J)
    = 6.4386 fs.
    """
    timestep_fs = 0.25
    positions, _, _ = oscillator("nve", timestep_fs)(1000)
    x = np.concatenate([[0.1], np.asarray(positions[:, 0, 0])])
    before = np.flatnonzero((x[:-1] > 0) & (x[1:] <= 0))
    crossings = before + x[before] / (x[before] - x[before + 1])
    period = np.mean(np.diff(crossings)) * timestep_fs
    assert period == pytest.approx(40.46, rel=0.01)


@pytest.mark.parametrize(
    ("ensemble", "spring"),
    # Rescaling never turns a velocity: only without a spring it visits everything.
    [
        ("nvt-langevin", {"stiffness": 30.0}),
        ("nvt-csvr", {"stiffness": 0.0, "momentum": 0.5}),
    ],
)
def test_baths_give_the_canonical_distribution(ensemble, spring):
    """3N = 3: mean 3/2 kT, variance 3/2 (kT)²; also the effective energy's drift."""
    steps, replicas, thermal = 4000, 64, BOLTZMANN * 300.0
    _, kinetic, conserved = oscillator(ensemble, 1.0, count=replicas, **spring)(steps)
    kinetic = np.asarray(kinetic, np.float64)[500:]
    # 64 × 3.5 ps at correlation times of some 40 fs: about 5,000 independent ones.
    assert kinetic.mean() == pytest.approx(1.5 * thermal, rel=0.04)
    assert kinetic.var() == pytest.approx(1.5 * thermal**2, rel=0.12)
    conserved = np.asarray(conserved, np.float64)
    assert np.ptp(conserved.mean(axis=1)) < 0.03 * 1.5 * thermal


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


@pytest.mark.parametrize("suffix", ["extxyz", "traj", "h5md"])
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
    assert len(read_frames(files["trajectory"])) == 10
    rest = simulate.run(atoms, potential, steps=60, resume=True, **files, **options)
    np.testing.assert_array_equal(rest.times_fs, whole.times_fs)
    np.testing.assert_array_equal(rest.total_energies, whole.total_energies)
    np.testing.assert_array_equal(rest.atoms.positions, whole.atoms.positions)
    np.testing.assert_array_equal(rest.atoms.get_momenta(), whole.atoms.get_momenta())
    straight, resumed = read_frames(whole.path), read_frames(rest.path)
    assert [f.info["time_fs"] for f in resumed] == whole.times_fs.tolist()
    for one, two in zip(straight, resumed, strict=True):
        np.testing.assert_array_equal(one.positions, two.positions)


def test_outdated_list_is_looked_up_again_and_enlarged(potential, caplog):
    """Two clusters fly into each other: their list starts with their own pairs."""
    left = Atoms()
    for index in range(5):
        part = molecule("CH4")
        part.translate([0.0, 3.5 * (index % 3), 3.5 * (index // 3)])
        left += part
    right = left.copy()
    right.positions[:, 0] += 6.5
    atoms = left + right
    speed = np.zeros((50, 3))
    speed[:25, 0], speed[25:, 0] = 0.4, -0.4  # Å/(Å·sqrt(amu/eV)): 0.04 Å/fs
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
    # 12 of 18 degrees of freedom move.
    assert degrees_of_freedom(atoms, "nvt-nose-hoover") == 12
    assert 300 < np.mean(result.temperatures_K) < 900


def test_npt_conserves_its_energy_while_the_box_breathes(potential):
    """A triclinic cell in any orientation."""
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
    # Falls with the square of the time step.
    assert np.ptp(result.conserved_energies) < 1e-4
    direct = potential.evaluate(result.atoms).energy
    assert result.potential_energies[-1] == pytest.approx(direct, abs=1e-4)


def test_a_flexible_cell_changes_its_shape_and_conserves_its_energy(potential):
    atoms = Atoms(cell=[[9.5, 0.3, 0.1], [0.4, 9.6, -0.2], [0.0, 0.7, 9.4]], pbc=True)
    for index in range(4):
        part = molecule("H2O")
        part.translate(4.7 * np.array([index % 2, index // 2, index % 2]))
        atoms += part
    result = simulate.run(
        atoms,
        potential,
        ensemble="npt-flexible",
        pressure_GPa=-0.5,
        barostat_fs=60,
        steps=60,
        save_every=5,
    )
    end = result.atoms
    assert end.get_volume() / atoms.get_volume() > 1.02
    ratios = end.cell.lengths() / atoms.cell.lengths()
    assert np.ptp(ratios) > 1e-3
    assert np.ptp(result.total_energies) > 0.02
    assert np.ptp(result.conserved_energies) < 2e-3
    direct = potential.evaluate(end, properties=("energy", "stress"))
    assert result.potential_energies[-1] == pytest.approx(direct.energy, abs=1e-4)
    np.testing.assert_allclose(end.calc.results["stress"], direct.stress, atol=1e-5)


def test_a_flexible_cell_of_free_atoms_has_the_volumes_of_an_ideal_gas():
    """p(V) ∝ V^N exp(−P V/kT): mean and variance N + 1 in units of kT/P."""
    count, size, steps = 400, 4, 1200
    one, links = jnp.ones(count), jnp.zeros((count, CHAIN_LENGTH))
    owner = jnp.repeat(jnp.arange(count), size)
    bodies = Bodies(
        owner=owner,
        place=jnp.tile(jnp.arange(size, dtype=jnp.int32), count),
        masses=jnp.ones(count * size),
        mobile=jnp.ones(count * size, bool),
        degrees=(3.0 * size - 3.0) * one,
        volume=(size + 1.0) * one,
    )
    controls = Controls(
        timestep=jnp.float32(0.02),
        thermal=one,
        final_thermal=one,
        ramp_steps=jnp.float32(1.0),
        friction=jnp.float32(1.0),
        thermostat_time=jnp.float32(0.2),
        barostat_time=jnp.float32(0.5),
        pressure=jnp.float32(1.0),
        compressibility=jnp.float32(1.0),
        keys=jnp.stack([jnp.arange(count), jnp.arange(count) + 7], 1).astype("uint32"),
    )
    nothing = Evaluation(
        0.0 * one,
        jnp.zeros((count * size, 3)),
        jnp.zeros(count * size),
        jnp.zeros((count, 3, 3)),
    )
    momenta = jax.random.normal(jax.random.key(0), (count, size, 3))
    momenta = (momenta - momenta.mean(axis=1, keepdims=True)).reshape(-1, 3)
    start = Motion(
        positions=jnp.zeros_like(momenta),
        momenta=momenta,
        found=nothing,
        chain=Chain(links, links),
        cell_chain=Chain(links, links),
        deformation=jnp.tile(jnp.eye(3), (count, 1, 1)),
        scale_velocity=0.0 * one,
        heat=0.0 * one,
    )

    def step(motion, index):
        motion = take_step(
            "npt-flexible", lambda *_: nothing, bodies, controls, motion, index
        )
        return motion, motion.deformation

    cells = np.asarray(
        jax.jit(lambda: jax.lax.scan(step, start, jnp.arange(steps))[1])()
    )
    volumes = (size + 1.0) * np.linalg.det(cells[steps // 4 :])
    assert volumes.mean() == pytest.approx(size + 1.0, rel=0.02)
    assert volumes.var() == pytest.approx(size + 1.0, rel=0.1)
    lengths = np.linalg.norm(cells, axis=-1).mean(axis=(0, 1))
    np.testing.assert_allclose(lengths, lengths.mean(), rtol=0.02)  # no axis is special


def test_langevin_keeps_the_temperature_of_free_atoms(potential):
    """Ten atoms too far apart to feel each other: 30 degrees of freedom at 300 K."""
    atoms = Atoms("C10", positions=[[40.0 * i, 0.0, 0.0] for i in range(10)])
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
    # Free atoms keep their energy but for what the bath gives, to float32.
    assert np.ptp(result.conserved_energies) < 1e-3


def test_another_run_of_the_same_shape_compiles_nothing(potential):
    options = {"ensemble": "nvt-langevin", "steps": 2}
    simulate.run(molecule("NH3"), potential, **options)
    before = num_programs()
    other = untrained_potential(CONFIG, seed=8)
    phosphine_like = molecule("NH3")
    phosphine_like.set_masses([31.0, 2.0, 2.0, 2.0])
    changed = {
        "temperature_K": 500,
        "timestep_fs": 0.1,
        "friction_per_ps": 3.0,
        "charge": 1,
        "multiplicity": 2,
        "save_every": 1,
        "block_steps": 3,
        "seed": 5,
        "steps": 4,
    }
    simulate.run(phosphine_like, other, **options | changed)
    assert num_programs() == before


def test_temperature_ramp_ends_where_it_should(potential):
    atoms = Atoms("C10", positions=[[40.0 * i, 0.0, 0.0] for i in range(10)])
    result = simulate.run(
        atoms,
        potential,
        ensemble="nvt-langevin",
        friction_per_ps=500,
        temperature_K=100,
        final_temperature_K=900,
        ramp_steps=500,
        timestep_fs=2.0,
        steps=2500,
        block_steps=1000,
        multiplicity=1,
    )
    assert result.temperatures_K[0] == pytest.approx(100.0, rel=1e-4)
    assert np.mean(result.temperatures_K[60:]) == pytest.approx(900.0, rel=0.06)


def test_a_cell_thinner_than_twice_the_cutoff_runs(potential):
    """5 Å at a cutoff of 4 Å: atoms see several images of each other."""
    atoms = molecule("NH3")
    atoms.cell, atoms.pbc = [5.0, 5.2, 5.4], True
    result = simulate.run(
        atoms, potential, ensemble="npt", pressure_GPa=1.0, steps=40, barostat_fs=100
    )
    assert result.atoms.get_volume() < atoms.get_volume()
    direct = potential.evaluate(result.atoms, properties=("energy", "forces"))
    energy = result.atoms.get_potential_energy()
    assert energy == pytest.approx(direct.energy, abs=1e-4)
    np.testing.assert_allclose(result.atoms.get_forces(), direct.forces, atol=1e-4)
    assert np.ptp(result.conserved_energies) < 1e-3
    assert "pressure_GPa" in result.atoms.info


def test_held_atoms_stay_and_other_constraints_are_refused(potential):
    atoms = molecule("CH3OH")
    atoms.set_constraint(FixAtoms([0, 1]))
    result = simulate.run(atoms, potential, ensemble="nvt-csvr", steps=20)
    moved = np.abs(result.atoms.positions - atoms.positions).max(axis=1)
    np.testing.assert_allclose(moved[:2], 0.0, atol=1e-6)
    assert moved[2:].min() > 1e-4
    assert result.temperatures_K[0] == pytest.approx(300.0, rel=1e-4)
    assert isinstance(result.atoms.constraints[0], FixAtoms)
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(ValueError, match="honours FixAtoms, not FixBondLength"):
        simulate.run(atoms, potential, steps=1)


def test_the_state_changes_in_the_middle(potential, tmp_path):
    options = {
        "timestep_fs": 0.25,
        "save_every": 4,
        "events": [(5.0, (1, 2)), (8.0, (0, 1))],
        "temperature_K": 100,
        "block_steps": 16,
    }
    path = tmp_path / "run.traj"
    whole = simulate.run(
        molecule("H2O"), potential, steps=48, trajectory=path, **options
    )
    programs = num_programs()
    frames = read(path, ":")
    charges = [frame.info["charge"] for frame in frames]
    assert charges == [0] * 6 + [1] * 3 + [0] * 4
    for frame in frames:
        direct = potential.evaluate(frame, properties=("energy", "dipole", "charges"))
        energy = frame.get_potential_energy()
        assert energy == pytest.approx(direct.energy, abs=1e-5)
        np.testing.assert_allclose(frame.get_charges(), direct.charges, atol=1e-5)
        np.testing.assert_allclose(frame.get_dipole_moment(), direct.dipole, atol=1e-4)
    assert np.ptp(whole.total_energies) > 0.1
    assert np.ptp(whole.conserved_energies) < 2e-3  # the jumps are accounted for
    checkpoint = tmp_path / "run.npz"
    simulate.run(molecule("H2O"), potential, steps=26, checkpoint=checkpoint, **options)
    rest = simulate.run(
        molecule("H2O"),
        potential,
        steps=48,
        checkpoint=checkpoint,
        resume=True,
        **options,
    )
    np.testing.assert_array_equal(rest.times_fs, whole.times_fs)
    np.testing.assert_array_equal(rest.conserved_energies, whole.conserved_energies)
    assert num_programs() == programs


def test_bad_events_are_refused(potential):
    for events, message in (
        ([(0.3, (1, 2))], "multiples of timestep_fs"),
        ([(1.0, (1, 2)), (1.0, (0, 1))], "two events"),
        ([(1.0, (1, 1))], "impossible"),
        ([(1.0, (2, 1))], "not trained on"),
    ):
        with pytest.raises(ValueError, match=message):
            simulate.run(molecule("H2O"), potential, events=events, steps=4)


def test_frames_keep_what_the_user_put_on_the_atoms(potential, tmp_path):
    atoms = molecule("H2O")
    atoms.info |= {"name": "water", "total_charge": 0}
    atoms.set_tags([1, 2, 2])
    atoms.set_array("residue", np.array([7, 7, 7]))
    path = tmp_path / "run.extxyz"
    options = {"steps": 4, "save_every": 2, "timestep_fs": 0.5}
    simulate.run(atoms, potential, trajectory=path, events=[(1.0, (1, 2))], **options)
    last = read(path, "-1")
    assert last.info["name"] == "water"
    assert last.info["charge"] == 1
    assert "total_charge" not in last.info  # it would contradict
    assert last.get_tags().tolist() == [1, 2, 2]
    assert last.arrays["residue"].tolist() == [7, 7, 7]
