"""Work at a plan, resume it, and write what is finished."""

import csv
import os
import shutil
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from physnet_ase.state import ElectronicState
from physnet_training.label.executors import ExecutorName, open_executor, reason
from physnet_training.label.journal import JOURNAL, Journal
from physnet_training.label.output import write_labels
from physnet_training.label.plan import Chain, Plan
from physnet_training.label.tasks import (
    Outcome,
    Task,
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
Work = Generator[Sequence[Task], dict[str, Outcome], None]
"""Yields calculations that may run together, takes their outcomes by key."""


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
        counter = _Counter(plan, journal, on_progress)
        missing = counter.missing()
        if missing:
            with open_executor(
                run.executor,
                workers=run.num_workers(),
                timeout_s=run.timeout_s,
                folder=folder,
            ) as executor:
                work = (chain_work(chain, plan, counter) for chain in plan.chains)
                _work_through(work, counter, executor, run.num_workers())
        return _finish(plan, journal, target, rewrite=missing > 0)


class _Counter:
    """Keeps results and counts labels."""

    def __init__(
        self, plan: Plan, journal: Journal, on_progress: OnProgress | None
    ) -> None:
        self.journal = journal
        self._on_progress = on_progress
        keys = [c.label_key(*label) for c in plan.chains for label in c.labels()]
        self._total = len(keys)
        self._failed = sum(key in journal.failures for key in keys)
        self._done = sum(key in journal for key in keys) + self._failed

    def missing(self) -> int:
        """Labels that are neither there nor failed."""
        return self._total - self._done

    def lacks(self, key: str) -> bool:
        """Whether a label is neither there nor failed."""
        return key not in self.journal and key not in self.journal.failures

    def keep(self, task: Task, outcome: Outcome) -> None:
        """Write a result down; only labels fail, the rest is tried anew next time."""
        if outcome.values is not None:
            self.journal.add(task.kind, task.key, outcome.values)
        elif task.kind == "label":
            self.journal.fail(task.key, outcome.reason)
        if task.kind == "label":
            self._count(failed=outcome.values is None)

    def fail(self, keys: Iterable[str], why: str) -> None:
        """Labels that cannot be, because what they need is not there."""
        for key in keys:
            self.journal.fail(key, why)
            self._count(failed=True)

    def _count(self, *, failed: bool) -> None:
        self._done += 1
        self._failed += failed
        if self._on_progress is not None:
            self._on_progress(self._done, self._failed, self._total)


def chain_work(chain: Chain, plan: Plan, counter: _Counter) -> Work:
    """The calculations of one chain, in the order in which they need each other."""

    def missing(sample: int) -> list[ElectronicState]:
        return [s for s in chain.states if counter.lacks(chain.label_key(sample, s))]

    todo = [sample for sample in range(chain.samples) if missing(sample)]
    if not todo:
        return
    begun: Values | None = None
    if needs_start(chain, plan):
        key = chain.start_key + (" hessian" if chain.kind == "modes" else "")
        task = Task("start", key, start, (chain, plan.sampling, plan.surface_method))
        outcome = (yield [task])[key]
        if outcome.values is None:
            counter.fail(
                (chain.label_key(k, s) for k in todo for s in missing(k)),
                outcome.reason,
            )
            return
        begun = outcome.values

    def labels(sample: int, atoms: Any) -> list[Task]:
        return [
            Task(
                "label",
                chain.label_key(sample, state),
                label_frame,
                (chain, sample, atoms, state, plan.method),
            )
            for state in missing(sample)
        ]

    if chain.kind != "dynamics":
        yield [
            task
            for sample in todo
            for task in labels(sample, sampled(chain, sample, begun, plan))
        ]
        return
    frame = started_atoms(chain, begun)
    for sample in range(todo[-1] + 1):
        key = chain.geometry_key(sample)
        inputs = (chain, sample, frame, plan.sampling, plan.surface_method)
        outcome = (yield [Task("geometry", key, advance, inputs)])[key]
        if outcome.values is None:  # the next sample starts anew
            counter.fail(
                [chain.label_key(sample, s) for s in missing(sample)], outcome.reason
            )
            frame = started_atoms(chain, begun)
            continue
        frame = started_atoms(chain, outcome.values)
        frame.set_momenta(np.asarray(outcome.values["momenta"]))
        yield labels(sample, frame)


@dataclass(eq=False)
class _Open:
    """A chain that is being worked at, and what it waits for."""

    work: Work
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    waits_for: set[str] = field(default_factory=set)


def _work_through(
    work: Iterable[Work], counter: _Counter, executor: Executor, workers: int
) -> None:
    """Keep all workers busy until there is no work left.

    Args:
        work: Of all chains, in order.
        counter: Keeps results, and knows those of earlier runs.
        executor: Calculates.
        workers: Most calculations at a time.

    Raises:
        RuntimeError: No process can be started.
    """
    chains = iter(work)
    queue: deque[Task] = deque()
    waiting: defaultdict[str, list[_Open]] = defaultdict(list)
    running: dict[Future[Outcome], Task] = {}

    def resume(chain: _Open, tasks: Sequence[Task]) -> None:
        """Queue what a chain asks for, and go on at once where all is known."""
        while True:
            chain.outcomes = {
                task.key: Outcome(counter.journal[task.key])
                for task in tasks
                if task.key in counter.journal
            }
            unknown = [task for task in tasks if task.key not in chain.outcomes]
            if unknown:
                break
            try:
                tasks = chain.work.send(chain.outcomes)
            except StopIteration:
                return
        chain.waits_for = {task.key for task in unknown}
        for task in unknown:
            if task.key not in waiting:  # else another chain asked for it
                queue.append(task)
            waiting[task.key].append(chain)

    def settle(task: Task, outcome: Outcome) -> None:
        """Keep an outcome and let those go on that waited for it."""
        counter.keep(task, outcome)
        for chain in waiting.pop(task.key):
            chain.outcomes[task.key] = outcome
            chain.waits_for.remove(task.key)
            if not chain.waits_for:
                try:
                    resume(chain, chain.work.send(chain.outcomes))
                except StopIteration:
                    continue

    while True:
        while len(running) < workers:
            if not queue:
                chain = next(chains, None)
                if chain is None:
                    break
                first = next(chain, None)
                if first is not None:
                    resume(_Open(chain), first)
                continue
            task = queue.popleft()
            future = executor.submit(attempt, task.function, *task.arguments)
            running[future] = task
        if not running:
            return
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            error = future.exception()
            if isinstance(error, BrokenExecutor):
                raise RuntimeError(
                    "a worker process could not start (its message stands above); a "
                    'script that labels must do so below if __name__ == "__main__":'
                ) from error
            outcome = Outcome(None, reason(error)) if error else future.result()
            settle(running.pop(future), outcome)


def _finish(
    plan: Plan, journal: Journal, target: Path, *, rewrite: bool
) -> LabelReport:
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
    lines = (journal[key] for key in keys)
    level = plan.method.level
    if rewrite or not target.exists():
        fresh = journal.path.with_name("dataset")
        shutil.rmtree(fresh, ignore_errors=True)
        found = write_labels(lines, fresh, level=level, provenance=provenance)
        _replace(fresh, target)
    else:
        found = write_labels(lines, None, level=level, provenance=provenance)
    return LabelReport(
        target,
        labelled=labelled,
        failed=Counter(state for _, _, state in failed),
        skipped=plan.skipped,
        impossible=plan.impossible,
        failures_file=failures,
        residuals=found,
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
