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
