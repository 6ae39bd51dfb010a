"""The file of a trace: gzip-compressed JSON as ``trace.schema.json`` describes it."""

from __future__ import annotations

import difflib
import gzip
import json
import os
import pathlib
import zlib
from typing import Any

from dechaff.ir import UsageError

from .file_replacement import replace_file, staging_folder
from .trace_graph import GraphData

FORMAT = "dechaff-trace"
VERSION = 1
_MAGIC = b"\x1f\x8b"
_MAX_BYTES = 512 * 1024 * 1024
"""A trace that unpacks to more is taken for an attack on memory, not for a trace."""


def graph_difference(before: GraphData, after: GraphData) -> dict[str, Any]:
    """What turns one graph into the other; empty if they are equal.

    ``nodes`` and ``weights`` hold what is new or differs, ``removed`` and ``removed_weights`` what
    is gone. ``order`` edits the list of node ids: ``[start, stop, ids]`` replaces a range, ranges
    counted in the list before and given from last to first.
    """
    difference = {
        "removed": [name for name in before["nodes"] if name not in after["nodes"]],
        "nodes": _new_or_different(before["nodes"], after["nodes"]),
        "order": _order_edits(before["order"], after["order"]),
        "removed_weights": [name for name in before["weights"] if name not in after["weights"]],
        "weights": _new_or_different(before["weights"], after["weights"]),
    }
    interface = {k: after[k] for k in ("inputs", "outputs") if before[k] != after[k]}
    return {key: value for key, value in difference.items() if value} | interface


def apply_difference(before: GraphData, difference: dict[str, Any]) -> GraphData:
    """The graph after, from the graph before and their difference; neither is changed."""
    order = list(before["order"])
    for start, stop, names in difference.get("order", []):
        order[start:stop] = names
    nodes = before["nodes"] | difference.get("nodes", {})
    gone = set(difference.get("removed_weights", []))
    weights = before["weights"] | difference.get("weights", {})
    return {
        "inputs": difference.get("inputs", before["inputs"]),
        "outputs": difference.get("outputs", before["outputs"]),
        "order": order,
        "nodes": {name: nodes[name] for name in order},
        "weights": {name: data for name, data in weights.items() if name not in gone},
    }


def _new_or_different(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {name: data for name, data in after.items() if before.get(name) != data}


def _order_edits(before: list[str], after: list[str]) -> list[list[Any]]:
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    edits = [
        [start, stop, after[new_start:new_stop]]
        for tag, start, stop, new_start, new_stop in matcher.get_opcodes()
        if tag != "equal"
    ]
    return edits[::-1]


def pack_trace(trace: dict[str, Any]) -> bytes:
    """The bytes of a trace file; equal traces give equal bytes."""
    text = json.dumps(trace, separators=(",", ":"), allow_nan=False)
    return gzip.compress(text.encode("utf-8", "replace"), compresslevel=6, mtime=0)


def write_trace(trace: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a trace as a whole or not at all.

    Raises:
        UsageError: the folder does not exist or cannot be written to.
    """
    target = pathlib.Path(path)
    with staging_folder(target) as folder:
        staged = folder / target.name
        staged.write_bytes(pack_trace(trace))
        replace_file(staged, target)


def is_trace(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins like a trace (an ONNX model never does)."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def read_trace(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a trace file.

    Raises:
        UsageError: no such file, not a trace, damaged, or of a version this dechaff cannot read.
    """
    try:
        with gzip.open(path) as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{os.fspath(path)}: cannot be read as a trace: {error}") from error
    if len(content) > _MAX_BYTES:
        raise UsageError(f"{os.fspath(path)}: unpacks to more than {_MAX_BYTES} bytes")
    try:
        trace = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{os.fspath(path)}: not a trace: {error}") from error
    if not isinstance(trace, dict) or trace.get("format") != FORMAT:
        raise UsageError(f"{os.fspath(path)}: not a trace: expected format {FORMAT!r}")
    if trace.get("version") != VERSION:
        raise UsageError(
            f"{os.fspath(path)}: a trace of version {trace.get('version')!r}; this dechaff reads "
            f"version {VERSION}"
        )
    return trace
