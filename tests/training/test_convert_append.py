"""Appending: killed at any of its last steps, the root opens and the rest follows."""

import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset

# Kills the command before the n-th name appears in the root: three shards, the report.
KILL_AT_RENAME = """
import os, signal, sys
from physnet_training.convert import convert

root, source, moment = sys.argv[1:]
calls, rename = 0, os.rename

def kill(old, new, **options):
    global calls
    calls += str(new).startswith(root + os.sep)
    if calls == int(moment):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(old, new, **options)

os.rename = os.replace = kill
convert(source, root, shard_molecules=2, append=True)
"""


@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_append_killed_between_its_shards(write_source, tmp_path, moment):
    root = tmp_path / "root"
    sources = [write_source(tmp_path / f"{n}.npz", [3] * n, seed=n) for n in (6, 5)]
    convert(sources[0], root, shard_molecules=5)
    command = [sys.executable, "-c", KILL_AT_RENAME, root, sources[1], str(moment)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(PackedDataset.open(root)) == (6, 8, 10, 11)[moment - 1]
    convert(sources[1], root, shard_molecules=2, append=True)
    dataset = PackedDataset.open(root)
    convert(sources, tmp_path / "whole")
    whole = PackedDataset.open(tmp_path / "whole")
    np.testing.assert_array_equal(
        dataset.take("energy", np.arange(11)), whole.take("energy", np.arange(11))
    )
    dataset.verify()
    assert not list(tmp_path.glob(".*"))


def test_a_root_that_changed_meanwhile_is_not_appended_to(write_source, tmp_path):
    root = tmp_path / "root"
    sources = [write_source(tmp_path / f"{n}.npz", [3] * n, seed=n) for n in (6, 5)]
    convert(sources[0], root, shard_molecules=5)
    command = [sys.executable, "-c", KILL_AT_RENAME, root, sources[1], "1"]
    subprocess.run(command, check=False)
    shutil.rmtree(root / "shard-00001")
    with pytest.raises(ValueError, match=r"had 2 shards .* now it has 1 others"):
        convert(sources[1], root, shard_molecules=2, append=True)
    assert len(PackedDataset.open(root)) == 5
