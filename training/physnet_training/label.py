"""Label structures: run a plan in parallel, resume it, write a packed dataset."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physnet_ase.state import ElectronicState
from physnet_training.labelling.jobs import Progress, Scheduler
from physnet_training.labelling.journal import Journal
from physnet_training.labelling.output import list_failures, write_part
from physnet_training.labelling.parts import (
    Part,
    discard_part,
    is_written,
    place,
    read_mark,
)
from physnet_training.labelling.plan import Job, Plan
from physnet_training.labelling.tasks import perform
from physnet_training.labelling.workers import run_tasks


@dataclass(frozen=True)
class Run:
    """How a plan is worked at; unlike the plan it may change between two runs.

    Attributes:
        workers: Parallel processes; None: one per core this process may use.
        process_index: Which share of the labels, from 0.
        process_count: Into how many shares they are divided.
        timeout_s: Longest time for one step (a relaxation with its Hessian, a stretch
            of dynamics, one label); None: any.
        retry_failed: Calculate failed labels again.

    Raises:
        ValueError: A number is out of range.
    """

    workers: int | None = None
    process_index: int = 0
    process_count: int = 1
    timeout_s: float | None = None
    retry_failed: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.process_count < 1:
            raise ValueError(
                f"--process-count must be at least 1, got {self.process_count}"
            )
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"--workers must be at least 1, got {self.workers}")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ValueError(f"--timeout must be positive (s), got {self.timeout_s:g}")

    @property
    def part(self) -> Part:
        """The share."""
        return Part(self.process_index, self.process_count)

    def num_workers(self) -> int:
        """Parallel processes."""
        if hasattr(os, "sched_getaffinity"):  # what a cluster lets this process use
            return self.workers or len(os.sched_getaffinity(0))
        return self.workers or os.cpu_count() or 1


@dataclass(frozen=True)
class LabelReport:
    """What a run did.

    Attributes:
        target: The dataset, there or not yet.
        complete: Whether it stands under its name.
        labelled: State -> labels of this share.
        failed: State -> labels of this share that could not be calculated.
        skipped: State -> structures whose electron count forbids it, of all shares.
        impossible: Structures without any possible state, in words.
        failures_file: The list of failures, if there are any.
        residuals: Net force, spin contamination and time of this share, see
            ``labelling.output.Residuals``.
    """

    target: Path
    complete: bool
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
    on_progress: Progress | None = None,
) -> LabelReport:
    """Calculate what is missing of a plan's share and write it as a packed dataset.

    Finished labels go to a journal in ``TARGET.labels`` at once; a run that was
    interrupted in any way goes on from there. The dataset appears under its name when
    everything is there: with several processes, when the last one has finished. Workers
    import the main script again: call this below ``if __name__ == "__main__":``.

    Args:
        plan: What is labelled.
        target: The directory to make.
        run: Workers, share and limits.
        on_progress: Called after each label.

    Raises:
        ValueError: The target belongs to something else, or the options differ from
            those with which the journal was begun.
        RuntimeError: Not one label could be calculated.
    """
    run, target = run or Run(), Path(target)
    folder = target.with_name(f"{target.name}.labels")
    share = plan.share(run.process_index, run.process_count)
    if target.exists() and not folder.exists():
        raise ValueError(
            f"{target} exists already and there is no {folder.name} to go on from; "
            "choose another target or remove it"
        )
    with Journal(folder, f"journal-{run.part}.jsonl", plan.settings()) as journal:
        scheduler = Scheduler(
            plan,
            journal,
            share,
            retry_failed=run.retry_failed,
            on_progress=on_progress,
        )
        missing = scheduler.missing
        if target.exists() and missing and run.process_count > 1:
            raise ValueError(
                f"{target} is complete; to calculate {missing} labels again run "
                "without --process-index and --process-count, in one process"
            )
        if missing or not is_written(folder, target, run.part):
            discard_part(folder, run.part)
            run_tasks(
                scheduler, perform, workers=run.num_workers(), timeout_s=run.timeout_s
            )
            write_part(plan, journal, scheduler.jobs, folder=folder, part=run.part)
        complete = place(folder, target, run.part)
        return _report(
            plan,
            journal,
            scheduler.jobs,
            target=target,
            complete=complete,
            part=run.part,
        )


def _report(
    plan: Plan,
    journal: Journal,
    jobs: Sequence[Job],
    *,
    target: Path,
    complete: bool,
    part: Part,
) -> LabelReport:
    """Count what is there and list what failed.

    Raises:
        RuntimeError: Nothing is there.
    """
    folder = journal.folder
    failures = list_failures(plan, journal, jobs, folder / part.failures_file)
    labelled = Counter(plan.state(job) for job in jobs if job in journal.labels)
    if jobs and not labelled:
        raise RuntimeError(
            f"none of {len(jobs)} labels could be calculated, the first because: "
            f"{journal.failures[jobs[0]]}; all are listed in {failures}"
        )
    return LabelReport(
        target,
        complete,
        labelled=labelled,
        failed=Counter(plan.state(job) for job in jobs if job in journal.failures),
        skipped=plan.skipped,
        impossible=plan.impossible,
        failures_file=failures,
        residuals=read_mark(folder, part),
    )
