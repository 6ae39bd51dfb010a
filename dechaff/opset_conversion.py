"""The opset of a written file: raised by conversion, lowered only where nothing needs the newer."""

from __future__ import annotations

from collections import defaultdict

import onnx.defs
import onnx_ir as ir

from dechaff.ir import Module, UsageError, infer_shapes

_MORE_TYPES_SINCE = {
    "Cast": 13,
    "CastLike": 15,
    "Constant": 13,
    "ConstantOfShape": 9,
    "Equal": 13,
    "Flatten": 13,
    "Identity": 16,
    "If": 16,
    "Loop": 16,
    "Reshape": 14,
    "Scan": 16,
    "Shape": 15,
    "Size": 13,
    "Squeeze": 13,
    "Transpose": 13,
    "Unsqueeze": 13,
}
"""Operators whose later versions only take more types and offer more attributes."""

_LONG_KNOWN_TYPES = frozenset(
    [
        ir.DataType.BOOL,
        ir.DataType.DOUBLE,
        ir.DataType.FLOAT,
        ir.DataType.FLOAT16,
        ir.DataType.INT32,
        ir.DataType.INT64,
    ]
)


def convert_opset(module: Module, opset: int) -> Module:
    """A copy of the module that imports this version of the standard operators.

    A version below the module's own is possible only if every operator it uses meant the same then.

    Raises:
        UsageError: the graph needs a newer opset (the message names the operators), or there is no
            conversion to so new a one.
    """
    converted = module.clone()
    if opset > module.opset:
        _raise_to(converted, opset)
        return converted
    infer_shapes(converted)  # what an operator takes decides which version it needs
    too_new = _operators_newer_than(converted, opset)
    if too_new:
        needed = max(too_new)
        names = ", ".join(sorted(name for version in too_new for name in too_new[version]))
        raise UsageError(
            f"{module.source}: opset {opset} is too low: the optimized graph needs opset {needed} "
            f"for {names}"
        )
    _import_opset(converted.model, opset)
    return converted


def _raise_to(module: Module, opset: int) -> None:
    from onnxscript import version_converter

    before = module.opset
    try:
        version_converter.convert_version(module.model, opset)
    except Exception as error:
        raise UsageError(
            f"{module.source}: cannot convert from opset {before} to {opset}: {error}"
        ) from error
    if module.opset != opset:
        raise UsageError(f"{module.source}: there is no conversion from opset {before} to {opset}")


def _operators_newer_than(module: Module, opset: int) -> dict[int, set[str]]:
    """Operators whose present meaning began after ``opset``, by the version it began in."""
    found: dict[int, set[str]] = defaultdict(set)
    for node in _all_nodes(module.model):
        if node.domain != "" or not onnx.defs.has(node.op_type):
            continue
        since = onnx.defs.get_schema(node.op_type, module.opset, "").since_version
        if since > opset and not _was_the_same(node, opset):
            found[since].add(node.op_type)
    return found


def _was_the_same(node: ir.Node, opset: int) -> bool:
    """Whether this use of the operator had the same meaning at ``opset``."""
    if opset < _MORE_TYPES_SINCE.get(node.op_type, opset + 1):
        return False
    known = onnx.defs.get_schema(node.op_type, opset, "").attributes
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    return all(name in known for name in node.attributes) and all(
        value.dtype in _LONG_KNOWN_TYPES for value in values
    )


def _all_nodes(model: ir.Model) -> list[ir.Node]:
    inside = [node for function in model.functions.values() for node in function.all_nodes()]
    return [*model.graph.all_nodes(), *inside]


def _import_opset(model: ir.Model, opset: int) -> None:
    model.graph.opset_imports[""] = opset
    for function in model.functions.values():
        if "" in function.opset_imports:
            function.opset_imports[""] = opset
