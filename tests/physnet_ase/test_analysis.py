"""Analysis against systems whose answers are known."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from command_line import call, refused

from physnet_ase import untrained_potential
from physnet_ase.config import ModelConfig
from physnet_ase.simulate import analysis
from physnet_ase.units import FEMTOSECOND, INFRARED_INTENSITY

TINY = ModelConfig(
    num_features=4,
    num_radial=4,
    num_blocks=1,
    num_residual_atomic=0,
    num_residual_interaction=0,
    num_residual_output=0,
    cutoff=4.0,
)
WAVENUMBER = 1500.0  # cm⁻¹
CYCLES_PER_FS = WAVENUMBER * 2.99792458e10 * 1e-15


def stamped(frames, spacing_fs=1.0):
    for index, atoms in enumerate(frames):
        atoms.info["time_fs"] = index * spacing_fs
    return frames


def vibrating(count=3000, amplitude=0.02, charge=0.4):
    """H2 with the charges ±0.4 e that vibrates at 1,500 cm⁻¹ along z."""
    frames = []
    rate = 2.0 * np.pi * CYCLES_PER_FS
    for time in range(count):
        stretch = amplitude * np.sin(rate * time)
        speed = amplitude * rate * np.cos(rate * time) / FEMTOSECOND
        place = 0.4 + 0.5 * stretch
        atoms = Atoms("H2", positions=[[0, 0, -place], [0, 0, place]])
        mass = atoms.get_masses()[0]
        atoms.set_momenta([[0, 0, -0.5 * speed * mass], [0, 0, 0.5 * speed * mass]])
        atoms.calc = SinglePointCalculator(
            atoms, charges=np.array([-charge, charge]), dipole=np.zeros(3)
        )
        frames.append(atoms)
    return stamped(frames)


def test_spectra_have_the_line_and_its_intensity():
    frames = vibrating()
    for curve in (
        analysis.vibrational_density(frames, 30.0),
        analysis.infrared_spectrum(frames, 30.0),
    ):
        assert curve.x[np.argmax(curve.values)] == pytest.approx(WAVENUMBER, abs=10)
        half = curve.x[curve.values > 0.5 * curve.values.max()]
        assert np.ptp(half) < 45
    # One mode of one degree of freedom: μ = 0.4 x of the distance x, Q = √(m/2) x.
    mass = frames[0].get_masses()[0]
    expected = INFRARED_INTENSITY * 0.4**2 / (mass / 2.0)
    area = np.sum(curve.values) * (curve.x[1] - curve.x[0])
    assert area == pytest.approx(expected, rel=0.02)


def test_diffusion_of_a_random_walk(rng):
    """Steps of variance s² per direction and time t: D = s²/2t."""
    steps = rng.normal(scale=0.1, size=(600, 200, 3))
    places = np.cumsum(steps, axis=0)
    frames = stamped([Atoms("H200", positions=one) for one in places], 10.0)
    found = analysis.mean_squared_displacement(frames)
    # 0.01 Å² / (2 · 0.01 ps) = 0.5 Å²/ps = 5e-5 cm²/s
    assert found.coefficient == pytest.approx(5.0, rel=0.08)
    late = places - places.mean(axis=1, keepdims=True)
    direct = np.mean(np.sum((late[7:] - late[:-7]) ** 2, axis=2))
    assert found.values[7] == pytest.approx(direct, rel=1e-9)
    assert found.values[0] == pytest.approx(0.0, abs=1e-9)


def test_pair_distribution_of_a_lattice_and_of_an_ideal_gas(rng):
    crystal = Atoms("O", cell=[3.0, 3.0, 3.0], pbc=True)  # thinner than any cutoff
    found = analysis.radial_distribution([crystal.repeat(2)], "O", bins=80, longest=4.0)
    peak = found.values * 4.0 * np.pi * found.x**2 * (4.0 / 80) * 7 / 216.0
    near = peak[(found.x > 2.9) & (found.x < 3.1)].sum()
    assert near == pytest.approx(6.0, rel=0.01)  # neighbours at 3 Å
    gas = [
        Atoms("O60H60", positions=rng.uniform(0, 9, (120, 3)), cell=[9] * 3, pbc=True)
        for _ in range(20)
    ]
    mixed = analysis.radial_distribution(gas, "O", "H", bins=20)
    np.testing.assert_allclose(mixed.values[5:], 1.0, atol=0.1)
    with pytest.raises(ValueError, match="three periodic directions"):
        analysis.radial_distribution([molecule("H2O")], "O", "H")
    with pytest.raises(ValueError, match="no pair O-N"):
        analysis.radial_distribution(gas, "O", "N")


def test_gap_is_the_difference_of_the_states_energies(rng):
    potential = untrained_potential(TINY)
    frames = []
    for _ in range(5):
        atoms = molecule("H2O")
        atoms.rattle(0.05, rng=rng)
        frames.append(atoms)
    found = analysis.state_gap(stamped(frames), potential, (0, 1), (1, 2))
    one, two = potential.evaluate(frames[3], [(0, 1), (1, 2)], properties=("energy",))
    assert found.values[3] == pytest.approx(two.energy - one.energy, abs=1e-5)
    assert found.mean == pytest.approx(found.values.mean())


def test_uneven_or_bare_frames_are_refused():
    frames = vibrating(8)
    frames[3].info["time_fs"] = 3.5
    with pytest.raises(ValueError, match="evenly spaced"):
        analysis.vibrational_density(frames)
    with pytest.raises(ValueError, match="at least 4"):
        analysis.mean_squared_displacement(frames[:2])
    bare = stamped([molecule("H2O") for _ in range(5)])
    with pytest.raises(ValueError, match="with charges"):
        analysis.infrared_spectrum(bare)
    with pytest.raises(ValueError, match="no momenta"):
        analysis.vibrational_density(bare)


def test_command_averages_replicas_and_draws(tmp_path):
    for index in range(2):
        write(tmp_path / f"replica-0{index}.extxyz", vibrating(400))
    picture = tmp_path / "ir.png"
    result = call("analyze", "ir", tmp_path, "--output", picture, "--json")
    report = json.loads(result.stdout)
    assert len(report["trajectories"]) == 2
    peak = report["x"][int(np.argmax(report["values"]))]
    assert peak == pytest.approx(WAVENUMBER, abs=30)
    assert picture.stat().st_size > 1000
    text = call("analyze", "msd", tmp_path, "--output", tmp_path / "m.png").stdout
    assert "diffusion coefficient" in text
    assert "two --state" in refused("analyze", "gap", tmp_path)
    assert "no such file" in refused("analyze", "msd", tmp_path / "absent.xyz")
