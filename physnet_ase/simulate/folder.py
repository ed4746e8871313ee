"""A run folder: settings, start, trajectories, log, checkpoint and a picture.

``settings.toml`` and ``start.traj`` say what the run is, so that the folder alone is
enough to go on.
"""

import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import ase.io
import numpy as np
from ase import Atoms
from pydantic import BaseModel, ConfigDict, Field

from physnet_ase.potential import load_potential
from physnet_ase.simulate.run import SimulationProgress, run
from physnet_ase.simulate.settings import OWN, SimulationSettings
from physnet_ase.simulate.trajectory import Trajectory
from physnet_ase.state import ElectronicState, with_state

SETTINGS, START, LOG = "settings.toml", "start.traj", "log.jsonl"
CHECKPOINT, PICTURE = "checkpoint.npz", "run.png"
_TITLE = "# A simulation of physnet-ase; go on with: physnet-ase md --resume FOLDER\n"


class Plan(BaseModel):
    """Everything about a run but its structures, as ``settings.toml`` holds it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    trajectory: Literal["extxyz", "traj", "h5md"] = "extxyz"
    events: tuple[tuple[float, int, int], ...] = Field(
        (), description="time in fs, charge, multiplicity"
    )
    committee: tuple[str, ...] = Field((), description="models beside the first")
    settings: SimulationSettings = SimulationSettings()


def replicate(
    structures: Sequence[Atoms], states: Sequence[ElectronicState], replicas: int
) -> list[Atoms]:
    """Each structure in each state, so many times; without states in its own."""
    found = []
    for atoms in structures:
        own = [with_state(atoms, state) for state in states] or [atoms]
        found += [one.copy() for one in own for _ in range(replicas)]
    return found


def create_folder(folder: Path, plan: Plan, start: Sequence[Atoms]) -> None:
    """Write what the run is.

    Raises:
        ValueError: The folder holds a run already.
    """
    if (folder / SETTINGS).exists():
        raise ValueError(
            f"{folder} holds a run; go on with --resume {folder}, or choose another "
            "folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    ase.io.write(folder / START, list(start))
    write_plan(folder, plan)


def discard_unbegun(folder: Path) -> None:
    """Forget a new run that was refused before its first step."""
    if (folder / LOG).exists() or (folder / CHECKPOINT).exists():
        return
    for name in (SETTINGS, START):
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def write_plan(folder: Path, plan: Plan) -> None:
    """Write ``settings.toml``."""
    content = plan.model_dump(exclude_none=True)
    settings = content.pop("settings")
    lines = [_TITLE, *_toml(content), "\n[settings]\n", *_toml(settings)]
    (folder / SETTINGS).write_text("".join(lines), encoding="utf-8")


def _toml(content: dict[str, Any]) -> list[str]:
    # What JSON writes of strings, numbers, booleans and lists is TOML too.
    return [f"{key} = {json.dumps(value)}\n" for key, value in content.items()]


def read_plan(folder: Path) -> Plan:
    """Read ``settings.toml``.

    Raises:
        ValueError: It is missing or damaged.
    """
    path = folder / SETTINGS
    try:
        return Plan.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no run: there is no {SETTINGS}") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from error


def run_folder(
    folder: Path,
    *,
    on_progress: Callable[[SimulationProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Trajectory]:
    """Start the run of a folder, or go on where its checkpoint stands.

    Raises:
        ValueError: The folder holds no run, or something in it is refused.
    """
    plan = read_plan(folder)
    start = ase.io.read(folder / START, ":")
    resume = (folder / CHECKPOINT).exists()
    potential = load_potential(plan.model)
    log = folder / LOG
    if not resume:
        log.unlink(missing_ok=True)
    elif log.exists():
        _cut_log(log, folder / CHECKPOINT)
    rate, told = Rate(), set[int]()

    def note(progress: SimulationProgress) -> None:
        entry = progress_entry(progress, plan.settings.timestep_fs, rate)
        new = {i: reason for i, reason in progress.stopped if i not in told}
        told.update(new)
        if new:
            entry["stopped"] = new
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if on_progress is not None:
            on_progress(progress)

    shared = plan.settings.model_dump(exclude={"charge", "multiplicity"})
    found: list[Trajectory] = run(
        start,
        potential,
        events=[(time, (q, m)) for time, q, m in plan.events],
        trajectory=[
            folder / f"replica-{index:0{max(len(str(len(start) - 1)), 2)}d}"
            f".{plan.trajectory}"
            for index in range(len(start))
        ],
        checkpoint=folder / CHECKPOINT,
        committee=plan.committee,
        resume=resume,
        overwrite=True,
        on_progress=note,
        should_stop=should_stop,
        **shared,
    )
    draw_run(found, folder / PICTURE)
    return found


def _cut_log(log: Path, checkpoint: Path) -> None:
    """Forget what a killed run reported after its checkpoint: it comes again."""
    with np.load(checkpoint) as arrays:
        reached = int(arrays["step"])
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    kept = [line for line in whole if json.loads(line)["step"] <= reached]
    log.write_text("".join(kept), encoding="utf-8")


class Rate:
    """Simulated time per wall time, without what came before the first report."""

    def __init__(self) -> None:
        self._first: SimulationProgress | None = None

    def steps_per_second(self, progress: SimulationProgress) -> float | None:
        """Steps of one replica per second; None at the first report."""
        if self._first is None:
            self._first = progress
        seconds = progress.seconds - self._first.seconds
        steps = progress.step - self._first.step
        return steps / seconds if steps > 0 and seconds > 0 else None


def progress_entry(
    progress: SimulationProgress, timestep_fs: float, rate: Rate
) -> dict[str, Any]:
    """A line of the log; what is unknown is null."""
    speed = rate.steps_per_second(progress)
    drift, familiarity = progress.drift, progress.familiarity
    return {
        "step": progress.step,
        "time_ps": round(progress.step * timestep_fs / 1000.0, 9),
        "temperature_K": progress.temperature_K,
        "total_energy_eV": progress.total_energy,
        "drift_meV_per_atom_ps": drift if np.isfinite(drift) else None,
        "familiarity": familiarity if np.isfinite(familiarity) else None,
        "running": progress.running,
        "seconds": round(progress.seconds, 3),
        "ns_per_day": None if speed is None else speed * timestep_fs * 86400.0 / 1e6,
    }


def draw_run(trajectories: Sequence[Trajectory], path: Path) -> None:
    """A picture of energy, temperature and what should be conserved, in time.

    Where the model says what it knows, also of how familiar the structures are.
    """
    from matplotlib.figure import Figure

    scored = any(np.isfinite(one.familiarity).any() for one in trajectories)
    figure = Figure(figsize=(8.0, 10.0 if scored else 8.0), layout="constrained")
    panels = figure.subplots(4 if scored else 3, 1, sharex=True)
    energy, temperature, conserved = panels[:3]
    for index, one in enumerate(trajectories):
        if not len(one.times_fs):
            continue
        atoms, color = len(one.atoms), f"C{index % 10}"
        times = one.times_fs / 1000.0
        options = {"color": color, "linewidth": 0.8, "label": f"replica {index}"}
        potential = one.potential_energies - one.potential_energies[0]
        energy.plot(times, potential, **options)
        temperature.plot(times, one.temperatures_K, **options)
        kept = one.conserved_energies - one.conserved_energies[0]
        conserved.plot(times, 1000.0 * kept / atoms, **options)
        if scored:
            scores = np.where(np.isfinite(one.familiarity), one.familiarity, np.nan)
            panels[3].plot(times, scores, **options)
    energy.set_ylabel("potential energy − start (eV)")
    temperature.set_ylabel("temperature (K)")
    conserved.set_ylabel("conserved − start (meV/atom)")
    if scored:
        panels[3].axhline(1.0, color="black", linewidth=0.8, linestyle="--")
        panels[3].set_ylabel("familiarity score")
    panels[-1].set_xlabel("time (ps)")
    if 1 < len(trajectories) <= 10:
        energy.legend(fontsize=7, ncols=5)
    figure.savefig(path, dpi=150)


def report(trajectories: Sequence[Trajectory], folder: Path) -> dict[str, Any]:
    """What came of a run, for tables and JSON."""
    return {
        "folder": str(folder),
        "replicas": [
            {
                "charge": one.atoms.info["charge"],
                "multiplicity": one.atoms.info["spin_multiplicity"],
                "formula": one.atoms.get_chemical_formula(),
                "time_ps": one.atoms.info["time_fs"] / 1000.0,
                "frames": len(one.times_fs),
                "mean_temperature_K": float(np.mean(one.temperatures_K))
                if len(one.temperatures_K)
                else None,
                "drift_meV_per_atom_ps": one.drift if np.isfinite(one.drift) else None,
                "familiarity": _largest(one.familiarity),
                "stopped": one.stopped,
                "trajectory": str(one.path),
            }
            for one in trajectories
        ],
    }


def _largest(scores: np.ndarray) -> float | None:
    finite = scores[np.isfinite(scores)]
    return float(finite.max()) if len(finite) else None


def settings_from(path: Path | None, given: dict[str, Any]) -> SimulationSettings:
    """Settings of a TOML file, with those given on the command line put over them.

    Raises:
        ValueError: No such file, no TOML, or a setting that does not exist; what each
            replica has of its own is not set here.
    """
    content: dict[str, Any] = {}
    if path is not None:
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error})") from error
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path}: {error}") from error
    content |= {key: value for key, value in given.items() if value is not None}
    listed = [key for key in OWN if isinstance(content.get(key), list)]
    if listed or {"charge", "multiplicity"} & set(content):
        raise ValueError(
            f"{path}: states are given with --state, and lists "
            f"({', '.join(listed) or 'none'}) only in Python"
        )
    return SimulationSettings(**content)
