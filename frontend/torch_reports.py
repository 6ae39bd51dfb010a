"""What torch could not capture or convert, said in the terms of the model's own source."""

from __future__ import annotations

import inspect
import linecache
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from dechaff.ir import ModelRejectedError

from .torch_onnx_exporter import operator_registry

_TORCH_FOLDER = str(Path(inspect.getfile(torch)).parent)
_OUR_FOLDER = str(Path(__file__).resolve().parent)
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


def capture_failure(module: torch.nn.Module, error: Exception) -> ModelRejectedError:
    """The one line that says why and where a module could not be captured."""
    name = type(module).__name__
    place = _user_place(error)
    where = f" at {place}" if place else ""
    if isinstance(error, GuardOnDataDependentSymNode):
        return ModelRejectedError(
            f"{name}: the computation depends on tensor values{where}; a graph has no such branch: "
            "use torch.where, torch.cond or a fixed choice"
        )
    reason = str(error).strip().splitlines()
    return ModelRejectedError(
        f"{name}: torch.export cannot capture it{where}: "
        f"{type(error).__name__}: {reason[0] if reason else ''}"
    )


def _user_place(error: BaseException) -> str | None:
    """Source line of the innermost frame that belongs neither to torch nor to us."""
    found = None
    for frame in traceback.extract_tb(error.__traceback__):
        path = str(Path(frame.filename))
        if path.startswith((_TORCH_FOLDER, _OUR_FOLDER)) or "<" in path:
            continue
        found = (path, frame.lineno or 0)
    if found is None:
        return None
    return _place(*found)


def _place(path: str, line: int) -> str:
    code = linecache.getline(path, line).strip()
    return f"{path}:{line}: {code}" if code else f"{path}:{line}"


def conversion_failure(name: str, program: ExportedProgram, error: Exception) -> ModelRejectedError:
    """All operators that have no ONNX counterpart, each with its source line."""
    unsupported = list(dict.fromkeys(_unsupported(program)))
    if not unsupported:
        reason = str(error.__cause__ or error).strip().splitlines()
        return ModelRejectedError(
            f"{name}: torch.onnx.export failed: {reason[0] if reason else type(error).__name__}"
        )
    lines = "\n".join(f"  {line}" for line in unsupported)
    return ModelRejectedError(
        f"{name}: {len(unsupported)} operator(s) have no ONNX counterpart:\n{lines}"
    )


def _unsupported(program: ExportedProgram) -> Iterator[str]:
    # The exporter stops at the first; its own tables, which have no public name, know them all.
    try:
        from torch.onnx._internal.exporter import _core, _dispatching

        registry = operator_registry()
        program = _core._prepare_exported_program_for_export(program, registry=registry)
    except Exception:
        return
    for node in program.graph.nodes:
        if node.op != "call_function" or isinstance(node.target, torch._ops.HigherOrderOperator):
            continue
        function, _ = _dispatching.dispatch(node, registry)
        if function is None:
            place = _node_place(node)
            yield f"{node.target}{f' at {place}' if place else ''}"


def _node_place(node: torch.fx.Node) -> str | None:
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if not frame[0].startswith(_TORCH_FOLDER)]
    if not own:
        return None
    path, line = own[-1]
    return _place(path, int(line))
