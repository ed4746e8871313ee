"""Every script in md_examples/ runs from a foreign directory and does its job."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from physnet_ase import untrained_potential
from physnet_ase.config import ModelConfig

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "md_examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A saved model with random weights: these tests are about the scripts."""
    config = ModelConfig(
        num_features=8,
        num_radial=8,
        num_blocks=1,
        num_residual_atomic=0,
        num_residual_interaction=0,
        cutoff=5.0,
    )
    path = tmp_path_factory.mktemp("model") / "tiny"
    untrained_potential(config).save(path)
    return path


def run_example(name, folder, model):
    """Run one example in ``folder``; return what it printed."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    arguments = ["--smoke", "--model", str(model), "--out", "results"]
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def number_after(text, words):
    """The first number that follows ``words``."""
    return float(re.search(re.escape(words) + r"\s*([-+]?[\d.]+)", text).group(1))


def test_every_example_is_tested_and_listed():
    scripts = sorted(path.name for path in EXAMPLES.glob("*.py"))
    tests = Path(__file__).read_text(encoding="utf-8")
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert scripts
    assert [name for name in scripts if f'"{name}"' not in tests] == []
    assert [name for name in scripts if f"`{name}`" not in readme] == []


def test_relax_and_ionize(tmp_path, model):
    printed = run_example("01_relax_and_ionize.py", tmp_path, model)
    neutral, cation = read(tmp_path / "results" / "relaxed.extxyz", ":")
    assert (neutral.info["charge"], cation.info["charge"]) == (0, 1)
    difference = cation.get_potential_energy() - neutral.get_potential_energy()
    adiabatic = number_after(printed, "adiabatic ionization energy")
    assert adiabatic == pytest.approx(difference, abs=1e-3)
    # Relaxing the cation can only lower it.
    assert adiabatic <= number_after(printed, "vertical ionization energy") + 1e-3
    assert (tmp_path / "results" / "relaxation.png").stat().st_size > 5000


def test_nve_of_two_states(tmp_path, model):
    printed = run_example("02_jaxmd_nve_two_states.py", tmp_path, model)
    for name, charge in (("neutral", 0), ("cation", 1)):
        frames = read(tmp_path / "results" / f"{name}.extxyz", ":")
        assert frames[-1].info["time_fs"] == 50.0
        assert {frame.info["charge"] for frame in frames} == {charge}
        totals = [f.get_potential_energy() + f.get_kinetic_energy() for f in frames]
        assert np.ptp(totals) < 5e-3
        by_hand = float(re.findall(rf"{name}: (\S+) eV at the starting", printed)[0])
        assert by_hand == pytest.approx(frames[0].get_potential_energy(), abs=1e-3)
        assert re.search(rf"{name}: 50 fs .* drift [-+][\d.]+ meV/atom/ps", printed)
    assert (tmp_path / "results" / "energies.png").stat().st_size > 5000


def test_prediction_options(tmp_path, model):
    printed = run_example("03_prediction_options.py", tmp_path, model)
    assert "features (6, 8)" in printed
    assert number_after(printed, "charge +1, multiplicity 2:") != number_after(
        printed, "charge 0, multiplicity 1:"
    )
    assert len(re.findall(r"\d ms$", printed, flags=re.MULTILINE)) == 7
    assert (tmp_path / "results" / "times.png").stat().st_size > 5000


def test_ionization_energies(tmp_path):
    printed = run_example("04_ionization_energies.py", tmp_path, "states-dft-small")
    assert len(re.findall(r"^(C|C2H2|C6H6\*) +\d", printed, flags=re.MULTILINE)) == 3
    error = number_after(printed, "\nionization energy: mean absolute error")
    assert 0 < error < 1.5
    assert (tmp_path / "results" / "parity.png").stat().st_size > 5000


def test_methylene_gap(tmp_path):
    printed = run_example("05_methylene_gap.py", tmp_path, "states-dft-small")
    # Density functionals place the triplet some tenths of an eV below the singlet.
    assert -0.9 < number_after(printed, "adiabatic gap") < -0.3
    angles = re.findall(r"minimum: \S+ Å, ([\d.]+)°", printed)
    assert 95 < float(angles[0]) < 110 < 125 < float(angles[1]) < 145
    assert (tmp_path / "results" / "angle.png").stat().st_size > 5000


def test_neb_of_an_anion(tmp_path):
    printed = run_example("06_neb_anion.py", tmp_path, "states-dft-small")
    path = read(tmp_path / "results" / "path.extxyz", ":")
    assert {image.info["charge"] for image in path} == {-1}
    energies = [image.get_potential_energy() for image in path]
    assert energies[0] == pytest.approx(energies[-1], abs=1e-3)
    barrier = 1e3 * (max(energies) - energies[0])
    assert number_after(printed, "barrier") == pytest.approx(barrier, abs=0.1)
    assert 10 < barrier < 200
    assert number_after(printed, "top: angles at carbon sum to") > 359.9
    assert (tmp_path / "results" / "path.png").stat().st_size > 5000


def test_crossing_point(tmp_path):
    printed = run_example("07_crossing_point.py", tmp_path, "states-dft-small")
    assert abs(number_after(printed, "energies differ by")) < 1.0
    assert number_after(printed, "force left along the seam:") < 0.02
    assert len(read(tmp_path / "results" / "crossing.xyz")) == 3
    assert (tmp_path / "results" / "crossing.png").stat().st_size > 5000


def test_ir_spectrum(tmp_path):
    printed = run_example("08_ir_spectrum.py", tmp_path, "states-dft-small")
    lines = re.findall(r"^ +([\d.]+) cm⁻¹ +([\d.]+) km/mol", printed, re.MULTILINE)
    wavenumbers = [float(wavenumber) for wavenumber, _ in lines]
    # Six modes each; the neutral's near the measured ones, in the same order.
    assert len(wavenumbers) == 12
    measured = (1167, 1249, 1500, 1746, 2783, 2843)
    assert wavenumbers[:6] == pytest.approx(measured, rel=0.1)
    assert (tmp_path / "results" / "spectrum.png").stat().st_size > 5000


def test_replicas_in_three_states(tmp_path, model):
    printed = run_example("09_replicas_in_three_states.py", tmp_path, model)
    for name in ("neutral", "cation", "triplet"):
        assert f"{name}: 2 replicas" in printed
    assert len(list((tmp_path / "results").glob("run-*.traj"))) == 6
    assert (tmp_path / "results" / "bonds.png").stat().st_size > 5000


def test_ionization_in_mid_run(tmp_path, model):
    printed = run_example("10_ionization_in_mid_run.py", tmp_path, model)
    assert "vertical ionization energy" in printed
    frames = read(tmp_path / "results" / "run.extxyz", ":")
    charges = [atoms.info["charge"] for atoms in frames]
    assert charges[0] == charges[-1] == 0
    assert 1 in charges
    assert (tmp_path / "results" / "energies.png").stat().st_size > 5000


def test_spectrum_from_dynamics(tmp_path):
    name = "11_spectrum_from_dynamics.py"
    printed = run_example(name, tmp_path, "states-dft-small")
    assert 500 < number_after(printed, "strongest line at") < 3500
    assert (tmp_path / "results" / "spectrum.png").stat().st_size > 5000


def test_ase_and_jaxmd_side_by_side(tmp_path, model):
    printed = run_example("12_ase_and_jaxmd_side_by_side.py", tmp_path, model)
    assert number_after(printed, "no atom is further than") < 1e-2  # Å, after 100 fs
    assert (tmp_path / "results" / "side_by_side.png").stat().st_size > 5000


def test_water_in_a_periodic_cell(tmp_path, model):
    printed = run_example("13_periodic_water.py", tmp_path, model)
    assert "24 atoms in a cube of 6.21 Å" in printed  # 8 · 29.95 Å³ at 0.997 g/cm³
    assert number_after(printed, "temperature of the later half") > 0
    assert (tmp_path / "results" / "water.png").stat().st_size > 5000
    [first, *_] = frames = read(tmp_path / "results" / "water.extxyz", ":")
    assert len(frames) == 11
    assert first.pbc.all()
