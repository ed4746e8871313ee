"""Finished pieces become the shards of one dataset, audited and then given its name."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from physnet_ase import __version__
from physnet_training.audit.audit import OnAudit, audit_dataset
from physnet_training.conversion.report import ConversionReport, SourceReport
from physnet_training.conversion.workspace import PlannedShard, Workspace
from physnet_training.packed import PackedDataset, PackedWriter
from physnet_training.packed.files import publish, write_sealed
from physnet_training.packed.invalid_rows import read_invalid_rows
from physnet_training.packed.layout import MANIFEST, REPORT
from physnet_training.packed.reader import Shard, read_manifest


def assemble(workspace: Workspace, on_audit: OnAudit | None) -> ConversionReport:
    """Make the dataset out of a workspace whose sources are all converted.

    Every step can be interrupted and is taken up again by the next run.

    Raises:
        ValueError: A piece is damaged, or the target appeared meanwhile.
    """
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
    """Audit the whole dataset, and each new shard for its own manifest.

    Returns:
        The audit of the whole.
    """
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
    if len(folders) > 1:
        _concatenate(folders, target, provenance)
        for piece in folders:
            shutil.rmtree(piece)
        return
    manifest = {**read_manifest(folders[0]), "provenance": provenance}
    write_sealed(folders[0] / MANIFEST, manifest)
    publish(folders[0], target)


def _concatenate(
    folders: list[Path], target: Path, provenance: list[dict[str, Any]]
) -> None:
    """Copy packed directories, one after another, into a new one."""
    dataset = PackedDataset(target, [Shard(folder) for folder in folders])
    with PackedWriter(target, provenance=provenance) as writer:
        for folder in folders:
            writer.report_invalid(read_invalid_rows(folder))
        for batch in dataset.batches():
            writer.append(batch)


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
