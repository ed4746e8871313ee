"""Convert data files to one packed dataset: validated, resumable, in bounded memory."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from physnet_ase import __version__
from physnet_training.audit.audit import OnAudit, audit_dataset
from physnet_training.conversion.check import POLICIES, Policy
from physnet_training.conversion.job import (
    Job,
    PlannedShard,
    Source,
    Workspace,
    read_options_from,
)
from physnet_training.conversion.pipe import convert_sources
from physnet_training.conversion.report import ConversionReport, SourceReport
from physnet_training.packed import PackedDataset, PackedWriter
from physnet_training.packed.files import (
    MANIFEST,
    REPORT,
    publish,
    read_invalid_rows,
    write_sealed,
)
from physnet_training.packed.reader import Shard, read_manifest
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
    job: Job, *, on_progress: OnProgress | None = None, on_audit: OnAudit | None = None
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
            return _assemble(workspace, on_audit)
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


def _assemble(workspace: Workspace, on_audit: OnAudit | None) -> ConversionReport:
    """Finished pieces become shards, audited and named; every step can be repeated."""
    workspace.check_root()
    reports, shards = workspace.reports(), workspace.shards()
    for shard in shards:
        _build(workspace, shard, reports)
    new = [Shard(workspace.place(shard)) for shard in shards]
    report = ConversionReport(
        str(workspace.job.target),
        sum(shard.num_molecules for shard in new),
        sum(shard.num_atoms for shard in new),
        reports,
        len(new),
        _audit(workspace, new, on_audit),
    )
    _publish(workspace, shards, report)
    return report


def _audit(
    workspace: Workspace, new: list[Shard], on_audit: OnAudit | None
) -> dict[str, Any]:
    """Audit the whole dataset, and each new shard for its own manifest."""
    target = workspace.job.target
    folders = sorted(target.glob("shard-*"))[: workspace.num_old]
    old = [Shard(folder) for folder in folders]
    alone = len(old) + len(new) == 1
    thread = ThreadPoolExecutor(1)  # the shards' own audits, beside that of the whole
    try:
        parts = [
            thread.submit(audit_dataset, PackedDataset(shard.path, [shard]))
            for shard in ([] if alone else new)
        ]
        whole = audit_dataset(PackedDataset(target, [*old, *new]), on_progress=on_audit)
        found = [whole] if alone else [part.result() for part in parts]
    finally:
        thread.shutdown(cancel_futures=True)
    for shard, own in zip(new, found, strict=True):
        write_sealed(shard.path / MANIFEST, {**shard.manifest, "validation": own})
    return whole


def _build(
    workspace: Workspace, shard: PlannedShard, reports: list[SourceReport]
) -> None:
    """Put one shard together, unless an earlier run has done so."""
    if workspace.place(shard).exists():
        return
    workspace.assembled.mkdir(exist_ok=True)
    provenance = [
        {
            "source": piece.source,
            "path": reports[piece.source].path,
            "sha256": reports[piece.source].sha256,
            "rows": [piece.taken.first_row, piece.taken.end_row],
            "num_molecules": piece.taken.num_molecules,
            "units": piece.taken.units,
            "notes": reports[piece.source].notes,
        }
        for piece in shard.pieces
    ]
    target, folders = workspace.place(shard), [piece.folder for piece in shard.pieces]
    if len(folders) == 1:
        manifest = {**read_manifest(folders[0]), "provenance": provenance}
        write_sealed(folders[0] / MANIFEST, manifest)
        publish(folders[0], target)
        return
    dataset = PackedDataset(target, [Shard(folder) for folder in folders])
    with PackedWriter(target, provenance=provenance) as writer:
        for folder in folders:
            writer.report_invalid(read_invalid_rows(folder))
        for batch in dataset.batches():
            writer.append(batch)
    for folder in folders:
        shutil.rmtree(folder)


def _publish(
    workspace: Workspace, shards: list[PlannedShard], report: ConversionReport
) -> None:
    """Give everything its name; a root opens as a dataset at every moment."""
    job, target = workspace.job, workspace.job.target
    names = [shard.name for shard in shards]
    if not job.append and job.shard_molecules is None and len(names) == 1:
        publish(workspace.assembled / names[0], target)
        return
    if not job.append:
        write_sealed(workspace.assembled / REPORT, _root_report({}, names, report))
        publish(workspace.assembled, target)
        return
    file = target / REPORT
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name in names:
        if not (target / name).exists():
            publish(workspace.assembled / name, target / name)
    write_sealed(file, _root_report(old, names, report))


def _root_report(
    old: dict[str, Any], names: list[str], report: ConversionReport
) -> dict[str, Any]:
    """What stands in a root beside its shards."""
    conversion = {
        "package_version": __version__,
        "shards": names,
        "num_molecules": report.num_molecules,
        "num_atoms": report.num_atoms,
        "sources": [asdict(source) for source in report.sources],
    }
    return {
        "conversions": [*old.get("conversions", []), conversion],
        "validation": report.validation,
    }
