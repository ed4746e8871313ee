"""Many replicas in one program: each its own, and exact after a restart."""

import logging

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read

from physnet_ase import simulate, untrained_potential
from physnet_ase.config import ModelConfig
from physnet_ase.simulate import system

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


def test_replicas_move_as_they_would_alone(potential):
    """Different molecules, states, temperatures and seeds; noise is each one's own."""
    systems = [molecule("NH3"), molecule("H2O")]
    own = {
        "charge": [0, 1],
        "multiplicity": [1, 2],
        "temperature_K": [200, 400],
        "seed": [4, 9],
    }
    shared = {"ensemble": "nvt-langevin", "steps": 30, "save_every": 10}
    together = simulate.run(systems, potential, **shared, **own)
    for index, (atoms, result) in enumerate(zip(systems, together, strict=True)):
        mine = {key: entries[index] for key, entries in own.items()}
        alone = simulate.run(atoms, potential, **shared, **mine)
        np.testing.assert_allclose(
            result.atoms.positions, alone.atoms.positions, atol=1e-5
        )
        np.testing.assert_allclose(
            result.conserved_energies, alone.conserved_energies, atol=1e-5
        )
        assert result.atoms.info["charge"] == mine["charge"]


def test_lots_change_nothing(potential, monkeypatch):
    options = {
        "charge": [0, 1, -1, 0],
        "multiplicity": [1, 2, 2, 3],
        "steps": 10,
        "ensemble": "nvt-csvr",
    }
    whole = simulate.run(molecule("H2O"), potential, **options)
    monkeypatch.setattr(system, "LOT_PAIRS", 12)  # two molecules of six pairs
    lots = simulate.run(molecule("H2O"), potential, **options)
    for one, two in zip(whole, lots, strict=True):
        np.testing.assert_allclose(one.total_energies, two.total_energies, atol=1e-5)
        np.testing.assert_allclose(one.dipoles, two.dipoles, atol=1e-4)


def test_seeds_count_up_and_lists_must_fit(potential, tmp_path):
    water = molecule("H2O")
    found = simulate.run(
        water, potential, replicas=3, steps=4, trajectory=tmp_path / "run.traj"
    )
    assert [one.path.name for one in found] == [
        "run-00.traj",
        "run-01.traj",
        "run-02.traj",
    ]
    assert len({one.kinetic_energies[-1] for one in found}) == 3
    assert isinstance(simulate.run([water], potential, steps=2), list)
    with pytest.raises(ValueError, match="3 of structures, 2 of charge"):
        simulate.run([water] * 3, potential, charge=[0, 1], steps=1)
    with pytest.raises(ValueError, match="replica 1: .*outside the model"):
        simulate.run(water, potential, charge=[0, 3], steps=1)
    with pytest.raises(ValueError, match="2 different trajectory files for 3"):
        simulate.run([water] * 3, potential, trajectory=["a.traj", "b.traj"], steps=1)


def test_one_that_explodes_is_stopped_and_the_others_go_on(potential, tmp_path, caplog):
    good, wild, hot = molecule("H2O"), molecule("H2O"), molecule("H2O")
    momenta = np.zeros((3, 3))
    momenta[1, 0] = 8e37  # float32 ends at 3e38
    wild.set_momenta(momenta)
    momenta[1, 0] = 1000.0
    hot.set_momenta(momenta)
    options = {"timestep_fs": 1.0, "steps": 40, "save_every": 1, "block_steps": 10}
    files = {"trajectory": tmp_path / "run.extxyz", "checkpoint": tmp_path / "run.npz"}
    seen = []
    options |= {"max_temperature_K": 1e30}
    with caplog.at_level(logging.WARNING, logger="physnet_ase"):
        found = simulate.run(
            [good, wild, hot], potential, on_progress=seen.append, **files, **options
        )
    assert found[0].stopped is None
    assert "no longer finite" in found[1].stopped
    assert "replica 1 stopped" in caplog.text
    last = int(found[1].times_fs[-1])
    assert last < 40
    assert f"step {last + 1} " in found[1].stopped
    assert found[1].atoms.info["time_fs"] == last
    assert len(read(found[1].path, ":")) == last + 1
    assert [one.running for one in seen][-1] == 2
    alone = simulate.run(good, potential, **options)
    np.testing.assert_allclose(found[0].total_energies, alone.total_energies, atol=1e-5)
    again = simulate.run([good, wild, hot], potential, resume=True, **files, **options)
    assert again[1].stopped == found[1].stopped
    np.testing.assert_array_equal(again[1].times_fs, found[1].times_fs)


def test_restart_of_many_is_bit_identical(potential, tmp_path):
    box = molecule("NH3")
    box.cell, box.pbc = [6.0, 6.0, 6.0], True
    systems = [molecule("CH4"), box]
    options = {"ensemble": "nvt-csvr", "save_every": 5, "block_steps": 7, "skin": 0.1}
    whole = simulate.run(
        systems, potential, steps=60, trajectory=tmp_path / "a.extxyz", **options
    )
    files = {"trajectory": tmp_path / "b.extxyz", "checkpoint": tmp_path / "b.npz"}
    calls = []
    simulate.run(
        systems,
        potential,
        steps=60,
        should_stop=lambda: calls.append(1) or len(calls) == 4,
        **files,
        **options,
    )
    rest = simulate.run(systems, potential, steps=60, resume=True, **files, **options)
    for one, two in zip(whole, rest, strict=True):
        np.testing.assert_array_equal(one.conserved_energies, two.conserved_energies)
        np.testing.assert_array_equal(one.atoms.positions, two.atoms.positions)
        assert one.path.read_bytes() == two.path.read_bytes()
    with pytest.raises(ValueError, match="replica 1 seed was 1, now 2"):
        simulate.run(
            systems, potential, steps=60, resume=True, seed=[0, 2], **files, **options
        )


def test_what_meets_a_condition_ends_with_that_frame(potential, tmp_path):
    """Each by its own condition, the frame kept, the others going on."""
    calm, torn, hit = (molecule("H2O") for _ in range(3))
    momenta = np.zeros((3, 3))
    momenta[1] = 2.0 * (torn.positions[1] - torn.positions[0])
    torn.set_momenta(momenta)
    momenta = np.zeros((3, 3))
    momenta[1:, 1] = [-1.0, 1.0]  # the hydrogens meet
    hit.set_momenta(momenta)
    options = {
        "steps": 30,
        "save_every": 1,
        "max_temperature_K": 1e6,
        "stop_bond_stretch": 1.6,
        "stop_distance": 0.6,
    }
    files = {"trajectory": tmp_path / "run.extxyz", "checkpoint": tmp_path / "run.npz"}
    seen = []
    systems = [calm, torn, hit]
    found = simulate.run(
        systems, potential, on_progress=seen.append, **files, **options
    )
    assert found[0].stopped is None
    assert len(found[0].times_fs) == 31
    assert "the bond of O0 and H1 is" in found[1].stopped
    assert "H1 and H2 are" in found[2].stopped
    assert [index for index, _ in seen[-1].stopped] == [1, 2]
    for one in found[1:]:
        last = read(one.path)
        assert last.info["time_fs"] == one.times_fs[-1] == one.atoms.info["time_fs"]
        np.testing.assert_allclose(last.positions, one.atoms.positions, atol=1e-6)
        assert len(read(one.path, ":")) == len(one.times_fs) < 31
        assert f"step {round(one.times_fs[-1] / 0.5)} (" in one.stopped
    again = simulate.run(systems, potential, resume=True, **files, **options)
    np.testing.assert_array_equal(again[2].atoms.positions, found[2].atoms.positions)


def test_models_and_users_end_a_run(potential):
    other = untrained_potential(CONFIG, seed=4)
    options = {"steps": 20, "save_every": 1}
    water = molecule("H2O")
    free = simulate.run(water, potential, committee=[other], **options)
    assert np.isnan(free.familiarity).all()
    limit = float(np.sort(free.forces_std)[-3])
    found = simulate.run(
        water, potential, committee=[other], stop_forces_std=limit, **options
    )
    assert f"eV/Å, above stop_forces_std = {limit:g}" in found.stopped
    first = int(np.argmax(free.forces_std > limit))
    assert len(found.times_fs) == first + 1
    late = simulate.run(
        water,
        potential,
        stop_when=lambda atoms: atoms.info["time_fs"] >= 5 and "late enough",
        **options,
    )
    assert late.stopped == "step 10 (5 fs): late enough"
    with pytest.raises(ValueError, match="pass the others as committee="):
        simulate.run(water, potential, stop_forces_std=1.0, **options)
    with pytest.raises(ValueError, match="no record of what it was trained on"):
        simulate.run(water, potential, stop_familiarity=1.0, **options)
