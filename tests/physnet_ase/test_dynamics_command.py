"""The command md: a run folder, going on from it, signals, refusals."""

import json
import os
import signal

import numpy as np
import pytest
from ase.io import read
from command_line import call, refused

from physnet_ase import untrained_potential
from physnet_ase.commands.dynamics import parse_event, parse_state, parse_time
from physnet_ase.config import ModelConfig
from physnet_ase.simulate import folder as run_folders
from physnet_ase.state import ElectronicState

TINY = ModelConfig(
    num_features=4,
    num_radial=4,
    num_blocks=1,
    num_residual_atomic=0,
    num_residual_interaction=0,
    num_residual_output=0,
    cutoff=4.0,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("md") / "model"
    untrained_potential(TINY, seed=3).save(path)
    return str(path)


OPTIONS = ("--timestep", "0.25", "--ensemble", "nvt-langevin", "--seed", "4")


def test_a_folder_holds_the_run_and_goes_on(model, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    states = ("--state", "0,1", "--state", "1,2", "--replicas", "2", "--model", model)
    result = call(
        "md", "H2O", *states, *OPTIONS, "--time", "50fs", "--out", str(whole), "--json"
    )
    rows = json.loads(result.stdout)["replicas"]
    assert [row["charge"] for row in rows] == [0, 0, 1, 1]
    assert {path.name for path in whole.iterdir()} == {
        "settings.toml",
        "start.traj",
        "log.jsonl",
        "checkpoint.npz",
        "run.png",
        *(f"replica-0{index}.extxyz" for index in range(4)),
    }
    log = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [100, 200]
    assert log[-1]["time_ps"] == 0.05
    call("md", "H2O", *states, *OPTIONS, "--time", "25fs", "--out", str(parts))
    call("md", "--resume", str(parts), "--time", "50fs")
    for index in range(4):
        name = f"replica-0{index}.extxyz"
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    assert "holds a run" in refused("md", "H2O", "--model", model, "--out", str(whole))
    # Killed before its first checkpoint, a run begins again.
    (parts / "checkpoint.npz").unlink()
    call("md", "--resume", str(parts))
    name = "replica-03.extxyz"
    assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_a_signal_keeps_everything_and_names_the_way_on(model, tmp_path, monkeypatch):
    real, killed = run_folders.progress_entry, []

    def interrupted(progress, *others):
        if progress.step == 100 and not killed:
            killed.append(os.getpid())
            os.kill(os.getpid(), signal.SIGINT)
        return real(progress, *others)

    monkeypatch.setattr(run_folders, "progress_entry", interrupted)
    folder = tmp_path / "run"
    before = signal.getsignal(signal.SIGINT)
    arguments = ("--model", model, *OPTIONS, "--time", "100fs", "--out", str(folder))
    result = call("md", "H2O", *arguments, code=130)
    assert f"--resume {folder}" in result.stderr
    assert signal.getsignal(signal.SIGINT) is before
    frames = read(folder / "replica-00.extxyz", ":")
    assert frames[-1].info["time_fs"] < 100
    monkeypatch.undo()
    call("md", "--resume", str(folder))
    times = [a.info["time_fs"] for a in read(folder / "replica-00.extxyz", ":")]
    np.testing.assert_allclose(times, np.arange(0, 100.1, 2.5))


def test_settings_come_from_a_file_and_options_win(model, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('ensemble = "nvt-csvr"\ntemperature_K = 500\nsteps = 4\n')
    folder = tmp_path / "run"
    arguments = ("--settings", str(path), "--temperature", "200", "--out", str(folder))
    call("md", "H2O", "--model", model, "--event", "1fs:1,2", *arguments)
    plan = run_folders.read_plan(folder)
    assert plan.settings.ensemble == "nvt-csvr"
    assert plan.settings.temperature_K == 200
    assert plan.events == ((1.0, 1, 2),)
    assert read(folder / "replica-00.extxyz", "-1").info["charge"] == 1
    path.write_text("temprature_K = 500\n")
    arguments = ("--settings", str(path), "--out", str(tmp_path / "b"))
    assert "temprature_K" in refused("md", "H2O", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--out FOLDER"),
        (("--out", "run"), "at least one structure"),
        (("H2O", "--out", "run", "--time", "10"), "500fs, 10ps or 1ns"),
        (("H2O", "--out", "run", "--state", "1"), "CHARGE,MULTIPLICITY"),
        (("H2O", "--out", "run", "--event", "5ps"), "TIME:STATE"),
        (("H2O", "--out", "run", "--state", "1,1"), "impossible"),
        (("H2O", "--out", "run", "--ensemble", "npt"), "periodic cell"),
        (("--resume", "run"), "holds no run"),
        (("H2O", "--resume", "run"), "only --time"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else None,
)
def test_refusals_leave_no_folder(model, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused("md", *arguments, "--model", model)
    assert not (tmp_path / "run").exists()


def test_times_states_and_events_are_read():
    assert parse_time("10ps") == 10_000.0
    assert parse_time("1.5 ns") == 1.5e6
    assert parse_state("-1,2") == ElectronicState(-1, 2)
    assert parse_event("5ps:1,2") == (5000.0, 1, 2)
