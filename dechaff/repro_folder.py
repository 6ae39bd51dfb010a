"""A folder that shows one fault by itself: two models, their inputs, and what to run."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import numpy as np

from dechaff.ir import UsageError, graph_lines, structural_diff

from .fault_search import Fault
from .file_replacement import staging_folder
from .model_files import save_module
from .reduction import Reduced
from .versions import package_versions

_VERIFY = "dechaff verify before.onnx after.onnx --inputs inputs.npz"


def check_repro_folder(output: str | os.PathLike[str]) -> None:
    """Refuse a folder whose files would be mixed with the repro.

    Raises:
        UsageError: it has files in it, or cannot be made.
    """
    folder = pathlib.Path(output)
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"the folder {folder} is not empty; name a new one")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder")
    if not folder.absolute().parent.is_dir():
        raise UsageError(f"the folder {folder.parent} does not exist")


def write_repro(
    output: str | os.PathLike[str],
    source: str,
    fault: Fault,
    reduced: Reduced | None,
    command: str,
) -> None:
    """Write the folder, as a whole or not at all.

    Args:
        output: the folder.
        source: the model that was searched.
        fault: what was found.
        reduced: the two models; None if the pass fails outright: the model before it is written.
        command: what repeats the search.

    Raises:
        UsageError: it cannot be written.
    """
    target = pathlib.Path(output).absolute()
    with staging_folder(target) as staging:
        folder = staging / "repro"
        folder.mkdir()
        if reduced is None:
            save_module(fault.before, folder / "before.onnx", metadata={})
        else:
            save_module(reduced.before, folder / "before.onnx", metadata={})
            save_module(reduced.after, folder / "after.onnx", metadata={})
            np.savez(folder / "inputs.npz", **reduced.inputs)  # type: ignore[arg-type]
        data = json.dumps(_data(source, fault, reduced, command), indent=2) + "\n"
        (folder / "fault.json").write_text(data, encoding="utf-8")
        (folder / "README.md").write_text(
            _readme(source, fault, reduced, command), encoding="utf-8"
        )
        if target.exists():
            target.rmdir()
        os.replace(folder, target)


def _data(source: str, fault: Fault, reduced: Reduced | None, command: str) -> dict[str, Any]:
    rewrite = fault.rewrite
    return {
        "source": source,
        "culprit": fault.culprit,
        "rewrite": fault.number,
        "rewrites": fault.count,
        "rule": rewrite.rule if rewrite is not None else None,
        "origins": list(rewrite.origins) if rewrite is not None else [],
        "problem": fault.problem,
        "shown_by_repro": reduced is not None and reduced.problem is not None,
        "checks": fault.checks,
        "command": command,
        "versions": package_versions(),
    }


def _readme(source: str, fault: Fault, reduced: Reduced | None, command: str) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    lines = [
        f"# {fault.culprit} makes {source} wrong",
        "",
        f"At fault: {fault}.",
        f"What is wrong: {fault.problem}.",
        f"Found in {fault.checks} checks by `{command}`, with {versions}.",
        "",
    ]
    if reduced is None:
        lines += ["`before.onnx` is the model on which the pass fails.", ""]
        return "\n".join(lines)
    shows = "" if reduced.problem is not None else " (the two agree: it shows in the whole only)"
    lines += [
        "`before.onnx` is right, `after.onnx` is one rewrite later, `inputs.npz` their inputs:",
        "",
        f"    {_VERIFY}",
        "",
        f"On them: {reduced.problem or 'no difference'}{shows}.",
        "",
        "Before:",
        "",
        *(f"    {line}" for line in graph_lines(reduced.before)),
        "",
        "What changed:",
        "",
        *(f"    {line}" for line in structural_diff(reduced.before, reduced.after).splitlines()),
        "",
    ]
    return "\n".join(lines)
