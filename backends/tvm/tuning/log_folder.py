"""Tuning logs on disk: a folder for each target, with MetaSchedule's database and a manifest."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import tvm
from tvm.s_tir import meta_schedule

from dechaff.ir import UsageError

FORMAT = 1
MANIFEST = "manifest.json"
WORKLOADS = "database_workload.json"
RECORDS = "database_tuning_record.json"


@dataclasses.dataclass(frozen=True)
class TunedModel:
    """A model that was tuned: where it came from, its hash, and the sizes it was tuned at."""

    source: str
    digest: str
    sizes: dict[str, int]


@dataclasses.dataclass
class Manifest:
    """What a log was made for.

    Attributes:
        target: TVM's target, as plain data.
        versions: TVM's version and those of what took part.
        models: the models tuned, each at its sizes.
    """

    target: dict[str, Any]
    versions: dict[str, str]
    models: list[TunedModel] = dataclasses.field(default_factory=list)


def target_fields(target: Any) -> dict[str, Any]:
    """A target as plain data, by which logs are told apart; the host's part does not count."""
    fields: dict[str, Any] = json.loads(str(target))
    return {key: fields[key] for key in sorted(fields) if key not in ("host", "tag", "keys")}


def folder_name(target: Any) -> str:
    """The name of a target's folder: its kind, what it is for, and a digest of all of it."""
    fields = target_fields(target)
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]
    detail = fields.get("arch") or fields.get("mcpu") or "generic"
    return f"{fields['kind']}-{detail}-{digest}"


def versions() -> dict[str, str]:
    """Versions that a log depends on."""
    return {"tvm": tvm.__version__, "tvm-ffi": importlib.metadata.version("apache-tvm-ffi")}


class TargetLog:
    """The log of one target: a database that grows line by line."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.manifest = _read_manifest(folder / MANIFEST)
        for name in (WORKLOADS, RECORDS):
            _drop_torn_line(folder / name)
        self.database = meta_schedule.database.JSONDatabase(
            str(folder / WORKLOADS), str(folder / RECORDS), allow_missing=True
        )

    @classmethod
    def at(cls, log: str | os.PathLike[str], target: Any) -> TargetLog:
        """The log of a target for writing; made where there is none.

        Raises:
            UsageError: the folder cannot be written to, or its log is of another version of TVM.
        """
        folder = pathlib.Path(log) / folder_name(target)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / MANIFEST).exists():
                _write_manifest(folder / MANIFEST, Manifest(target_fields(target), versions()))
        except OSError as error:
            raise UsageError(f"{folder}: cannot write a tuning log: {error.strerror}") from error
        opened = cls(folder)
        opened.check_version()
        return opened

    @classmethod
    def find(cls, log: str | os.PathLike[str], target: Any) -> TargetLog:
        """The log of a target for reading.

        Raises:
            UsageError: there is none for this target; the message names those that there are.
        """
        place = pathlib.Path(log)
        if not place.is_dir():
            raise UsageError(f"{place}: there is no such tuning log: 'dechaff tune' makes one")
        folder = place / folder_name(target)
        if not (folder / MANIFEST).exists():
            others = ", ".join(path.name for path in target_folders(place)) or "nothing"
            raise UsageError(
                f"{place}: this tuning log holds nothing for {folder_name(target)}; it holds "
                f"{others}: schedules found for one target are of no use on another; tune with "
                f"'dechaff tune --target {target.kind.name} --log {place}'"
            )
        opened = cls(folder)
        opened.check_version()
        return opened

    def check_version(self) -> None:
        """Nothing, if the log is of this version of TVM.

        Raises:
            UsageError: it is not.
        """
        found = self.manifest.versions.get("tvm")
        if found != tvm.__version__:
            raise UsageError(
                f"{self.folder}: tuned with TVM {found}, this is {tvm.__version__}: tune again in "
                "another folder, or install that version"
            )

    def add_model(self, model: TunedModel) -> None:
        """Record that a model is tuned at its sizes."""
        if model not in self.manifest.models:
            self.manifest.models.append(model)
            _write_manifest(self.folder / MANIFEST, self.manifest)

    def best(self, workload: Any, target: Any) -> Any | None:
        """The fastest record for a module with static sizes, or None."""
        if not self.database.has_workload(workload):
            return None
        return self.database.query_tuning_record(workload, target, "main")

    def count(self, workload: Any) -> int:
        """How many schedules of a module have been measured."""
        if not self.database.has_workload(workload):
            return 0
        committed = self.database.commit_workload(workload)
        return len(self.database.get_top_k(committed, 1 << 30))


def target_folders(log: pathlib.Path) -> list[pathlib.Path]:
    """Folders of a log's targets, by name."""
    return sorted(path.parent for path in log.glob(f"*/{MANIFEST}"))


def _drop_torn_line(path: pathlib.Path) -> None:
    """Remove a last line that a kill cut off: every line before it is whole."""
    if not path.exists():
        return
    text = path.read_bytes()
    kept = text[: text.rfind(b"\n") + 1]
    last = text[len(kept) :]
    if last and _is_json(last):
        kept = text + b"\n"
    if kept != text:
        staged = path.with_suffix(".repaired")
        staged.write_bytes(kept)
        os.replace(staged, path)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _read_manifest(path: pathlib.Path) -> Manifest:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.pop("format") != FORMAT:
            raise ValueError("another format")
        models = [TunedModel(**model) for model in fields.pop("models")]
        return Manifest(models=models, **fields)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path}: not a manifest of a tuning log: {error}") from error


def _write_manifest(path: pathlib.Path, manifest: Manifest) -> None:
    staged = path.with_suffix(".new")
    fields = {"format": FORMAT, **dataclasses.asdict(manifest)}
    staged.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    os.replace(staged, path)


def record_lines(folder: pathlib.Path) -> Iterator[tuple[int, Any]]:
    """Workload number and record of each line of a log."""
    path = folder / RECORDS
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        number, record = json.loads(line)
        yield number, record
