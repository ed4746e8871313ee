"""A conversion that is killed at any moment: no half dataset, and the work goes on."""

import errno
import signal
import subprocess
import sys

import numpy as np
import pytest
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset
from physnet_training.packed.files import HashedFile

from physnet_ase.quantities import QUANTITIES

# Kills conversions in forks at the 1st, 2nd, 3rd, ... flush to the disk, until one
# lives; after each kill the target must be absent or whole, and the rest must follow.
SWEEP = """
import os, signal, sys
from pathlib import Path
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset

folder, count = Path(sys.argv[1]), int(sys.argv[2])
sources, target = [folder / "a.npz", folder / "b.npz"], folder / "set"
options = eval(sys.argv[3])
flush = os.fsync

def attempt(moment):
    calls = 0
    def kill(handle):
        nonlocal calls
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(handle)
    os.fsync = kill
    convert(sources, target, **options)
    os._exit(0)

def status(moment):
    child = os.fork()
    if child == 0:
        attempt(moment)
    return os.waitpid(child, 0)[1]

killed, published = 0, 0
while True:
    ended = status(1 + killed % 23)  # after a resumption other moments come first
    if target.exists():
        assert len(PackedDataset.open(target)) == count, "a half dataset"
        published += ended != 0
    if ended == 0 or target.exists():
        break
    assert os.WTERMSIG(ended) == signal.SIGKILL, ended
    killed += 1
print(killed, published)
"""


def contents(path):
    """Every array of a dataset."""
    dataset = PackedDataset.open(path)
    dataset.verify()
    atoms, rows = np.arange(dataset.num_atoms), np.arange(len(dataset))
    return {
        name: dataset.take(name, atoms if QUANTITIES[name].per_atom else rows)
        for name in dataset.fields
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.fixture
def sources(tmp_path, write_source):
    write_source(tmp_path / "a.npz", [2, 3] * 6, seed=1)
    write_source(tmp_path / "b.npz", [4] * 5, seed=2, labels=["energy", "dipole"])
    return [tmp_path / "a.npz", tmp_path / "b.npz"]


@pytest.mark.parametrize("options", [{}, {"shard_molecules": 9}], ids=["one", "shards"])
def test_killed_at_every_flush(sources, tmp_path, options):
    convert(sources, tmp_path / "straight", **options)
    command = [sys.executable, "-c", SWEEP, str(tmp_path), "17", repr(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 20  # so many kills until it went through
    assert_same(contents(tmp_path / "set"), contents(tmp_path / "straight"))
    for key in ("provenance", "labels", "states", "elements"):
        found, straight = (
            [m[key] for m in PackedDataset.open(tmp_path / name).manifests]
            for name in ("set", "straight")
        )
        assert found == straight


KILL = """
import os, signal, sys
from physnet_training.convert import convert

def kill(source, count):
    if count >= int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

convert(sys.argv[3:], sys.argv[2], shard_molecules=5, workers=2, on_progress=kill)
"""


@pytest.fixture
def killed(sources, tmp_path):
    """A parallel conversion in shards of 5, killed once ten molecules are read."""
    command = [sys.executable, "-c", KILL, "10", str(tmp_path / "set"), *sources]
    done = subprocess.run(command, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "set").exists()
    return tmp_path / ".set.partial"


def test_killed_while_processes_run(killed, sources, tmp_path):
    with pytest.raises(ValueError, match=r"n_atoms\.npy is missing"):
        PackedDataset.open(killed)
    pieces = {path: path.stat().st_mtime_ns for path in killed.glob("*/piece-*/E.f64")}
    assert pieces
    convert(sources, tmp_path / "straight", shard_molecules=5)
    convert(sources, tmp_path / "set", shard_molecules=5)
    assert_same(contents(tmp_path / "set"), contents(tmp_path / "straight"))
    times = {p.stat().st_mtime_ns for p in (tmp_path / "set").glob("*/E.f64")}
    assert set(pieces.values()) & times, "finished pieces were written again"
    assert not killed.exists()


def test_other_commands_do_not_mix_in(killed, sources, tmp_path):
    target = tmp_path / "set"
    with pytest.raises(ValueError, match=r"its sources were .*a\.npz, .*b\.npz\. Run"):
        convert(sources[:1], target, shard_molecules=5)
    with pytest.raises(ValueError, match="shard_molecules was 5, is None"):
        convert(sources, target)
    with pytest.raises(ValueError, match=r"level of .*b\.npz was None, is 'HF'"):
        convert(sources, target, shard_molecules=5, level="HF")
    with pytest.raises(ValueError, match=r"remove .*\.set\.partial to start anew"):
        convert(sources, target, shard_molecules=4, on_invalid="skip")
    assert not target.exists()


def test_a_corrected_source_is_read_anew(killed, sources, tmp_path, write_source):
    first = killed / "source-00000" / "piece-00000" / "E.f64"
    written = first.stat().st_mtime_ns
    write_source(sources[1], [4] * 6, seed=3)
    convert(sources, tmp_path / "set", shard_molecules=5, allow_missing=True)
    assert (tmp_path / "set/shard-00000/E.f64").stat().st_mtime_ns == written
    convert(sources, tmp_path / "straight", shard_molecules=5)
    assert_same(contents(tmp_path / "set"), contents(tmp_path / "straight"))


def test_error_keeps_finished_shards_for_a_milder_policy(
    make_molecules, write_source, tmp_path, caplog
):
    molecules = make_molecules([2] * 12, ["energy"])
    molecules["values"]["energy"][11] = np.nan
    source = write_source(tmp_path / "a.npz", molecules=molecules)
    with pytest.raises(ValueError, match="molecule 11"):
        convert(source, tmp_path / "set", shard_molecules=5)
    assert "10 molecules are finished and stay in" in caplog.text
    first = tmp_path / ".set.partial" / "source-00000" / "piece-00000"
    written = (first / "E.f64").stat().st_mtime_ns
    convert(source, tmp_path / "set", shard_molecules=5, on_invalid="skip")
    assert len(PackedDataset.open(tmp_path / "set")) == 11
    taken = tmp_path / "set" / "shard-00000" / "E.f64"
    assert taken.stat().st_mtime_ns == written


def test_full_disk(sources, tmp_path, monkeypatch):
    def full(self, array):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(HashedFile, "write", full)
    with pytest.raises(OSError, match="the disk is full.*set stopped.*same command"):
        convert(sources, tmp_path / "set")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_interrupt_ends_the_processes(sources, tmp_path, monkeypatch):
    def interrupt(source, count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(sources, tmp_path / "set", workers=2, on_progress=interrupt)
    monkeypatch.setattr(
        "physnet_training.packed.files._PATIENCE", 0.0
    )  # they hold the lock
    convert(sources, tmp_path / "set")
    assert len(PackedDataset.open(tmp_path / "set")) == 17


def test_two_conversions_to_one_target(sources, tmp_path, monkeypatch):
    monkeypatch.setattr("physnet_training.packed.files._PATIENCE", 0.1)
    second = pytest.raises(ValueError, match="another process is converting to .*set")

    def start_another(source, count):
        with second:
            convert(sources, tmp_path / "set")

    convert(sources, tmp_path / "set", on_progress=start_another)
    assert len(PackedDataset.open(tmp_path / "set")) == 17
