"""What users do with tuning logs: look at them, join them, keep the best of them."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import tvm
from tvm.s_tir import meta_schedule

from dechaff.ir import UsageError

from .log_folder import (
    MANIFEST,
    RECORDS,
    WORKLOADS,
    TargetLog,
    TunedModel,
    record_lines,
    target_folders,
)
from .product_records import MeasuredProduct, add_products, read_products


@dataclasses.dataclass(frozen=True)
class TargetSummary:
    """What a log holds for one target.

    Attributes:
        name: the target's folder.
        target: TVM's target, as plain data.
        versions: TVM's version and others.
        models: the models tuned.
        workloads: kernels at static sizes.
        records: schedules measured.
        products: dense layers measured by a library and by generated code.
    """

    name: str
    target: dict[str, Any]
    versions: dict[str, str]
    models: tuple[TunedModel, ...]
    workloads: int
    records: int
    products: tuple[MeasuredProduct, ...] = ()


def summaries(log: str | os.PathLike[str]) -> list[TargetSummary]:
    """What a log holds, target by target.

    Raises:
        UsageError: there is no such log.
    """
    return [_summary(TargetLog(folder)) for folder in _folders(log)]


def _folders(log: str | os.PathLike[str]) -> list[pathlib.Path]:
    place = pathlib.Path(log)
    folders = target_folders(place)
    if not folders:
        raise UsageError(f"{place}: there is no tuning log here: 'dechaff tune' makes one")
    return folders


def _summary(log: TargetLog) -> TargetSummary:
    path = log.folder / WORKLOADS
    workloads = len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0
    return TargetSummary(
        log.folder.name,
        log.manifest.target,
        log.manifest.versions,
        tuple(log.manifest.models),
        workloads,
        sum(1 for _ in record_lines(log.folder)),
        tuple(read_products(log.folder)),
    )


def merge(destination: str | os.PathLike[str], sources: Sequence[str | os.PathLike[str]]) -> int:
    """Add the records of other logs, each to its own target; records that are there stay single.

    Returns:
        How many records were added.

    Raises:
        UsageError: a source is no log, or two logs of a target are of different versions of TVM.
    """
    added = 0
    for source in sources:
        for folder in _folders(source):
            theirs = TargetLog(folder)
            theirs.check_version()
            ours = TargetLog.at(destination, _target(theirs))
            known = {_key(record) for record in ours.database.get_all_tuning_records()}
            for record in theirs.database.get_all_tuning_records():
                if _key(record) in known:
                    continue
                known.add(_key(record))
                _commit(ours, record)
                added += 1
            for model in theirs.manifest.models:
                ours.add_model(model)
            add_products(ours.folder, read_products(theirs.folder))
    return added


def _target(log: TargetLog) -> Any:
    return tvm.target.Target(log.manifest.target)


def _key(record: Any) -> str:
    return f"{record.workload.mod.script()}\n{record.as_json()}"


def _commit(log: TargetLog, record: Any) -> None:
    workload = log.database.commit_workload(record.workload.mod)
    copy = meta_schedule.database.TuningRecord(
        record.trace, workload, record.run_secs, record.target, record.args_info
    )
    log.database.commit_tuning_record(copy)


def prune(log: str | os.PathLike[str]) -> tuple[int, int]:
    """Keep the best schedule of each kernel.

    Returns:
        How many records there were, and how many are left.

    Raises:
        UsageError: there is no such log.
    """
    before = after = 0
    for folder in _folders(log):
        opened = TargetLog(folder)
        staged = folder.with_name(f".{folder.name}.pruned")
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        shutil.copy(folder / MANIFEST, staged / MANIFEST)
        add_products(staged, read_products(folder))
        kept = meta_schedule.database.JSONDatabase(
            str(staged / WORKLOADS), str(staged / RECORDS), allow_missing=True
        )
        opened.database.dump_pruned(kept)
        before += len(opened.database)
        after += len(kept)
        # The two files belong together: the folder is exchanged as a whole.
        aside = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)
        os.replace(staged, folder)
        shutil.rmtree(aside)
    return before, after
