"""Rules of ``canonicalize`` for elementwise operators; exact to the bit, NaN and -0 included."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dechaff.ir import constant_value

from .matching import as_large_as, made_by
from .replacement import Replacement, forward
from .rewriter import Rewriter

_MAX_NEUTRAL_ELEMENTS = 1 << 16
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_WIDER_INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)
_LOSSLESS = {
    ir.DataType.BOOL: (*_WIDER_INTEGERS, *_FLOATS),
    ir.DataType.UINT8: (*_WIDER_INTEGERS, ir.DataType.FLOAT, ir.DataType.DOUBLE),
    ir.DataType.INT8: (*_WIDER_INTEGERS, ir.DataType.FLOAT, ir.DataType.DOUBLE),
    ir.DataType.INT32: (ir.DataType.INT64, ir.DataType.DOUBLE),
    ir.DataType.FLOAT16: (ir.DataType.FLOAT, ir.DataType.DOUBLE),
    ir.DataType.BFLOAT16: (ir.DataType.FLOAT, ir.DataType.DOUBLE),
    ir.DataType.FLOAT: (ir.DataType.DOUBLE,),
}
"""Conversions after which every number is still the same number."""


def remove_dropout(node: ir.Node, rewriter: Rewriter) -> Replacement | None:
    """``Dropout(x)`` outside training is ``x``."""
    x = node.inputs[0]
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is not None:
        flag = constant_value(training)
        if flag is None or bool(flag.numpy().any()):
            rewriter.miss("remove-dropout", node, "training_mode is not a constant false")
            return None
    if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        rewriter.miss("remove-dropout", node, "its mask output is in use")
        return None
    return None if x is None else forward("remove-dropout", x, node)


def remove_cast(node: ir.Node, _: Rewriter) -> Replacement | None:
    """``Cast(x)`` to the dtype of ``x`` is ``x``; a lossless cast before a cast is not needed."""
    x, to = node.inputs[0], node.attributes["to"].as_int()
    if x is None or x.dtype is None:
        return None
    if x.dtype == to:
        return forward("remove-same-type-cast", x, node)
    inner = made_by(x, "Cast")
    source = inner.inputs[0] if inner is not None else None
    if inner is None or source is None or source.dtype is None or to == ir.DataType.STRING:
        return None
    if x.dtype not in _LOSSLESS.get(source.dtype, ()):
        return None
    return Replacement(
        "merge-casts", [inner, node], lambda builder: builder.op("Cast", [source], {"to": to})
    )


def _neutral_element(op_type: str, dtype: ir.DataType | None) -> float:
    """What leaves the other operand as it is: ``x + 0.0`` does not, it turns -0.0 into 0.0."""
    if op_type in ("Mul", "Div"):
        return 1.0
    if op_type == "Sub":
        return 0.0
    return -0.0 if dtype in _FLOATS else 0.0


def remove_neutral_operand(node: ir.Node, _: Rewriter) -> Replacement | None:
    """``x * 1``, ``x / 1``, ``x - 0`` and, where it is exact, ``x + 0`` are ``x``."""
    left, right = node.inputs[:2]
    pairs = [(left, right)] if node.op_type in ("Sub", "Div") else [(left, right), (right, left)]
    for x, operand in pairs:
        tensor = constant_value(operand)
        if x is None or tensor is None or tensor.size > _MAX_NEUTRAL_ELEMENTS:
            continue
        neutral = _neutral_element(node.op_type, x.dtype)
        if not as_large_as(x, operand) or tensor.dtype is ir.DataType.STRING:
            continue
        elements = tensor.numpy().astype(np.float64)
        same_sign = np.signbit(elements) == np.signbit(neutral)
        if bool(np.all((elements == neutral) & same_sign)):
            return forward("remove-neutral-operand", x, node)
    return None


def divide_by_power_of_two(node: ir.Node, _: Rewriter) -> Replacement | None:
    """``x / c`` is ``x * (1 / c)`` to the bit if ``1 / c`` has no rounding error."""
    x, tensor = node.inputs[0], constant_value(node.inputs[1])
    if x is None or tensor is None or tensor.size > _MAX_NEUTRAL_ELEMENTS:
        return None
    if tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16):
        return None
    divisor = tensor.numpy()
    mantissa, _exponent = np.frexp(divisor)
    with np.errstate(all="ignore"):
        reciprocal = (1 / divisor).astype(divisor.dtype)
    smallest = np.finfo(divisor.dtype).tiny
    normal = np.isfinite(reciprocal) & (np.abs(reciprocal) >= smallest)
    if not bool(np.all((np.abs(mantissa) == 0.5) & normal)):
        return None
    return Replacement(
        "divide-by-power-of-two",
        [node],
        lambda builder: builder.op("Mul", [x, builder.constant(reciprocal, "reciprocal")]),
    )
