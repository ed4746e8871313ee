"""Options from TOML and the command line, and what the command prints."""

import json
from pathlib import Path

import numpy as np
import pytest
from physnet_training.cli import app
from physnet_training.conversion import command as convert_display
from physnet_training.conversion.command import ConversionBar
from physnet_training.conversion.job import make_job
from physnet_training.packed import PackedDataset
from rich.console import Console
from typer.testing import CliRunner

from physnet_ase.units import HARTREE

SOURCES = [Path("runs/a.npz"), Path("runs/b.xyz"), Path("other/c.xyz")]


def load(tmp_path, text, given=None, sources=SOURCES):
    (tmp_path / "options.toml").write_text(text)
    return make_job(sources, Path("set"), given or {}, file=tmp_path / "options.toml")


def test_sections_win_over_the_file_and_the_command_line_over_both(tmp_path):
    text = """
energy_unit = "hartree"
level = "HF"
on_invalid = "skip"
shard_molecules = 7
keys = { energy = "E_tot" }
[[source]]
match = "*.xyz"
energy_unit = "eV"
keys = { forces = "grad" }
[[source]]
match = "other/*"
level = "CCSD"
"""
    job = load(tmp_path, text, {"level": None, "keys": {"energy": "E0"}, "workers": 2})
    assert (job.on_invalid, job.shard_molecules, job.workers) == ("skip", 7, 2)
    said = [(s.options.energy_unit, s.options.level) for s in job.sources]
    assert said == [("hartree", "HF"), ("eV", "HF"), ("eV", "CCSD")]
    assert job.sources[0].options.keys == {"energy": "E0"}
    assert job.sources[2].options.keys == {"energy": "E0", "forces": "grad"}
    job = load(tmp_path, text, {"on_invalid": "keep", "shard_molecules": 9})
    assert (job.on_invalid, job.shard_molecules) == ("keep", 9)
    assert job.sources[0].options.keys == {"energy": "E_tot"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("energy = 'eV'", r"options\.toml: unknown keys energy; known: .*energy_unit"),
        ("energy_unit = 3", r"options\.toml: energy_unit: Input should be a valid str"),
        ("allow_missing = 'perhaps'", "allow_missing: Input should be a valid bool"),
        ("keys = { power = 'E' }", r"keys: unknown quantities \['power'\]"),
        ("assume_multiplicity = 'one'", "must be 'lowest'"),
        ("shard_molecules = 'many'", "shard_molecules must be a whole number, got 'm"),
        ("energy_unit = ", r"options\.toml is not valid TOML"),
        ("[source]\nmatch = '*'", r"write \[\[source\]\] with two brackets"),
        ("[[source]]\nlevel = 'HF'", "needs match = 'PATTERN'"),
        ("[[source]]\nmatch = '*.h5'", r"'\*\.h5' matches none of the sources runs/a"),
        ("[[source]]\nmatch = '*'\nworkers = 2", "unknown keys workers"),
    ],
)
def test_wrong_file(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, text)


@pytest.fixture
def two(tmp_path, make_molecules):
    """Two files without units, the second with an invalid molecule."""
    for name in "ab":
        part = make_molecules([2, 2, 2], ["energy"], seed=ord(name))
        values = part["values"]
        if name == "b":
            values["energy"][1] = np.nan
        np.savez(
            tmp_path / f"{name}.npz",
            n_atoms=part["n_atoms"],
            numbers=values.pop("atomic_numbers"),
            **values,
        )
    return [str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), str(tmp_path / "set")]


def test_one_command_for_two_units_and_an_invalid_molecule(two, tmp_path):
    (tmp_path / "o.toml").write_text(
        "energy_unit = 'eV'\n[[source]]\nmatch = 'b.npz'\nenergy_unit = 'hartree'\n"
    )
    command = ["convert", *two, "--options", str(tmp_path / "o.toml")]
    done = CliRunner().invoke(app, [*command, "--on-invalid", "skip"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert "  energy: hartree (by option)" in lines
    assert "  invalid: 1 molecules left out, see invalid_rows.csv" in lines
    assert lines[-1].endswith("set: 5 molecules, 10 atoms")
    dataset = PackedDataset.open(tmp_path / "set")
    with np.load(two[0]) as first, np.load(two[1]) as second:
        expected = [*first["energy"], *(HARTREE * second["energy"][[0, 2]])]
    np.testing.assert_allclose(dataset.take("energy", np.arange(5)), expected)


def test_report_as_json_and_what_the_audit_found(two, tmp_path):
    options = ["--energy-unit", "eV", "--on-invalid", "keep", "--shard-molecules", "4"]
    done = CliRunner().invoke(app, ["convert", *two[:2], *two[1:], *options, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert [source["num_kept"] for source in report["sources"]] == [0, 1, 1]
    assert report["num_shards"] == 3
    assert report["validation"]["duplicates"]["count"] == 3
    manifests = PackedDataset.open(tmp_path / "set").manifests
    assert [m["validation"]["num_molecules"] for m in manifests] == [3, 3, 3]
    written = json.loads((tmp_path / "set" / "report.json").read_text())
    assert written["validation"] == report["validation"]
    # The same as text, on top of what is there
    command = ["convert", two[0], two[2], "--append", "--energy-unit", "eV"]
    done = CliRunner().invoke(app, command)
    assert "  duplicates: 6 molecules stand in the data already" in done.stdout


def test_bad_input_is_one_line(two):
    done = CliRunner().invoke(app, ["convert", *two, "--energy-unit", "eV"])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "b.npz: molecule 1 (0-based): energy is nan" in done.stderr
    done = CliRunner().invoke(app, ["convert", two[0]])
    assert "at least one SOURCE and a TARGET" in done.stderr
    done = CliRunner().invoke(app, ["convert", *two, "--key", "energy"])
    assert "--key takes NAME=VALUE, got 'energy'" in done.stderr


def test_without_a_terminal_a_line_now_and_then(monkeypatch, tmp_path):
    now = [0.0]
    monkeypatch.setattr(convert_display.time, "monotonic", lambda: now[0])
    with (tmp_path / "log").open("w") as file:
        with ConversionBar(Console(file=file), 40_000) as bar:
            for second in range(25):
                now[0] = second
                bar.reading(Path("a.npz"), 1000 * second)
            bar.auditing(0, 30_000)
            now[0] = 30.0
            bar.auditing(15_000, 30_000)
    assert (tmp_path / "log").read_text().splitlines() == [
        "converting a.npz: 10,000 of 40,000 molecules, 1,000/s, 30 s left",
        "converting a.npz: 20,000 of 40,000 molecules, 1,000/s, 20 s left",
        "auditing: 15,000 of 30,000 molecules, 2,500/s, 6 s left",
    ]


def test_a_bar_on_a_terminal(tmp_path):
    with (tmp_path / "out").open("w") as file:
        console = Console(file=file, force_terminal=True, width=100)
        with ConversionBar(console, 40_000) as bar:
            bar.reading(Path("a.npz"), 30_000)
    assert "converting a.npz" in (tmp_path / "out").read_text()
    assert "30,000/40,000 molecules" in (tmp_path / "out").read_text()
