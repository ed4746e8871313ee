"""Summaries, files and checkpoints of simulations, and what the driver refuses."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read

from physnet_ase import simulate, untrained_potential
from physnet_ase.config import ModelConfig
from physnet_ase.simulate.restart import load_checkpoint, save_checkpoint
from physnet_ase.simulate.trajectory import TrajectoryWriter, energy_drift
from physnet_ase.units import BOLTZMANN
from physnet_ase.velocities import degrees_of_freedom, thermal_momenta

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
    return untrained_potential(CONFIG)


def test_drift_is_the_slope_in_mev_per_atom_and_ps(rng):
    times = np.arange(0.0, 500.0, 5.0)  # fs
    slope = 3e-6  # eV/fs of 4 atoms: 0.75 meV/atom/ps
    assert energy_drift(times, -7e4 + slope * times, 4) == pytest.approx(0.75, rel=1e-4)
    wiggle = 1e-4 * np.sin(0.3 * times)
    assert energy_drift(times, slope * times + wiggle, 4) == pytest.approx(
        0.75, rel=0.1
    )
    assert np.isnan(energy_drift([0.0, 1.0], [0.0, 1.0], 4))


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        (molecule("CH3OH"), 12),
        (molecule("CO2"), 4),
        (molecule("H2"), 1),
        (Atoms("O"), 0),
        (Atoms("O4", positions=np.eye(4, 3), cell=[9, 9, 9], pbc=True), 9),
    ],
    ids=["bent", "linear", "diatomic", "atom", "cell"],
)
def test_momenta_have_no_drift_no_spin_and_the_temperature(atoms, expected):
    assert degrees_of_freedom(atoms, "nve") == expected
    assert degrees_of_freedom(atoms, "nvt-langevin") == 3 * len(atoms)
    momenta = thermal_momenta(atoms, 250.0, seed=4)
    np.testing.assert_allclose(momenta.sum(axis=0), 0.0, atol=1e-12)
    if not atoms.pbc.any():
        arms = atoms.positions - atoms.get_center_of_mass()
        angular = np.cross(arms, momenta).sum(axis=0)
        np.testing.assert_allclose(angular, 0.0, atol=1e-10)
    kinetic = 0.5 * np.sum(momenta**2 / atoms.get_masses()[:, None])
    assert kinetic == pytest.approx(0.5 * expected * BOLTZMANN * 250.0)


def frames(count):
    found = []
    for index in range(count):
        atoms = molecule("H2O")
        atoms.positions += 0.1 * index
        found.append(atoms)
    return found


@pytest.mark.parametrize("suffix", [".extxyz", ".traj"])
def test_writer_appends_and_cuts_what_came_after_the_checkpoint(tmp_path, suffix):
    path = tmp_path / f"run{suffix}"
    writer = TrajectoryWriter(path, 3, keep_frames=0)
    writer.write(frames(3))
    writer.write(frames(2))
    assert len(read(path, ":")) == 5
    TrajectoryWriter(path, 3, keep_frames=4).write(frames(1))
    heights = [atoms.positions[0, 2] for atoms in read(path, ":")]
    first = frames(1)[0].positions[0, 2]
    np.testing.assert_allclose(np.subtract(heights, first), [0, 0.1, 0.2, 0, 0])
    with pytest.raises(ValueError, match="holds 5 whole frames.*written after 9"):
        TrajectoryWriter(path, 3, keep_frames=9)
    TrajectoryWriter(path, 3, keep_frames=0)
    assert not path.exists()
    with pytest.raises(ValueError, match="there is no such file"):
        TrajectoryWriter(path, 3, keep_frames=1)


def test_unknown_trajectory_format_is_refused_before_the_run(potential, tmp_path):
    with pytest.raises(ValueError, match=r"\.dcd.*\.extxyz, \.xyz, \.traj"):
        simulate.run(
            molecule("H2O"), potential, steps=1, trajectory=tmp_path / "run.dcd"
        )


def test_checkpoint_names_damage_and_differences(tmp_path):
    path = tmp_path / "run.npz"
    with pytest.raises(ValueError, match="no such checkpoint"):
        load_checkpoint(path, {})
    save_checkpoint(path, {"x": np.arange(3)}, {"seed": 1, "timestep_fs": 0.5})
    loaded = load_checkpoint(path, {"seed": 1, "timestep_fs": 0.5})
    np.testing.assert_array_equal(loaded["x"], [0, 1, 2])
    with pytest.raises(ValueError, match=r"timestep_fs was 0\.5, now 1\.0"):
        load_checkpoint(path, {"seed": 1, "timestep_fs": 1.0})
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a zip file"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"run\.npz: not a readable checkpoint"):
            load_checkpoint(path, {})


REFUSED = [
    ({"ensemble": "npt"}, "npt needs a periodic cell"),
    ({"ensemble": "nph"}, "nvt-langevin"),
    ({"timestep": 0.5}, "timestep"),
    ({"timestep_fs": -0.5}, "greater than 0"),
    ({"ensemble": "nvt-langevin", "temperature_K": 0}, "temperature_K above 0"),
    ({"charge": 1, "multiplicity": 1}, "impossible"),
    ({"charge": 2}, "not trained on"),
    ({"resume": True}, "needs checkpoint="),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda x: str(x)[:40])
def test_bad_settings_are_refused(potential, options, message):
    with pytest.raises(ValueError, match=message):
        simulate.run(molecule("H2O"), potential, **{"steps": 1} | options)


def test_bad_structures_are_refused(potential):
    slab = Atoms("H2O", positions=np.eye(3), cell=[9, 9, 9], pbc=[True, True, False])
    with pytest.raises(ValueError, match="three periodic directions"):
        simulate.run(slab, potential, steps=1, ensemble="npt")
    charged = molecule("H2O")
    charged.info["charge"] = 1
    with pytest.raises(ValueError, match=r"charge=0 was passed.*atoms\.info"):
        simulate.run(charged, potential, charge=0, multiplicity=2, steps=1)
    lost = molecule("H2O")
    lost.positions[1, 2] = np.nan
    with pytest.raises(ValueError, match="position of atom 1"):
        simulate.run(lost, potential, steps=1)


def test_resume_at_the_end_returns_the_same_summary(potential, tmp_path):
    options = {"steps": 4, "save_every": 2, "checkpoint": tmp_path / "run.npz"}
    first = simulate.run(molecule("H2O"), potential, **options)
    again = simulate.run(molecule("H2O"), potential, resume=True, **options)
    np.testing.assert_array_equal(again.total_energies, first.total_energies)
    np.testing.assert_array_equal(again.atoms.positions, first.atoms.positions)
    other = untrained_potential(CONFIG, seed=9)
    with pytest.raises(ValueError, match="belongs to another simulation.*weights was"):
        simulate.run(molecule("H2O"), other, resume=True, **options)
