"""A run of many replicas that is killed again and again ends as one that was not.

    python benchmarks/killed.py

A run folder of 16 replicas is driven by ``physnet-ase md``, killed (SIGKILL) at random
moments and resumed; checked each time: every trajectory can be read, and at most one
block of steps is lost. In the end frames and last state must equal, byte by byte, those
of a run that nobody disturbed.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase.io import read

MOLECULE, ATOMS, REPLICAS = "H2O", 3, 8
"""Eight in each of two states."""
BLOCK, TIMESTEP = 50, 0.25
COMMAND = (sys.executable, "-c", "from physnet_ase.cli import main; main()", "md")
SETTINGS = f"""
ensemble = "nvt-csvr"
block_steps = {BLOCK}
checkpoint_every = {BLOCK}
save_every = 10
timestep_fs = {TIMESTEP}
"""


def logged(folder: Path) -> list[int]:
    """Steps of the log's whole lines."""
    path = folder / "log.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line)["step"] for line in text.splitlines(True) if "\n" in line]


def stored(folder: Path) -> int:
    """Step of the checkpoint; 0 without one."""
    path = folder / "checkpoint.npz"
    return int(np.load(path)["step"]) if path.exists() else 0


def killed(folder: Path, arguments: list[str], moment: random.Random) -> int:
    """Start, kill at a random moment after the first block; returns steps lost."""
    before = len(logged(folder))
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL)
    while len(logged(folder)) == before and process.poll() is None:
        time.sleep(0.01)
    began, now = len(logged(folder)), time.perf_counter()
    while len(logged(folder)) == began and process.poll() is None:
        time.sleep(0.005)
    time.sleep(moment.uniform(0.0, 2.0 * (time.perf_counter() - now)))
    process.kill()
    process.wait()
    reached = 0
    for path in sorted(folder.glob("replica-*")):
        whole = path.read_text().count("\n") // (ATOMS + 2)
        frames = read(path, f":{whole}")
        assert len(frames) == whole > 0, path
        reached = max(reached, round(frames[-1].info["time_fs"] / TIMESTEP))
    assert reached - stored(folder) <= BLOCK, (reached, stored(folder))
    return reached - stored(folder)


def main() -> None:
    """Run, kill, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="states-dft-small", help="path or name")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moment, lost = random.Random(options.seed), []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "settings.toml").write_text(SETTINGS)
        steps = 4 * BLOCK * (options.kills + 1)
        start = [MOLECULE, "--state", "0,1", "--state", "1,2", "--replicas"]
        start += [str(REPLICAS), "--model", options.model, "--time"]
        start += [f"{steps * TIMESTEP}fs", "--settings", str(place / "settings.toml")]
        whole, parts = place / "whole", place / "parts"
        subprocess.run(
            [*COMMAND, *start, "--out", str(whole)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        arguments = [*start, "--out", str(parts)]
        for _ in range(options.kills):
            lost.append(killed(parts, arguments, moment))
            arguments = ["--resume", str(parts)]
        subprocess.run([*COMMAND, *arguments], check=True, stdout=subprocess.DEVNULL)
        names = sorted(path.name for path in whole.glob("replica-*"))
        same = [(whole / n).read_bytes() == (parts / n).read_bytes() for n in names]
        one, two = (np.load(path / "checkpoint.npz") for path in (whole, parts))
        moving = [key for key in one.files if key.startswith("motion")]
        bits = all(np.array_equal(one[key], two[key]) for key in moving)
    report: dict[str, Any] = {
        "command": "python " + " ".join(["benchmarks/killed.py", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "model": options.model,
        "replicas": len(names),
        "steps": steps,
        "steps_of_a_block": BLOCK,
        "steps_lost_by_each_kill": lost,
        "files_equal": f"{sum(same)} of {len(same)}",
        "last_state_bit_identical": bits,
    }
    for key, value in report.items():
        print(f"{key:<28} {value}")
    content = json.dumps(report, indent=2) + "\n"
    Path(__file__).with_suffix(".json").write_text(content)
    if not (all(same) and bits):
        sys.exit("the killed run ended differently")


if __name__ == "__main__":
    main()
