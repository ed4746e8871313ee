"""Finished pieces become the shards of one dataset, audited and then given its name."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from physnet_ase import __version__
from physnet_training.auditing.audit import AuditProgress, audit_dataset
from physnet_training.auditing.pieces import pieces
from physnet_training.conversion.invalid_rows import read_invalid_rows
from physnet_training.conversion.job import Workspace
from physnet_training.conversion.source import MAX_SHARDS, finished_pieces, piece_taken
from physnet_training.conversion.source_report import ConversionReport, SourceReport
from physnet_training.packed import PackedDataset
from physnet_training.storage.durable import publish, write_json, write_sealed
from physnet_training.storage.layout import MANIFEST, REPORT
from physnet_training.storage.shard import Shard, read_manifest
from physnet_training.writer import PackedWriter


def assemble(
    workspace: Workspace, reports: list[SourceReport], on_audit: AuditProgress | None
) -> ConversionReport:
    """Make the dataset out of a workspace whose sources are all converted.

    Every step can be interrupted and is taken up again by the next run.

    Raises:
        ValueError: A piece is damaged, or the target appeared meanwhile.
    """
    plan = _plan(workspace)
    for shard in plan["shards"]:
        _build(workspace, shard, reports)
    folders = [_folder(workspace, shard) for shard in plan["shards"]]
    new = [Shard(folder) for folder in folders]
    report = ConversionReport(
        str(workspace.job.target),
        sum(shard.num_molecules for shard in new),
        sum(shard.num_atoms for shard in new),
        reports,
        len(new),
        _audit(workspace.job.target, plan["first"], new, on_audit),
    )
    _publish(workspace, plan, report)
    return report


def _audit(
    target: Path, num_old: int, new: list[Shard], on_audit: AuditProgress | None
) -> dict[str, Any]:
    """Audit the whole dataset, and each new shard for its own manifest.

    Returns:
        The audit of the whole.
    """
    old = [Shard(folder) for folder in sorted(target.glob("shard-*"))[:num_old]]
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


def _plan(workspace: Workspace) -> dict[str, Any]:
    """Which pieces make which shard; decided once."""
    if workspace.plan_file.exists():
        plan: dict[str, Any] = json.loads(
            workspace.plan_file.read_text(encoding="utf-8")
        )
        _check_root(workspace, plan)
        return plan
    job = workspace.job
    first = len(sorted(job.target.glob("shard-*"))) if job.append else 0
    groups: list[list[dict[str, Any]]] = []
    room = 0
    for index in range(len(job.sources)):
        for folder in finished_pieces(workspace.source(index)):
            taken = piece_taken(folder)
            if taken.num_molecules > room:
                groups.append([])
                room = job.piece_molecules
            room -= taken.num_molecules
            place = folder.relative_to(workspace.path).as_posix()
            groups[-1].append(
                {"folder": place, "source": index, "taken": asdict(taken)}
            )
    if first + len(groups) > MAX_SHARDS:
        raise ValueError(
            f"{first + len(groups)} shards are more than {MAX_SHARDS}; say a larger "
            "--shard-molecules"
        )
    plan = {
        "first": first,
        "root": job.append or job.shard_molecules is not None or len(groups) > 1,
        "shards": [
            {"name": f"shard-{first + number:05d}", "pieces": group}
            for number, group in enumerate(groups)
        ],
    }
    write_json(workspace.plan_file, plan)
    return plan


def _check_root(workspace: Workspace, plan: dict[str, Any]) -> None:
    """The root must be as an interrupted conversion left it.

    Raises:
        ValueError: Shards were added or removed meanwhile.
    """
    target = workspace.job.target
    if not workspace.job.append:
        return
    added = sum((target / shard["name"]).exists() for shard in plan["shards"])
    found = len(list(target.glob("shard-*")))
    if found != plan["first"] + added:
        raise ValueError(
            f"{target} had {plan['first']} shards when this conversion began, now it "
            f"has {found - added} others; remove {workspace.path} to start anew"
        )


def _build(
    workspace: Workspace, shard: dict[str, Any], reports: list[SourceReport]
) -> None:
    """Put one shard together, unless an earlier run has done so."""
    folder = workspace.assembled / shard["name"]
    if _folder(workspace, shard).exists():
        return
    workspace.assembled.mkdir(exist_ok=True)
    provenance = []
    for piece in shard["pieces"]:
        report, taken = reports[piece["source"]], piece["taken"]
        provenance.append(
            {
                "source": piece["source"],
                "path": report.path,
                "sha256": report.sha256,
                "rows": [taken["first_row"], taken["end_row"]],
                "num_molecules": taken["num_molecules"],
                "units": taken["units"],
                "notes": report.notes,
            }
        )
    folders = [workspace.path / piece["folder"] for piece in shard["pieces"]]
    if len(folders) > 1:
        _concatenate(folders, folder, provenance)
        for piece in folders:
            shutil.rmtree(piece)
        return
    manifest = {**read_manifest(folders[0]), "provenance": provenance}
    write_sealed(folders[0] / MANIFEST, manifest)
    publish(folders[0], folder)


def _concatenate(
    folders: list[Path], target: Path, provenance: list[dict[str, Any]]
) -> None:
    """Copy packed directories, one after another, into a new one."""
    dataset = PackedDataset(target, [Shard(folder) for folder in folders])
    fields = dataset.fields - {"level", "group"}
    levels = np.array([*dataset.levels, ""])
    groups = np.array([*dataset.groups, ""])
    with PackedWriter(target, provenance=provenance) as writer:
        for folder in folders:
            writer.report_invalid(read_invalid_rows(folder))
        for piece in pieces(dataset):
            writer.append(
                piece.sizes,
                {name: piece.take(name) for name in fields},
                names=groups[piece.take("group")],
                levels=levels[piece.take("level")],
            )


def _folder(workspace: Workspace, shard: dict[str, Any]) -> Path:
    """Where a shard stands: still hidden, or under its name already."""
    hidden = workspace.assembled / shard["name"]
    published: Path = workspace.job.target / shard["name"]
    return published if workspace.job.append and published.exists() else hidden


def _publish(
    workspace: Workspace, plan: dict[str, Any], report: ConversionReport
) -> None:
    """Give everything its name; a root opens as a dataset at every moment."""
    target = workspace.job.target
    if not plan["root"]:
        publish(workspace.assembled / plan["shards"][0]["name"], target)
        return
    if not workspace.job.append:
        write_sealed(workspace.assembled / REPORT, _root_report({}, plan, report))
        publish(workspace.assembled, target)
        return
    file = target / REPORT
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for shard in plan["shards"]:
        if not (target / shard["name"]).exists():
            publish(workspace.assembled / shard["name"], target / shard["name"])
    write_sealed(file, _root_report(old, plan, report))


def _root_report(
    old: dict[str, Any], plan: dict[str, Any], report: ConversionReport
) -> dict[str, Any]:
    """What stands in a root beside its shards."""
    conversion = {
        "package_version": __version__,
        "shards": [shard["name"] for shard in plan["shards"]],
        "num_molecules": report.num_molecules,
        "num_atoms": report.num_atoms,
        "sources": [asdict(source) for source in report.sources],
    }
    return {
        "conversions": [*old.get("conversions", []), conversion],
        "validation": report.validation,
    }
