"""Which operations make each row of their result from the same row of their operands alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from dechaff.ir import DOMAIN, constant_value, static_dim

from .matching import integer_attribute, permutation, rank, same_dim
from .padding.token_rules import ELEMENTWISE

RowOperands = dict[int, int]
"""Places of the operands that hold rows, each with the axis on which it does."""
_Rule = Callable[[ir.Node, int], RowOperands | None]


def row_operands(node: ir.Node, axis: int) -> RowOperands | None:
    """The operands that hold a row for each row of the result; the others are for all rows.

    Args:
        node: any node.
        axis: the axis of its results, counted from the front, that holds the rows.

    Returns:
        Places and axes; None where a row may depend on other rows, or where shapes do not tell.
    """
    rule = _RULES.get((node.domain, node.op_type))
    if rule is None or any(not output.shape for output in node.outputs):
        return None
    return rule(node, axis)


def _broadcast(node: ir.Node, axis: int, places: Sequence[int] | None = None) -> RowOperands | None:
    """Operands as long as the result on the axis; those of size 1 there are for all rows.

    What has fewer axes than the result is aligned at the last one, as ONNX broadcasts.
    """
    result = node.outputs[0].shape
    found: RowOperands = {}
    for place in range(len(node.inputs)) if places is None else places:
        value = node.inputs[place]
        if value is None:
            continue
        if value.shape is None or result is None:
            return None
        own = axis - len(result) + len(value.shape)
        if own < 0 or static_dim(value.shape[own]) == 1:
            continue
        if not same_dim(value.shape[own], result[axis]):
            return None
        found[place] = own
    return found


def _first(node: ir.Node, axis: int) -> RowOperands | None:
    return {0: axis} if rank(node.inputs[0]) == rank(node.outputs[0]) else None


def _first_two(node: ir.Node, axis: int) -> RowOperands | None:
    return _broadcast(node, axis, (0, 1))


def _normalized(node: ir.Node, axis: int) -> RowOperands | None:
    size = rank(node.outputs[0]) or 0
    return {0: axis} if integer_attribute(node, "axis", -1) % size > axis else None


def _along_other_axis(default: int) -> _Rule:
    def rule(node: ir.Node, axis: int) -> RowOperands | None:
        size = rank(node.outputs[0]) or 0
        if integer_attribute(node, "axis", default) % size == axis:
            return None
        places = range(len(node.inputs)) if node.op_type == "Concat" else (0,)
        return dict.fromkeys(places, axis)

    return rule


def _matrix_product(node: ir.Node, axis: int) -> RowOperands | None:
    left, right = (rank(value) for value in node.inputs[:2])
    return {0: axis} if right == 2 and left is not None and axis < left - 1 else None


def _affine_product(node: ir.Node, axis: int) -> RowOperands | None:
    if axis != 0 or integer_attribute(node, "transA", 0):
        return None
    added = _broadcast(node, axis, (2,)) if len(node.inputs) > 2 else {}
    return None if added is None else {0: axis, **added}


def _with_scale(node: ir.Node, axis: int) -> RowOperands | None:
    """``QuantizeLinear`` and its reverse with one scale, or one for each index of another axis."""
    scale = node.inputs[1]
    if scale is None or scale.shape is None or len(scale.shape) > 1:
        return None
    one_scale = len(scale.shape) == 0 or static_dim(scale.shape[0]) == 1
    size = rank(node.outputs[0]) or 0
    if one_scale or integer_attribute(node, "axis", 1) % size != axis:
        return _first(node, axis)
    return None


def _reshaped(node: ir.Node, axis: int) -> RowOperands | None:
    """``Reshape`` of what stands behind the first axis, to a shape that does not count rows."""
    source, shape = node.inputs[0], constant_value(node.inputs[1])
    result = node.outputs[0].shape
    if axis != 0 or source is None or not source.shape or shape is None or not result:
        return None
    if integer_attribute(node, "allowzero", 0) or not same_dim(source.shape[0], result[0]):
        return None
    return {0: axis} if int(shape.numpy().reshape(-1)[0]) in (0, -1) else None


def _transposed(node: ir.Node, axis: int) -> RowOperands | None:
    order = permutation(node)
    return {0: axis} if order is not None and order[axis] == axis else None


_RULES: dict[tuple[str, str], _Rule] = {
    **{("", name): _broadcast for name in ELEMENTWISE},
    ("", "Concat"): _along_other_axis(0),
    ("", "DequantizeLinear"): _with_scale,
    ("", "Gemm"): _affine_product,
    ("", "LayerNormalization"): _normalized,
    ("", "LogSoftmax"): _along_other_axis(-1),
    ("", "MatMul"): _matrix_product,
    ("", "QuantizeLinear"): _with_scale,
    ("", "RMSNormalization"): _normalized,
    ("", "Reshape"): _reshaped,
    ("", "Softmax"): _along_other_axis(-1),
    ("", "Split"): _along_other_axis(0),
    ("", "Transpose"): _transposed,
    (DOMAIN, "BiasGelu"): _first,
    (DOMAIN, "BiasSkipLayerNormalization"): _first_two,
    (DOMAIN, "QuantizePerToken"): _first,
    (DOMAIN, "QuantizedMatMul"): _first_two,
    (DOMAIN, "SkipLayerNormalization"): _first_two,
    (DOMAIN, "SkipRMSNormalization"): _first_two,
}
