"""Convert data files to one packed dataset: validated, resumable, in bounded memory."""

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from physnet_training.audit.audit import OnAudit
from physnet_training.conversion.assemble import assemble
from physnet_training.conversion.check import POLICIES, Policy
from physnet_training.conversion.job import Job, Source, read_options_from
from physnet_training.conversion.pool import convert_sources
from physnet_training.conversion.report import ConversionReport, SourceReport
from physnet_training.conversion.workspace import Workspace
from physnet_training.sources.formats import find_format

OnProgress = Callable[[Path, int], None]
"""Called with the source and the number of molecules written so far."""
_SMALL = 64 << 20  # bytes of sources that are not worth starting processes


def convert(
    sources: str | Path | Sequence[str | Path],
    target: str | Path,
    *,
    shard_molecules: int | None = None,
    workers: int | None = None,
    on_invalid: Policy = "error",
    append: bool = False,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> ConversionReport:
    """Convert one or several sources to one packed dataset.

    The dataset gets its name when it is complete. Until then everything stands in the
    hidden folder ``.NAME.partial`` next to it: after an interruption the same call
    goes on with what is finished there. After an error it is removed, unless it holds
    much finished work.

    Args:
        sources: What ``formats.find_format`` knows, in the order of the dataset.
        target: The directory to make; it must not exist, unless ``append``.
        shard_molecules: Most molecules per shard; the dataset becomes a root of
            ``shard-00000/`` and so on. None: only beyond 1,000,000 molecules.
        workers: Most processes, one per source; None: as many as there are processors
            and sources, one for small files.
        on_invalid: ``"error"`` stops at an invalid molecule, ``"skip"`` leaves it out,
            ``"keep"`` takes it with its broken labels missing; both are listed in
            ``invalid_rows.csv``.
        append: Add shards to the existing root of shards ``target``.
        on_progress: Called after each piece that was read.
        **options: Fields of ``ReadOptions``: ``energy_unit``, ``length_unit``,
            ``force_unit``, ``dipole_unit``, ``keys``, ``ignore``, ``where``, ``level``,
            ``allow_missing``, ``assume_multiplicity``.

    Returns:
        Counts, and for each source the units taken and what was assumed.

    Raises:
        ValueError: Bad input; the message names the file, the molecule and what to do.
            Also when unfinished work of another command stands in the hidden folder.
        OSError: The disk is full, or writing is not permitted.
        TypeError: An unknown option.
    """
    if isinstance(sources, str | Path):
        sources = [sources]
    read_options = read_options_from(options)
    job = Job(
        tuple(Source(Path(source), read_options) for source in sources),
        Path(target),
        shard_molecules=shard_molecules,
        on_invalid=on_invalid,
        append=append,
        workers=workers,
    )
    return run_job(job, on_progress=on_progress)


def run_job(
    job: Job,
    *,
    on_progress: OnProgress | None = None,
    on_audit: OnAudit | None = None,
) -> ConversionReport:
    """``convert`` for sources that have options of their own.

    Args:
        job: The conversion.
        on_progress: Called after each piece that was read.
        on_audit: Called with the molecules audited so far and their number.

    Raises:
        ValueError: As for ``convert``.
        OSError: As for ``convert``.
    """
    _check(job)
    counts = dict.fromkeys(range(len(job.sources)), 0)

    def progress(index: int, count: int) -> None:
        counts[index] = count
        if on_progress is not None:
            on_progress(job.sources[index].path, sum(counts.values()))

    workspace = Workspace(job)
    try:
        with workspace.open():
            convert_sources(workspace, _workers(job), progress)
            _check_used(job, workspace.reports())
            return assemble(workspace, on_audit)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            f"the disk is full: the conversion to {job.target} stopped, and no dataset "
            "was made; free some space and run the same command again",
        ) from error


def count_molecules(job: Job) -> int | None:
    """Molecules of all sources together, None where only reading can tell."""
    if any(source.options.where for source in job.sources):
        return None
    counts = [find_format(source.path).count(source.path) for source in job.sources]
    return None if None in counts else sum(count or 0 for count in counts)


def _check(job: Job) -> None:
    """Everything that can be refused before anything is written."""
    if not job.sources:
        raise ValueError("convert needs at least one source file, got none")
    for source in job.sources:
        find_format(source.path)
    if job.on_invalid not in POLICIES:
        raise ValueError(
            f"on_invalid must be one of {', '.join(POLICIES)}, got {job.on_invalid!r}"
        )
    for name in ("shard_molecules", "workers"):
        value = getattr(job, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    target = job.target
    if not job.append:
        if target.exists():
            raise ValueError(
                f"{target} exists already; choose another target or remove it, or add "
                "shards to it with --append"
            )
        return
    if not target.is_dir():
        raise ValueError(
            f"{target} does not exist, so nothing can be appended to it; leave out "
            "--append to make it"
        )
    if not (target / "shard-00000").is_dir():
        raise ValueError(
            f"{target} is no root of shards, so no shard can be appended to it; "
            f"convert it with the new sources: physnet-train convert {target} SOURCE… "
            "NEW_TARGET --shard-molecules 1000000"
        )


def _workers(job: Job) -> int:
    if job.workers is not None:
        return job.workers
    files = [
        file
        for source in job.sources
        for file in (source.path.rglob("*") if source.path.is_dir() else [source.path])
    ]
    if sum(file.stat().st_size for file in files) < _SMALL:
        return 1
    return min(len(job.sources), os.cpu_count() or 1)


def _check_used(job: Job, reports: list[SourceReport]) -> None:
    """What is said of something that no source holds is a mistake.

    Raises:
        ValueError: A unit or a key to ignore was given in vain.
    """
    seen = {quantity for report in reports for quantity in report.units}
    asked = any(source.options.dipole_unit for source in job.sources)
    if asked and "dipole" not in seen:
        raise ValueError("--dipole-unit was given but no source holds dipoles")
    ignored = {key for report in reports for key in report.ignored}
    wanted = {key for source in job.sources for key in source.options.ignore}
    if wanted - ignored:
        raise ValueError(
            f"--ignore {min(wanted - ignored)}: no source holds such a key; leave it "
            "out or correct its name"
        )
