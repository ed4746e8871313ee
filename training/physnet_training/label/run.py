"""Work at a plan, resume it, and write what is finished."""

import asyncio
import csv
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray

from physnet_ase.commands.smiles import conformer
from physnet_ase.quantities import QUANTITIES, labels
from physnet_ase.state import ElectronicState, with_state
from physnet_training.label.calculators import Method
from physnet_training.label.executors import ExecutorName, open_executor, reason
from physnet_training.label.output import JOURNAL, Journal, write_labels
from physnet_training.label.plan import (
    Chain,
    Plan,
    check_bonds,
    check_geometry,
)
from physnet_training.label.sampling import (
    Sampling,
    displace,
    move,
    prepare,
    random_generator,
    vibrate,
)

Array = NDArray[np.float64]
Values = dict[str, Any]


class Outcome(NamedTuple):
    """A JSON-serialisable result, or why there is none."""

    values: Values | None
    reason: str = ""


def attempt(function: Callable[..., Values], *arguments: Any) -> Outcome:
    """Call a function of this module; whatever goes wrong is a result, too."""
    try:
        return Outcome(function(*arguments))
    # A method may raise anything at all, and not all of it could be sent back.
    except Exception as error:
        return Outcome(None, reason(error))


def _start(chain: Chain, sampling: Sampling, method: Method) -> Values:
    """The structure that sampling starts from: made, relaxed, and its Hessian."""
    smiles, atoms = chain.structure.smiles, chain.structure.atoms
    atoms = conformer(smiles) if atoms is None else atoms.copy()
    calculator = method.calculator(chain.surface)
    hessian = prepare(atoms, calculator, sampling, hessian=chain.kind == "modes")
    if smiles:
        check_bonds(smiles, atoms)
    return {
        "positions": atoms.positions.tolist(),
        "hessian": None if hessian is None else hessian.tolist(),
    }


def _started(chain: Chain, begun: Values | None) -> Atoms:
    """The atoms of a chain at its start, or where a trajectory is."""
    atoms = chain.structure.atoms
    atoms = Atoms(chain.structure.numbers) if atoms is None else atoms.copy()
    if begun is not None:
        atoms.positions = begun["positions"]
    return atoms


def _sampled(chain: Chain, sample: int, begun: Values | None, plan: Plan) -> Atoms:
    """A geometry of a chain that is no trajectory."""
    atoms = _started(chain, begun)
    rng = random_generator(plan.sampling.seed, chain.key, sample)
    if chain.kind == "displace":
        displace(atoms, plan.sampling.amplitude, rng)
    elif chain.kind == "modes" and begun is not None:
        vibrate(atoms, np.asarray(begun["hessian"]), chain.temperature or 0.0, rng)
    return atoms


def _advance(
    chain: Chain, sample: int, frame: Atoms, sampling: Sampling, method: Method
) -> Values:
    """The next geometry of a trajectory, and its momenta."""
    calculator, temperature = method.calculator(chain.surface), chain.temperature or 0.0
    rng = random_generator(sampling.seed, chain.key, sample)
    move(frame, calculator, sampling, temperature_K=temperature, rng=rng)
    return {
        "positions": frame.positions.tolist(),
        "momenta": frame.get_momenta().tolist(),
    }


def label_geometry(atoms: Atoms, state: ElectronicState, method: Method) -> Values:
    """Energy and whatever else the method knows, as plain lists in eV, Å and e.

    Args:
        atoms: The geometry.
        state: Charge and multiplicity.
        method: What calculates.

    Raises:
        ValueError: A result is not finite or has a wrong shape, or atoms coincide.
    """
    begin = time.monotonic()
    check_geometry(atoms)
    atoms = with_state(atoms, state)
    calculator = method.calculator(state)
    values: Values = {}
    # Forces first: a method may do energy and forces at once.
    for quantity in sorted(labels(), key=lambda label: label.name != "forces"):
        if quantity.name == "stress" and not atoms.pbc.all():
            continue
        if quantity.ase_name in calculator.implemented_properties:
            try:
                value = calculator.get_property(quantity.ase_name, atoms)
            except PropertyNotImplementedError:
                continue
            values[quantity.name] = _checked(quantity.name, value, len(atoms))
    if "energy" not in values:
        raise ValueError("the method gives no energy")
    squared = getattr(calculator, "results", {}).get("s_squared")
    if squared is not None:
        values["s_squared"] = float(squared)
    values["seconds"] = round(time.monotonic() - begin, 3)
    return values


def label_frame(
    chain: Chain, sample: int, atoms: Atoms, state: ElectronicState, method: Method
) -> Values:
    """The line of the journal for one label: it says all about itself."""
    cell = {"cell": atoms.cell.array.tolist(), "pbc": atoms.pbc.astype(int).tolist()}
    return {
        "name": chain.structure.name,
        "kind": chain.kind,
        "temperature_K": chain.temperature,
        "sample": sample,
        "charge": state.charge,
        "multiplicity": state.multiplicity,
        "atomic_numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        **(cell if atoms.pbc.any() else {}),
        **label_geometry(atoms, state, method),
    }


def _checked(name: str, value: Any, num_atoms: int) -> Any:
    """A result of the right shape, finite, as plain lists."""
    array = np.asarray(value, dtype=np.float64)
    expected = QUANTITIES[name].row_shape(1, num_atoms)
    if not QUANTITIES[name].per_atom:
        expected = expected[1:]
    if array.shape != expected:
        raise ValueError(
            f"the method returned {name} of shape {array.shape}, expected {expected}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"the method returned {name} that are not finite")
    return array.tolist()


OnProgress = Callable[[int, int, int], None]
"""Called with labels done, those of them that failed, and all."""


@dataclass(frozen=True)
class Run:
    """How a plan is worked at; unlike the plan it may change between two runs.

    Attributes:
        workers: Parallel calculations; None: one per core this process may use.
        timeout_s: Longest time for one calculation (a relaxation with its Hessian, a
            stretch of dynamics, one label); None: any.
        retry_failed: Calculate failed labels again.
        executor: Where calculations run.

    Raises:
        ValueError: A number is out of range.
    """

    workers: int | None = None
    timeout_s: float | None = None
    retry_failed: bool = False
    executor: ExecutorName = "local"

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"--workers must be at least 1, got {self.workers}")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ValueError(f"--timeout must be positive (s), got {self.timeout_s:g}")

    def num_workers(self) -> int:
        """Parallel calculations."""
        if hasattr(os, "sched_getaffinity"):  # what a cluster lets this process use
            return self.workers or len(os.sched_getaffinity(0))
        return self.workers or os.cpu_count() or 1


@dataclass(frozen=True)
class LabelReport:
    """What a run did.

    Attributes:
        target: The dataset.
        labelled: State -> labels.
        failed: State -> labels that could not be calculated.
        skipped: State -> structures whose electron count forbids it.
        impossible: Structures without any possible state, in words.
        failures_file: The list of failures, if there are any.
        residuals: Net force, spin contamination and time, see ``output.residuals``.
    """

    target: Path
    labelled: Counter[ElectronicState]
    failed: Counter[ElectronicState]
    skipped: Counter[ElectronicState]
    impossible: list[str]
    failures_file: Path | None
    residuals: dict[str, Any]


def label(
    plan: Plan,
    target: str | Path,
    *,
    run: Run | None = None,
    on_progress: OnProgress | None = None,
) -> LabelReport:
    """Calculate what is missing of a plan and write it as a packed dataset.

    Finished labels go to a journal in ``TARGET.labels`` at once; a run that was
    interrupted in any way goes on from there. The dataset appears under its name when
    everything is there. Workers import the main script again: call this below
    ``if __name__ == "__main__":``.

    Args:
        plan: What is labelled.
        target: The directory to make.
        run: Workers and limits.
        on_progress: Called after each label.

    Raises:
        ValueError: The target belongs to something else, or the options differ from
            those with which the journal was begun.
        RuntimeError: Not one label could be calculated.
    """
    run, target = run or Run(), Path(target)
    folder = target.with_name(f"{target.name}.labels")
    if target.exists() and not folder.exists():
        raise ValueError(
            f"{target} exists already and there is no {folder.name} to go on from; "
            "choose another target or remove it"
        )
    with Journal(folder / JOURNAL, plan.settings()) as journal:
        if run.retry_failed:
            journal.failures.clear()
        desk = _Desk(plan, journal, on_progress)
        workers = run.num_workers()
        if desk.num_missing:
            with open_executor(
                run.executor, workers=workers, timeout_s=run.timeout_s, folder=folder
            ) as executor:
                asyncio.run(desk.work(executor, workers))
        return _finish(plan, journal, target)


class _Desk:
    """Sends calculations out, keeps what comes back in the journal, counts labels."""

    _executor: Executor  # both come with ``work``
    _places: asyncio.Semaphore

    def __init__(
        self, plan: Plan, journal: Journal, on_progress: OnProgress | None
    ) -> None:
        self._plan = plan
        self._journal = journal
        self._on_progress = on_progress
        keys = [key for key, *_ in plan.labels()]
        self._total = len(keys)
        self._failed = sum(key in journal.failures for key in keys)
        self._done = sum(key in journal for key in keys) + self._failed
        self._on_the_way: dict[str, asyncio.Task[Outcome]] = {}

    @property
    def num_missing(self) -> int:
        """Labels that are neither there nor failed."""
        return self._total - self._done

    async def work(self, executor: Executor, workers: int) -> None:
        """All calculations that are missing, so many at a time, in the plan's order."""
        self._executor, self._places = executor, asyncio.Semaphore(workers)
        chains = iter(self._plan.chains)

        async def crew() -> None:
            for chain in chains:  # all take from the same
                await self._chain(chain)

        try:
            await asyncio.gather(*(crew() for _ in range(workers)))
        except BrokenExecutor as error:
            raise RuntimeError(
                "a worker process could not start (its message stands above); a script "
                'that labels must do so below if __name__ == "__main__":'
            ) from error

    async def _chain(self, chain: Chain) -> None:
        """The calculations of one chain, in the order in which they need each other."""
        plan = self._plan
        todo = [k for k in range(chain.samples) if self._missing(chain, k)]
        if not todo:
            return
        begun: Values | None = None
        modes = chain.kind == "modes"
        if modes or plan.sampling.relax or chain.structure.atoms is None:
            key = chain.start_key + (" hessian" if modes else "")
            inputs = (chain, plan.sampling, plan.surface_method)
            begun, why = await self._result("start", key, _start, *inputs)
            if begun is None:
                for sample in todo:
                    self._fail(chain, sample, why)
                return
        if chain.kind != "dynamics":
            frames = [(k, _sampled(chain, k, begun, plan)) for k in todo]
            await asyncio.gather(*(self._labels(chain, *frame) for frame in frames))
            return
        frame = _started(chain, begun)
        for sample in range(todo[-1] + 1):
            key = chain.geometry_key(sample)
            moved, why = await self._result(
                "geometry",
                key,
                _advance,
                *(chain, sample, frame, plan.sampling, plan.surface_method),
            )
            frame = _started(chain, moved or begun)
            if moved is None:  # the next sample starts anew
                self._fail(chain, sample, why)
            else:
                frame.set_momenta(np.asarray(moved["momenta"]))
                await self._labels(chain, sample, frame)

    async def _labels(self, chain: Chain, sample: int, atoms: Atoms) -> None:
        """One geometry in all its states."""

        async def one(state: ElectronicState) -> None:
            key = chain.label_key(sample, state)
            inputs = (chain, sample, atoms, state, self._plan.method)
            labels, why = await self._result("label", key, label_frame, *inputs)
            if labels is None:
                self._journal.fail(key, why)
            self._count(failed=labels is None)

        await asyncio.gather(*map(one, self._missing(chain, sample)))

    async def _result(
        self, kind: str, key: str, function: Callable[..., Values], *inputs: Any
    ) -> Outcome:
        """From the journal, from who asked for it before, or from the executor."""
        if key in self._journal:
            return Outcome(self._journal[key])
        if key not in self._on_the_way:
            calculation = self._calculate(kind, key, function, *inputs)
            self._on_the_way[key] = asyncio.create_task(calculation)
        return await self._on_the_way[key]

    async def _calculate(
        self, kind: str, key: str, function: Callable[..., Values], *inputs: Any
    ) -> Outcome:
        async with self._places:
            future = self._executor.submit(attempt, function, *inputs)
            try:
                outcome: Outcome = await asyncio.wrap_future(future)
            except BrokenExecutor:
                raise
            except Exception as error:  # the process died, or took too long
                outcome = Outcome(None, reason(error))
        if outcome.values is not None:
            self._journal.add(kind, key, outcome.values)
        del self._on_the_way[key]
        return outcome

    def _missing(self, chain: Chain, sample: int) -> list[ElectronicState]:
        """States whose label is neither there nor failed."""
        return [
            state
            for state in chain.states
            if (key := chain.label_key(sample, state)) not in self._journal
            and key not in self._journal.failures
        ]

    def _fail(self, chain: Chain, sample: int, why: str) -> None:
        """Labels that cannot be, because their geometry is not there."""
        for state in self._missing(chain, sample):
            self._journal.fail(chain.label_key(sample, state), why)
            self._count(failed=True)

    def _count(self, *, failed: bool) -> None:
        self._done += 1
        self._failed += failed
        if self._on_progress is not None:
            self._on_progress(self._done, self._failed, self._total)


def _finish(plan: Plan, journal: Journal, target: Path) -> LabelReport:
    """Write the dataset and the list of failures, and count."""
    wanted = list(plan.labels())
    there = [label for label in wanted if label[0] in journal]
    failed = [label for label in wanted if label[0] not in journal]
    failures = _list_failures(failed, journal, journal.path.with_name("failures.csv"))
    if not there:
        raise RuntimeError(
            f"none of {len(failed)} labels could be calculated, the first because: "
            f"{journal.failures[failed[0][0]]}; all are listed in {failures}"
        )
    provenance = {
        "path": f"physnet-train label --method {plan.method.name}",
        "num_molecules": len(there),
        "num_failed": len(failed),
        **plan.method.settings(),
        "versions": plan.method.versions(),
        "sampling": plan.sampling.model_dump(mode="json"),
        "sampling_method": plan.surface_method.settings(),
        "structures": sorted({chain.structure.source for chain in plan.chains}),
    }
    fresh = journal.path.with_name("dataset")
    shutil.rmtree(fresh, ignore_errors=True)
    lines = (journal[key] for key, *_ in there)
    level = plan.method.level
    residuals = write_labels(lines, fresh, level=level, provenance=provenance)
    _replace(fresh, target)
    return LabelReport(
        target,
        labelled=Counter(state for *_, state in there),
        failed=Counter(state for *_, state in failed),
        skipped=plan.skipped,
        impossible=plan.impossible,
        failures_file=failures,
        residuals=residuals,
    )


def _replace(fresh: Path, target: Path) -> None:
    """Give a dataset its name; an older one of this run makes way."""
    old = fresh.with_name("replaced")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _list_failures(
    failed: Sequence[tuple[str, Chain, int, ElectronicState]],
    journal: Journal,
    path: Path,
) -> Path | None:
    """Write ``failures.csv``; return its path, or None where nothing failed."""
    if not failed:
        path.unlink(missing_ok=True)
        return None
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        header = "structure,name,sample,temperature_K,charge,multiplicity,reason"
        table.writerow(header.split(","))
        for key, chain, sample, state in failed:
            structure, kelvin = chain.structure, chain.temperature
            warmth = "" if kelvin is None else f"{kelvin:g}"
            place = [structure.source, structure.name, sample, warmth]
            why = journal.failures[key]
            table.writerow([*place, state.charge, state.multiplicity, why])
    return path
