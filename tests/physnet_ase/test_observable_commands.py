"""The commands vibrations, states and crossing: output, files, refusals."""

import json

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read, write
from command_line import call, refused

from physnet_ase import (
    PhysNetCalculator,
    Potential,
    singlet_triplet_gap,
    thermochemistry,
    untrained_potential,
    vibrations,
)
from physnet_ase.commands.tables import print_states
from physnet_ase.commands.vibration_tables import print_vibrations
from physnet_ase.config import ModelConfig
from physnet_ase.observables import Relaxation
from physnet_ase.observables.ir_spectrum import broadened

TINY = ModelConfig(num_features=8, num_radial=8, num_blocks=1, cutoff=5.0, zbl=True)
STATES = ((0, 1), (1, 2), (-1, 2), (0, 3), (0, 2))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "model"
    untrained_potential(TINY, states=STATES, seed=2).save(path)
    return str(path)


SMALL = "states-dft-small"


@pytest.fixture
def energy_of(model):
    calculator = PhysNetCalculator(model)
    return calculator.get_potential_energy


@pytest.fixture(scope="module")
def calculator():
    return PhysNetCalculator(SMALL)


def printed(print_report, report, capsys):
    """What people read of a report; another call of the command would compile again."""
    print_report(report)
    return " ".join(capsys.readouterr().out.split())


def test_vibrations_of_a_relaxed_molecule(calculator, tmp_path, capsys):
    picture, frames = tmp_path / "spectrum.png", tmp_path / "modes.xyz"
    arguments = ("vibrations", "H2O", "--model", SMALL, "--relax")
    arguments += ("--symmetry-number", 2)
    report = json.loads(
        call(*arguments, "--json", "--plot", picture, "--output", frames).stdout
    )
    relaxation = Relaxation(fmax=0.005)
    found = vibrations(molecule("H2O"), calculator, relaxation=relaxation)
    modes = report["modes"]
    np.testing.assert_allclose(
        [mode["wavenumber_per_cm"] for mode in modes], found.frequencies.real, atol=0.1
    )
    np.testing.assert_allclose(
        [mode["intensity_km_per_mol"] for mode in modes], found.intensities, rtol=1e-3
    )
    assert [mode["imaginary"] for mode in modes] == [False] * 3
    assert report["zero_point_energy_eV"] == pytest.approx(found.value, abs=1e-5)
    gas = thermochemistry(found.geometries[0], calculator, symmetry_number=2)
    stored = report["thermochemistry"]
    assert stored["temperature_K"] == 298.15
    assert stored["gibbs_energy_eV"] == pytest.approx(gas.value, abs=1e-4)
    assert stored["entropy_eV_per_K"] == pytest.approx(gas.entropy, rel=1e-5)
    assert picture.read_bytes().startswith(b"\x89PNG")
    for index, frame in enumerate(read(frames, ":")):
        mode = frame.arrays["mode"]
        np.testing.assert_allclose(abs(np.sum(mode * found.modes[index])), 1.0, 1e-4)
        assert frame.info["wavenumber_per_cm"] == modes[index]["wavenumber_per_cm"]
        assert frame.info["charge"] == 0
    assert index == 2
    shown = printed(print_vibrations, report, capsys)
    assert f"{modes[0]['wavenumber_per_cm']:.1f}" in shown
    assert "J/(mol K)" in shown
    assert "at 298.15 K and 100000 Pa, symmetry number 2" in shown


def test_a_saddle_point_is_shown_with_its_imaginary_mode(tmp_path, capsys):
    flat = molecule("NH3")
    flat.positions[:, 2] = 0.0
    path = tmp_path / "flat.xyz"
    write(path, flat)
    report = json.loads(call("vibrations", path, "--relax", "--json").stdout)
    assert [mode["imaginary"] for mode in report["modes"]] == [True] + [False] * 5
    assert report["thermochemistry"] is None
    shown = printed(print_vibrations, report, capsys)
    assert "imaginary modes (i): 1" in shown
    assert f"{report['modes'][0]['wavenumber_per_cm']:.1f}i" in shown
    assert "no thermochemistry: H3N in charge 0" in shown


def test_the_spectrum_has_its_lines_where_the_modes_are(calculator):
    found = vibrations(molecule("H2O"), calculator, fmax=None)
    grid = np.linspace(0.0, 5000.0, 50001)
    curve = broadened(grid, found)
    place, height = found.frequencies.real[0], found.intensities[0]
    line = np.abs(grid - place) < 100.0
    peak = grid[line][np.argmax(curve[line])]
    assert peak == pytest.approx(place, abs=0.1)
    assert curve[line].max() == pytest.approx(height, rel=0.01)
    above = grid[line][curve[line] > 0.5 * curve[line].max()]
    assert above[-1] - above[0] == pytest.approx(20.0, abs=0.2)


def test_what_vibrations_cannot_do_is_one_line(tmp_path):
    assert "above fmax=0.05" in refused("vibrations", "H2CO")
    line = refused("vibrations", "O", "--plot", tmp_path / "o.png")
    assert "needs a molecule of two atoms or more" in line
    line = refused("vibrations", "H2O", "--relax", "--output", tmp_path / "modes.traj")
    assert "modes are written as .xyz or .extxyz" in line
    line = refused("vibrations", "O", "--temperature", 0)
    assert "temperature must be positive (K), got 0.0" in line
    assert list(tmp_path.iterdir()) == []


def test_states_with_zero_point_energies(capsys):
    states = ("--only", "0,1", "--only", "1,2")
    arguments = ("states", "H2O", "--model", SMALL, *states, "--adiabatic")
    report = json.loads(call(*arguments, "--zero-point", "--json").stdout)
    neutral, cation = report["zero_point_energies_eV"]
    assert neutral > cation > 0.4
    loss = report["ionization_energy"]["value_eV"]
    first, second = (level["energy_eV"] for level in report["states"])
    assert loss == pytest.approx(second + cation - first - neutral, abs=1e-4)
    assert report["states"][1]["relative_energy_eV"] == pytest.approx(loss, abs=1e-4)
    table = printed(print_states, report, capsys)
    assert "with zero-point energies" in table
    assert f"{neutral:.4f}" in table
    assert f"{cation:.4f}" in table
    line = refused("states", "H2O", "--zero-point")
    assert "zero_point=True needs kind='adiabatic'" in line
    assert "got '0'" in refused("states", "H2O", "--only", "0")


def test_states_lists_levels_and_differences(model, energy_of, tmp_path):
    picture, frames = tmp_path / "levels.png", tmp_path / "states.traj"
    arguments = ("states", "CH4", "--model", model)
    report = json.loads(
        call(*arguments, "--json", "--plot", picture, "--output", frames).stdout
    )
    levels = {
        (one["charge"], one["multiplicity"]): one["energy_eV"]
        for one in report["states"]
    }
    assert set(levels) == {(0, 1), (1, 2), (-1, 2), (0, 3)}
    atoms = molecule("CH4")
    assert levels[0, 1] == pytest.approx(energy_of(atoms), abs=1e-5)
    # Differences come from programs of two states, levels from one of four: the last
    # bits of float32 energies of some eV, 4.8e-7 each, may differ.
    rounding = 2e-6
    loss = report["ionization_energy"]
    assert loss["value_eV"] == pytest.approx(levels[1, 2] - levels[0, 1], abs=rounding)
    assert (loss["from"], loss["to"]) == ([0, 1], [1, 2])
    gain = report["electron_affinity"]["value_eV"]
    assert gain == pytest.approx(levels[0, 1] - levels[-1, 2], abs=rounding)
    gap = report["singlet_triplet_gap"]["value_eV"]
    assert gap == pytest.approx(levels[0, 3] - levels[0, 1], abs=rounding)
    assert picture.read_bytes().startswith(b"\x89PNG")
    energies = [frame.get_potential_energy() for frame in read(frames, ":")]
    np.testing.assert_allclose(sorted(energies), sorted(levels.values()), atol=1e-5)
    shown = call(*arguments).stdout
    assert f"ionization energy: {loss['value_eV']:.4f} eV" in shown


def test_states_says_why_a_quantity_does_not_exist(model):
    shown = call("states", "CH3", "--model", model).stdout
    assert "singlet triplet gap: not available" in shown
    assert "odd count" in " ".join(shown.split())


def test_crossing_of_two_states_or_why_not(tmp_path):
    # Shift the triplet so that the states meet near the molecule's usual geometry.
    plain = untrained_potential(TINY, states=((0, 1), (0, 3)), seed=2)
    gap = singlet_triplet_gap(molecule("H2O"), PhysNetCalculator(plain)).value
    singlet, triplet = plain.metadata.states
    shifted = triplet.model_copy(update={"reference_energy": -gap})
    metadata = plain.metadata.model_copy(update={"states": [singlet, shifted]})
    model = Potential(metadata, plain.params).save(tmp_path / "model")
    arguments = ("crossing", "H2O", "--model", model)
    frames = tmp_path / "crossing.extxyz"
    report = json.loads(call(*arguments, "--json", "--output", frames).stdout)
    assert report["states"] == [[0, 1], [0, 3]]
    assert abs(report["gap_eV"]) < 1e-3
    energies = [frame.get_potential_energy() for frame in read(frames, ":")]
    np.testing.assert_allclose(energies, report["energy_eV"], atol=1e-3)
    assert "H2O: charge 0, multiplicity 1 ×" in call(*arguments).stdout
    assert "got '0;3'" in refused(*arguments, "--state-b", "0;3")
    assert "two different states" in refused(*arguments, "--state-b", "0,1")
