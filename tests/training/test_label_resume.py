import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from label_plans import ONE, STATES, content, plan_for, rows
from physnet_training.label import Run, label
from physnet_training.labelling.parts import (
    Part,
    discard_part,
    is_written,
    mark_written,
    part_folder,
    place,
)
from physnet_training.labelling.sampling import Sampling
from physnet_training.packed import PackedDataset


def test_array_tasks_are_disjoint_and_together_complete(tmp_path):
    target = tmp_path / "set"
    alone = label(plan_for(), tmp_path / "alone", run=ONE)
    complete = []
    for index in (2, 0, 1):
        run = Run(workers=1, process_index=index, process_count=3)
        complete.append(label(plan_for(), target, run=run).complete)
        assert target.exists() == complete[-1]
    assert complete == [False, False, True]
    dataset = PackedDataset.open(target)
    assert len(dataset.manifests) == 3
    assert len(dataset) == alone.labelled.total()
    energies = dataset.take("energy", np.arange(15))
    single = PackedDataset.open(tmp_path / "alone").take("energy", np.arange(15))
    assert np.array_equal(np.sort(energies), np.sort(single))
    again = Run(workers=1, process_index=1, process_count=3)
    assert label(plan_for(), target, run=again).complete


def test_array_tasks_without_a_label_leave_no_gap(tmp_path):
    # Each state has its own geometry: the second task fails, the fourth has no work.
    sampling = Sampling(kind="displace", samples=1, vertical=False)
    plan = plan_for(["H2"], "raising", "0,1 1,2 0,3", sampling)
    runs = [Run(workers=1, process_index=k, process_count=4) for k in range(4)]
    assert label(plan, tmp_path / "set", run=runs[0]).labelled.total() == 1
    message = (
        "none of 1 labels could be calculated, the first because: no convergence in 7 "
        "cycles; all are listed in .*failures-00001-of-00004.csv"
    )
    with pytest.raises(RuntimeError, match=message):
        label(plan, tmp_path / "set", run=runs[1])
    assert not label(plan, tmp_path / "set", run=runs[3]).complete
    assert label(plan, tmp_path / "set", run=runs[2]).complete
    dataset = PackedDataset.open(tmp_path / "set")
    assert len(dataset.manifests) == 2
    assert set(dataset.states) == {(0, 1), (0, 3)}
    again = Run(workers=1, process_index=1, process_count=4, retry_failed=True)
    with pytest.raises(
        ValueError,
        match="set is complete; to calculate 1 labels again run without --process-in",
    ):
        label(plan, tmp_path / "set", run=again)
    alone = label(plan, tmp_path / "set", run=Run(workers=1, retry_failed=True))
    assert (alone.labelled.total(), alone.failed.total()) == (2, 1)
    assert len(PackedDataset.open(tmp_path / "set").manifests) == 1


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
    journal = tmp_path / "set.labels" / "journal-00000-of-00001.jsonl"
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"label") < 15:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "set").exists()
    with journal.open("ab") as file:
        file.write(b'{"label":[0,11,3],"positions":[[0.1')
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


def test_parts_are_put_together_after_a_crash_in_the_middle(tmp_path):
    parts = [Part(index, 4) for index in range(4)]
    for part in parts:
        folder = part_folder(tmp_path, part)
        if part.index != 1:  # one that has no labels
            folder.mkdir(parents=True)
            (folder / "content").write_text(str(part.index))
        assert not is_written(tmp_path, tmp_path / "set", part)
        mark_written(tmp_path, part, {"labels": int(part.index != 1)})
    root = part_folder(tmp_path, parts[0]).parent
    part_folder(tmp_path, parts[0]).rename(root / "shard-00000")
    part_folder(tmp_path, parts[2]).rename(root / "shard-00001")  # then it died
    for part in parts:
        assert is_written(tmp_path, tmp_path / "set", part)
        assert place(tmp_path, tmp_path / "set", part)
    shards = sorted((tmp_path / "set").iterdir())
    assert [shard.name for shard in shards] == [f"shard-{k:05d}" for k in range(3)]
    assert [(shard / "content").read_text() for shard in shards] == ["0", "2", "3"]


def test_what_a_killed_writer_left_is_removed(tmp_path):
    part = Part(0, 2)
    left = part_folder(tmp_path, part).with_name(".part-00000.partial-abc")
    left.mkdir(parents=True)
    discard_part(tmp_path, part)
    assert list(left.parent.iterdir()) == []


def test_a_script_without_a_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from physnet_training.label import Run, label\n"
        "from physnet_training.labelling.methods import Method\n"
        "from physnet_training.labelling.plan import Plan, read_structures\n"
        "plan = Plan(read_structures(['H2O']), Method('ase.calculators.emt:EMT'))\n"
        f"label(plan, {str(tmp_path / 'set')!r}, run=Run(workers=1))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'must do so below if __name__ == "__main__":' in done.stderr
