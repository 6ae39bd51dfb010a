"""Traces of models that no run made: one ONNX file as it is, or two beside each other."""

from __future__ import annotations

import logging
import os
from typing import Any

import onnx_ir.passes.common as common_passes

from dechaff.ir import DechaffError, Module, infer_shapes, stamp_origins
from dechaff.passes import GraphSize, measure

from .graph_matching import align_names
from .input_generation import generate_inputs
from .model_import import batches_of, example_cases
from .nominal_sizes import nominal_sizes, used_sizes
from .trace import finite, size_data
from .trace_file import FORMAT, VERSION, graph_difference
from .trace_graph import GraphRecorder
from .value_errors import errors_of_models
from .versions import package_versions

_LOG = logging.getLogger("dechaff.viewer")

Path = str | os.PathLike[str]


def trace_of_models(
    source: Path, other: Path | None = None, *, errors: bool = False, inputs: Any = None
) -> dict[str, Any]:
    """The trace of one model (no steps), or of two (one step that leads from one to the other).

    Args:
        source: an ONNX file.
        other: another one.
        errors: run both models and record how far the values they share are apart.
        inputs: arrays by input name of the first, to run them on; generated if None.

    Raises:
        ModelRejectedError: a file cannot be read as an ONNX model.
    """
    module = _read(source, to_compare=other is not None)
    recorder = GraphRecorder()
    before = recorder.record(module)
    modules, steps = [module], []
    if other is not None:
        second = _read(other, to_compare=True)
        modules.append(second)
        after = align_names(before, recorder.record(second))
        step: dict[str, Any] = {
            "name": f"{module.source} to {second.source}",
            "kind": "comparison",
            "summary": "Operators are matched by name, by what they compute, by weights, by place.",
            "changed": True,
            "difference": graph_difference(before, after),
        }
        found = _errors(module, second, inputs) if errors else None
        if found is not None:
            step["node_errors"] = found
        sizes = [_measure(each) for each in modules]
        if sizes[0] is not None and sizes[1] is not None:
            step |= {"before": size_data(sizes[0]), "after": size_data(sizes[1])}
        steps.append(step)
    known = [size for size in map(_measure, modules) if size is not None]
    data: dict[str, Any] = finite(
        {
            "format": FORMAT,
            "version": VERSION,
            "kind": "model" if other is None else "comparison",
            "source": module.source,
            "options": {},
            "versions": package_versions(),
            "sizes": used_sizes(nominal_sizes(module), known),
            "initial": before,
            "steps": steps,
        }
    )
    return data


def _read(path: Path, *, to_compare: bool) -> Module:
    """The model as it is, with names, module paths and shapes where they can be had.

    To be compared, constants are initializers: one exporter writes these, another those.
    """
    from dechaff.frontend import read_onnx, record_module_paths

    module = read_onnx(path)
    if to_compare:
        common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(
            module.model
        )
    record_module_paths(module.model)
    stamp_origins(module.graph)
    try:
        infer_shapes(module)
    except (DechaffError, ValueError, RuntimeError) as error:
        _LOG.warning("%s: shapes are shown as the file has them: %s", module.source, error)
    return module


def _errors(first: Module, second: Module, inputs: Any) -> dict[str, Any] | None:
    cases = example_cases(first, batches_of(inputs)) or generate_inputs(first)
    found = errors_of_models(first, second, cases)
    if found is None:
        _LOG.warning("%s: errors are not shown: the two cannot be run beside it", first.source)
    return found


def _measure(module: Module) -> GraphSize | None:
    try:
        return measure(module)
    except (DechaffError, ValueError, IndexError, TypeError, AttributeError):
        return None  # a graph that is only looked at need not obey the operators' rules
