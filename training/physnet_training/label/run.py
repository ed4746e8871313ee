"""Work at a plan, resume it, and write what is finished."""

import asyncio
import csv
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from physnet_ase.state import ElectronicState
from physnet_training.label.executors import ExecutorName, open_executor, reason
from physnet_training.label.journal import JOURNAL, Journal
from physnet_training.label.output import write_labels
from physnet_training.label.plan import Chain, Plan
from physnet_training.label.tasks import (
    Outcome,
    Values,
    advance,
    attempt,
    label_frame,
    needs_start,
    sampled,
    start,
    started_atoms,
)

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
    """Sends calculations out, keeps what comes back, and counts labels.

    Args:
        plan: All labels.
        journal: What is known already, and where results go.
        on_progress: Called after each label.
    """

    _executor: Executor  # both come with ``work``
    _places: asyncio.Semaphore

    def __init__(
        self, plan: Plan, journal: Journal, on_progress: OnProgress | None
    ) -> None:
        self._plan = plan
        self._journal = journal
        self._on_progress = on_progress
        keys = [c.label_key(*label) for c in plan.chains for label in c.labels()]
        self._total = len(keys)
        self._failed = sum(key in journal.failures for key in keys)
        self._done = sum(key in journal for key in keys) + self._failed
        self._on_the_way: dict[str, asyncio.Task[Outcome]] = {}

    @property
    def num_missing(self) -> int:
        """Labels that are neither there nor failed."""
        return self._total - self._done

    async def work(self, executor: Executor, workers: int) -> None:
        """All calculations that are missing, so many at a time, in the plan's order.

        Raises:
            RuntimeError: No process can be started.
        """
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
        if needs_start(chain, plan):
            key = chain.start_key + (" hessian" if chain.kind == "modes" else "")
            made = await self._result(
                "start", key, start, chain, plan.sampling, plan.surface_method
            )
            if made.values is None:
                for sample in todo:
                    self._fail(chain, sample, made.reason)
                return
            begun = made.values
        if chain.kind != "dynamics":
            frames = [(k, sampled(chain, k, begun, plan)) for k in todo]
            await asyncio.gather(*(self._labels(chain, *frame) for frame in frames))
            return
        frame = started_atoms(chain, begun)
        for sample in range(todo[-1] + 1):
            key = chain.geometry_key(sample)
            inputs = (chain, sample, frame, plan.sampling, plan.surface_method)
            moved = await self._result("geometry", key, advance, *inputs)
            frame = started_atoms(chain, moved.values or begun)
            if moved.values is None:  # the next sample starts anew
                self._fail(chain, sample, moved.reason)
            else:
                frame.set_momenta(np.asarray(moved.values["momenta"]))
                await self._labels(chain, sample, frame)

    async def _labels(self, chain: Chain, sample: int, atoms: Atoms) -> None:
        """One geometry in all its states."""

        async def one(state: ElectronicState) -> None:
            key = chain.label_key(sample, state)
            inputs = (chain, sample, atoms, state, self._plan.method)
            outcome = await self._result("label", key, label_frame, *inputs)
            if outcome.values is None:
                self._journal.fail(key, outcome.reason)
            self._count(failed=outcome.values is None)

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
    """Write the dataset and the list of failures, and count.

    Raises:
        RuntimeError: Nothing is there.
    """
    labelled: Counter[ElectronicState] = Counter()
    failed: list[tuple[Chain, int, ElectronicState]] = []
    keys = []
    for chain in plan.chains:
        for sample, state in chain.labels():
            key = chain.label_key(sample, state)
            if key in journal:
                keys.append(key)
                labelled[state] += 1
            else:
                failed.append((chain, sample, state))
    failures = _list_failures(failed, journal, journal.path.with_name("failures.csv"))
    if not keys:
        chain, sample, state = failed[0]
        why = journal.failures[chain.label_key(sample, state)]
        raise RuntimeError(
            f"none of {len(failed)} labels could be calculated, the first because: "
            f"{why}; all are listed in {failures}"
        )
    provenance = {
        "path": f"physnet-train label --method {plan.method.name}",
        "num_molecules": len(keys),
        "num_failed": len(failed),
        **plan.method.settings(),
        "versions": plan.method.versions(),
        "sampling": plan.sampling.model_dump(mode="json"),
        "sampling_method": plan.surface_method.settings(),
        "structures": sorted({chain.structure.source for chain in plan.chains}),
    }
    fresh = journal.path.with_name("dataset")
    shutil.rmtree(fresh, ignore_errors=True)
    lines = (journal[key] for key in keys)
    level = plan.method.level
    residuals = write_labels(lines, fresh, level=level, provenance=provenance)
    _replace(fresh, target)
    return LabelReport(
        target,
        labelled=labelled,
        failed=Counter(state for _, _, state in failed),
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
    failed: Sequence[tuple[Chain, int, ElectronicState]], journal: Journal, path: Path
) -> Path | None:
    """Write ``failures.csv``; return its path, or None where nothing failed."""
    if not failed:
        path.unlink(missing_ok=True)
        return None
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        header = "structure,name,sample,temperature_K,charge,multiplicity,reason"
        table.writerow(header.split(","))
        for chain, sample, state in failed:
            warmth = "" if chain.temperature is None else f"{chain.temperature:g}"
            table.writerow(
                [
                    chain.structure.source,
                    chain.structure.name,
                    sample,
                    warmth,
                    state.charge,
                    state.multiplicity,
                    journal.failures[chain.label_key(sample, state)],
                ]
            )
    return path
