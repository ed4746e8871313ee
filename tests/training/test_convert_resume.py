"""A conversion that is killed at any moment: no half dataset, and the work goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from physnet_training.convert import convert
from physnet_training.layout import FIELDS
from physnet_training.packed import PackedDataset

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
        name: dataset.take(name, atoms if FIELDS[name].per_atom else rows)
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


@pytest.mark.parametrize("options", [{}, {"shard_molecules": 5}], ids=["one", "shards"])
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
