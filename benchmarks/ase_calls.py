"""What a call through ASE costs; writes ``ase_calls.json`` beside itself.

Parts, each in fresh processes, all of them unless ``--part`` names some:
    overhead      a call on 14 atoms against its compiled function alone
    peers         the same call against mlip's NequIP at its default size
    compilations  30 molecules of 1-40 atoms in two states
    second        from the start of a second process to its first forces
    evaluate      100 molecules in two states in batches against call by call

``peers`` installs mlip with pip, once, into two environments below ``--environments``:
with the JAX that pip resolves, and with the JAX that runs here. Contestants take turns
of a second or so in processes that live on, so that other work on the machine hits all.

    python benchmarks/ase_calls.py --environments /somewhere/with/4/GB
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULT = Path(__file__).with_name("ase_calls.json")
WORKER = Path(__file__).with_name("ase_call_worker.py")
ROUNDS = 12
Report = dict[str, Any]


class Contestant:
    """A worker process that is asked for one turn after the other."""

    def __init__(self, python: str | Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [str(python), str(WORKER), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._answer()
        self.turns: list[Report] = []

    def _answer(self) -> Report:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended; see its message above")
        return json.loads(line)

    def turn(self) -> None:
        """One more turn."""
        print("turn", file=self.process.stdin, flush=True)
        self.turns.append(self._answer())

    def report(self) -> Report:
        """Medians over turns of what each turn gives as its own median."""
        self.process.communicate()
        keys = self.turns[0]
        medians = {key: statistics.median(t[key] for t in self.turns) for key in keys}
        return self.about | {key: round(value, 4) for key, value in medians.items()}


def compete(contestants: dict[str, Contestant]) -> Report:
    """Turns in turn, then everybody's report."""
    for _ in range(ROUNDS):
        for contestant in contestants.values():
            contestant.turn()
    return {name: contestant.report() for name, contestant in contestants.items()}


def overhead(_: argparse.Namespace) -> Report:
    """Milliseconds of the call and of its compiled function, within one process."""
    found = {}
    for model in ("paper", "states-dft-small"):
        report = compete({"call": Contestant(sys.executable, "overhead", model)})[
            "call"
        ]
        report["overhead_ms"] = round(report["call_ms"] - report["function_ms"], 4)
        found[model] = report
    return {"asked_ms": 1.0, "models": found}


def environment(folder: Path, *pinned: str) -> Path:
    """The Python of an environment with mlip, made on first use."""
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"installing mlip into {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "mlip", "ase"]
        subprocess.run([*command, *pinned], check=True)
        (folder / "complete").touch()
    return python


def peers(options: argparse.Namespace) -> Report:
    """Milliseconds per call of the preset "paper" and of mlip's NequIP."""
    folder = options.environments or Path(tempfile.gettempdir()) / "physnet-ase-peers"
    same = [f"{name}=={version(name)}" for name in ("jax", "jaxlib")]
    pythons = {
        "mlip_nequip": environment(folder / "default"),
        "mlip_nequip_same_jax": environment(folder / "same-jax", *same),
    }
    contestants = {"paper": Contestant(sys.executable, "physnet", "paper", "0")}
    contestants["paper_cation"] = Contestant(sys.executable, "physnet", "paper", "1")
    for name, python in pythons.items():
        contestants[name] = Contestant(python, "nequip")
    found = compete(contestants)
    return {
        "asked_ratio": 10.0,
        "ratio": {
            f"{peer} / {ours}": round(
                found[peer]["call_ms"] / found[ours]["call_ms"], 2
            )
            for peer in pythons
            for ours in ("paper", "paper_cation")
        },
        "contestants": found,
    }


def compilations(_: argparse.Namespace) -> Report:
    """Programs for 30 molecules, by the calculator's count and by JAX's."""
    contestant = Contestant(sys.executable, "compilations", "states-dft-small")
    contestant.process.communicate()
    return {"asked": 6} | contestant.about


def second(_: argparse.Namespace) -> Report:
    """Seconds from the start of Python to the first forces and its end."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        kept = os.environ | {"XDG_CACHE_HOME": folder}
        for name in ("JAX_COMPILATION_CACHE_DIR", "PHYSNET_ASE_CACHE"):
            kept.pop(name, None)
        for _ in range(7):
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, str(WORKER), "first", "states-dft-small"],
                env=kept,
                check=True,
                stdin=subprocess.DEVNULL,
            )
            seconds.append(round(time.perf_counter() - started, 3))
    return {
        "asked_s": 3.0,
        "first_process_s": seconds[0],
        "second_process_s": statistics.median(seconds[1:]),
        "all_s": seconds,
    }


def evaluate(_: argparse.Namespace) -> Report:
    """Seconds for 200 energies, in batches and call by call."""
    found = {}
    for model in ("paper", "states-dft-small"):
        report = compete({"run": Contestant(sys.executable, "evaluate", model)})["run"]
        for kind in ("energies", "forces"):
            ratio = report["calls_s"] / report[f"{kind}_s"]
            report[f"{kind}_ratio"] = round(ratio, 2)
        found[model] = report
    return {"asked_ratio": 1.5, "models": found}


PARTS: dict[str, Callable[[argparse.Namespace], Report]] = {
    "overhead": overhead,
    "peers": peers,
    "compilations": compilations,
    "second": second,
    "evaluate": evaluate,
}


def main() -> None:
    """Run the parts asked for; figures of the others stay as they are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument(
        "--environments",
        type=Path,
        help="where mlip is installed (default: the folder for temporary files)",
    )
    options = parser.parse_args()
    report = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in options.part or PARTS:
        print(f"{name}: {PARTS[name].__doc__}", flush=True)
        report[name] = PARTS[name](options) | {"load": round(os.getloadavg()[0], 1)}
        print(json.dumps(report[name], indent=1), flush=True)
        RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
