"""Every script in training/examples runs from a foreign directory and does its job."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from physnet_ase import load_potential

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "training" / "examples"


def run_example(name, folder, *arguments):
    """Run one example in ``folder``; return what it printed."""
    paths = [str(ROOT), str(ROOT / "training"), os.environ.get("PYTHONPATH", "")]
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


def test_every_example_is_tested_here():
    source = Path(__file__).read_text(encoding="utf-8")
    scripts = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert scripts
    assert [name for name in scripts if f'"{name}"' not in source] == []


def test_readme_lists_every_example():
    text = (ROOT / "training" / "README.md").read_text(encoding="utf-8")
    missing = [
        p.name for p in EXAMPLES.glob("*.py") if f"examples/{p.name}" not in text
    ]
    assert missing == []


def test_packed_memmap(tmp_path):
    printed = run_example("01_packed_memmap.py", tmp_path, "--out", "new", "--smoke")
    assert "own: 2 molecules, labels {'energy': 2}" in printed
    assert "states_dft: 1401 molecules" in printed
    assert "the restored loader continues identically: True" in printed
    for name in ("own", "states_dft"):
        assert (tmp_path / "new" / name / "manifest.json").is_file()


def test_charge_spin(tmp_path):
    printed = run_example("02_charge_spin.py", tmp_path, "--out", "t.json", "--smoke")
    [rows] = json.loads((tmp_path / "t.json").read_text()).values()
    assert len(rows) == 4
    # every state has its own energy, and the charges sum to the total charge
    assert len({round(row["energy_ev"], 3) for row in rows}) == 4
    for row in rows:
        assert row["sum_of_charges"] == pytest.approx(row["charge"], abs=1e-5)
    assert "10 electrons; allowed multiplicities: 1, 3, 5, 7" in printed
    assert "was not trained on charge 0, multiplicity 5" in printed


def test_train_packed_charge_spin(tmp_path):
    script = "03_train_packed_charge_spin.py"
    printed = run_example(script, tmp_path, "--out", "run", "--smoke")
    assert "491 molecules from ladders.npz" in printed
    assert "step   50/50" in printed
    potential = load_potential(tmp_path / "run" / "run" / "model")
    assert len(potential.states) == 12
    assert potential.elements == (1, 6, 7, 8, 9)
    ionization = float(printed.split("vertical ionization energy: ")[1].split()[0])
    assert 5.0 < ionization < 30.0  # 12.8 in the labels; references alone get near
