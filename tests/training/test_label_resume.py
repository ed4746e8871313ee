import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from label_plans import ONE, STATES, content, plan_for, rows
from physnet_training.label import Run, Sampling, label
from physnet_training.packed import PackedDataset


def test_failures_are_listed_and_tried_again_only_when_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = plan_for(["H2O"], "failing_once", "0,1 1,2")
    report = label(plan, "set", run=ONE)
    assert report.failed.total() == 1
    [row] = rows(report.failures_file)
    assert row == {
        "structure": "H2O",
        "name": "H2O",
        "sample": "0",
        "temperature_K": "",
        "charge": "1",
        "multiplicity": "2",
        "reason": "the first attempt fails",
    }
    assert len(PackedDataset.open("set")) == 5
    assert label(plan, "set", run=ONE).failed.total() == 1
    report = label(plan, "set", run=Run(workers=1, retry_failed=True))
    assert report.failures_file is None
    assert not Path("set.labels/failures.csv").exists()
    assert len(PackedDataset.open("set")) == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "done-once",
        "set",
        "set.labels",
    ]


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("raising", "no convergence in 7 cycles"),
        ("hanging", "it took longer than 4 s"),
        ("dying", "the process died with code 3"),
    ],
)
def test_what_goes_wrong_in_one_state_costs_only_that_label(tmp_path, factory, reason):
    sampling = Sampling(kind="displace", samples=1)
    plan = plan_for(["H2O"], factory, "0,1 1,2 0,3", sampling)
    timeout_s = 4.0 if factory == "hanging" else None
    report = label(plan, tmp_path / "set", run=Run(workers=1, timeout_s=timeout_s))
    assert [row["reason"] for row in rows(report.failures_file)] == [reason]
    assert set(PackedDataset.open(tmp_path / "set").states) == {(0, 1), (0, 3)}


def test_killed_at_any_moment_it_goes_on_with_the_same_result(tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.argv[1:] = sys.argv[2:]\n"
        "from physnet_training.cli import main\n"
        "if __name__ == '__main__': main()\n"
    )
    runner = tmp_path / "runner.py"
    runner.write_text(script)
    options = ["H2O", "CH3", str(tmp_path / "set"), "--states", STATES]
    options += ["--sampling", "displace", "--samples", "12", "--workers", "1"]
    options += ["--method", "label_calculator:slow"]
    tests = str(Path(__file__).resolve().parents[1])
    command = [sys.executable, str(runner), tests, "label", *options]
    process = subprocess.Popen(command, start_new_session=True)
    journal = tmp_path / "set.labels" / "journal.jsonl"
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"label") < 15:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "set").exists()
    with journal.open("ab") as file:
        file.write(b'{"label":"H2O 0","positions":[[0.1')
    before = journal.read_bytes().count(b"\n")
    assert before < 61
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    lines = journal.read_text().splitlines()
    assert len([line for line in lines if json.loads(line)]) == 61
    plan = plan_for(sampling=Sampling(kind="displace", samples=12))
    label(plan, tmp_path / "straight", run=ONE)
    assert content(tmp_path / "set")["E.f64"] == content(tmp_path / "straight")["E.f64"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("set")) == [
        "set",
        "set.labels",
    ]


def test_a_script_without_a_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from physnet_training.label import *\n"
        "plan = Plan.of(read_structures(['H2O']), Method('ase.calculators.emt:EMT'))\n"
        f"label(plan, {str(tmp_path / 'set')!r}, run=Run(workers=1))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'must do so below if __name__ == "__main__":' in done.stderr


@pytest.mark.parametrize(
    ("name", "inside", "expected"),
    [
        ("slurm", "", "SlurmClusterExecutor"),
        ("slurm", "SLURM_JOB_ID", "SlurmJobExecutor"),
        ("flux", "", "FluxClusterExecutor"),
        ("flux", "FLUX_URI", "FluxJobExecutor"),
    ],
)
def test_a_cluster_gets_the_same_functions(
    tmp_path, monkeypatch, name, inside, expected
):
    made = {}

    class Cluster(ThreadPoolExecutor):
        def __init__(self, max_workers, **options):
            super().__init__(max_workers)
            made.update(options, max_workers=max_workers)

    for variable in ("SLURM_JOB_ID", "FLUX_URI"):
        monkeypatch.delenv(variable, raising=False)
    if inside:
        monkeypatch.setenv(inside, "1")
    library = SimpleNamespace(**{expected: Cluster})
    monkeypatch.setitem(sys.modules, "executorlib", library)
    run = Run(workers=2, executor=name, timeout_s=9.0)
    label(plan_for(["H2O"]), tmp_path / "set", run=run)
    label(plan_for(["H2O"]), tmp_path / "here", run=ONE)
    assert content(tmp_path / "set") == content(tmp_path / "here")
    assert made["max_workers"] == 2
    assert made["resource_dict"]["run_time_max"] == 10
    assert ("cache_directory" in made) == (inside == "")


def test_a_cluster_through_executorlib(tmp_path, monkeypatch):
    library = pytest.importorskip("executorlib")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
    monkeypatch.setattr(library, "SlurmJobExecutor", library.SingleNodeExecutor)
    plan = plan_for(["H2O"], states="0,1", sampling=Sampling())
    report = label(plan, tmp_path / "set", run=Run(workers=1, executor="slurm"))
    assert report.labelled.total() == 1


def test_without_executorlib_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "executorlib", None)
    with pytest.raises(
        ImportError, match="--executor flux needs .*physnet-ase.cluster"
    ):
        label(plan_for(["H2O"]), tmp_path / "set", run=Run(executor="flux"))
