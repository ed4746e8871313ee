"""Who does what when: labels of a share, from the plan to the journal."""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from physnet_training.labelling.journal import Journal
from physnet_training.labelling.plan import Chain, Job, Plan
from physnet_training.labelling.tasks import (
    Event,
    Failed,
    Labelled,
    Moved,
    Prepared,
    Task,
)

Progress = Callable[[int, int, int], None]
"""Called with labels done, those of them that failed, and all."""


class Scheduler:
    """Hands out tasks in order, keeps results, and knows what is missing.

    Args:
        plan: All labels.
        journal: What is known already, and where results go.
        share: This process' part.
        retry_failed: Try failed labels again.
        on_progress: Called with labels done, those of them that failed, and all.

    Attributes:
        jobs: All labels of the share, in the order of the dataset.
    """

    def __init__(
        self,
        plan: Plan,
        journal: Journal,
        share: Sequence[tuple[int, range]],
        *,
        retry_failed: bool = False,
        on_progress: Progress | None = None,
    ) -> None:
        self._plan = plan
        self._journal = journal
        self.jobs = plan.jobs(share)
        if retry_failed:
            for job in self.jobs:
                journal.failures.pop(job, None)
        self._failed = sum(job in journal.failures for job in self.jobs)
        self._done = sum(job in journal.labels for job in self.jobs) + self._failed
        self._on_progress = on_progress
        # A trajectory starts with its first sample; each brings the next one.
        self._pending = deque(
            (chain, sample)
            for chain, samples in share
            for sample in (samples[:1] if self._moves(chain) else samples)
        )
        self._waiting: dict[str, list[tuple[int, int]]] = {}
        self._broken: dict[str, str] = {}

    @property
    def missing(self) -> int:
        """Number of labels that are neither there nor failed."""
        return len(self.jobs) - self._done

    def next_task(self) -> Task | None:
        """The next task that does not wait for another one."""
        while self._pending:
            index, sample = self._pending.popleft()
            remaining = self._remaining(index, sample)
            key = self._start_key(index)
            if not remaining:
                self._advance(index, sample)
            elif key in self._broken:
                self._fail(remaining, self._broken[key])
                self._advance(index, sample)
            elif not self._prepared(index) and key in self._waiting:
                self._waiting[key].append((index, sample))
            elif not self._prepared(index):
                self._waiting[key] = [(index, sample)]
                return self._task(index, None)
            else:
                return self._task(index, sample)
        return None

    def received(self, task: Task, event: Event) -> None:
        """Keep a result."""
        if isinstance(event, Prepared):
            self._journal.add_start(self._start_key(task.chain), event.values)
        elif task.sample is None:
            if isinstance(event, Failed):
                self._broken[self._start_key(task.chain)] = event.reason
        elif isinstance(event, Moved):
            self._journal.add_geometry(task.chain, task.sample, event.values)
        elif isinstance(event, Failed) and event.state is None:
            self._fail(self._remaining(task.chain, task.sample), event.reason)
        elif event.state is not None:
            job = Job(task.chain, task.sample, event.state)
            if isinstance(event, Labelled):
                self._journal.add_label(job, event.values)
                self._count(failed=False)
            else:
                self._fail([job], event.reason)

    def finished(self, task: Task) -> None:
        """Whoever waited for this task goes on."""
        if task.sample is None:
            waiting = self._waiting.pop(self._start_key(task.chain))
            self._pending.extendleft(reversed(waiting))
        else:
            self._advance(task.chain, task.sample)

    def lost(self, task: Task, reason: str) -> None:
        """A worker died: only the step in its hands has failed."""
        if task.sample is None:
            self._broken[self._start_key(task.chain)] = reason
            self.finished(task)
            return
        remaining = self._remaining(task.chain, task.sample)
        on_the_way = (
            task.kind == "dynamics"
            and self._journal.geometry(task.chain, task.sample) is None
        )
        self._fail(remaining if on_the_way else remaining[:1], reason)
        self._pending.appendleft((task.chain, task.sample))

    def _chain(self, index: int) -> Chain:
        return self._plan.chains[index]

    def _moves(self, index: int) -> bool:
        return self._chain(index).kind == "dynamics"

    def _remaining(self, index: int, sample: int) -> list[Job]:
        jobs = [Job(index, sample, k) for k in range(len(self._chain(index).states))]
        journal = self._journal
        return [
            j for j in jobs if j not in journal.labels and j not in journal.failures
        ]

    def _advance(self, index: int, sample: int) -> None:
        if self._moves(index) and sample + 1 < self._chain(index).samples:
            self._pending.appendleft((index, sample + 1))

    def _fail(self, jobs: Sequence[Job], reason: str) -> None:
        for job in jobs:
            self._journal.add_failure(job, reason)
            self._count(failed=True)

    def _count(self, *, failed: bool) -> None:
        self._done += 1
        self._failed += failed
        if self._on_progress is not None:
            self._on_progress(self._done, self._failed, len(self.jobs))

    def _start_key(self, index: int) -> str:
        chain = self._chain(index)
        return f"{chain.structure}/{chain.surface.charge},{chain.surface.multiplicity}"

    def _prepared(self, index: int) -> bool:
        wanted = self._plan.sampling.relax or self._chain(index).kind == "modes"
        return not wanted or self._journal.has_start(self._start_key(index))

    def _task(self, index: int, sample: int | None) -> Task:
        chain = self._chain(index)
        atoms = self._plan.structures[chain.structure].atoms.copy()
        kind: str = chain.kind
        start = self._journal.start(self._start_key(index)) or {}
        if start:
            atoms.positions = start["positions"]
        remaining = [] if sample is None else self._remaining(index, sample)
        if kind == "dynamics" and sample is not None:
            here = self._journal.geometry(index, sample)
            before = self._journal.geometry(index, sample - 1)
            if here is not None:  # only some of its labels are missing
                atoms.positions, kind = here["positions"], "none"
            elif before is not None:
                atoms.positions = before["positions"]
                atoms.set_momenta(np.asarray(before["momenta"]))
        return Task(
            index,
            sample,
            atoms,
            chain.surface,
            tuple((job.state, chain.states[job.state]) for job in remaining),
            kind,
            chain.temperature,
            start.get("hessian"),
            self._plan.sampling,
            self._plan.method,
            self._plan.surface_method,
        )
