"""Which operators give the same bits in every correct implementation, and how large they get."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

_MAX_RANK = 64
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
_CAST_TARGETS = (
    *_INTEGERS,
    ir.DataType.BOOL,
    ir.DataType.FLOAT,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT16,
)
_MOVES = frozenset(
    {
        "Concat",
        "ConstantOfShape",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Reshape",
        "Slice",
        "Squeeze",
        "Tile",
        "Transpose",
        "Trilu",
        "Unsqueeze",
        "Where",
    }
)
_LOGIC = frozenset(
    {
        "And",
        "Cast",
        "CastLike",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "Not",
        "Or",
        "Xor",
    }
)
_ARITHMETIC = frozenset({"Abs", "Add", "Div", "Mul", "Neg", "Sqrt", "Sub"})
_INTEGER_ARITHMETIC = frozenset(["Max", "Min", "Range"])
_FOLDABLE = _MOVES | _LOGIC | _ARITHMETIC
"""Operators whose result is the same to the bit in every correct implementation: those that move
data, logic, and the arithmetic that IEEE 754 rounds correctly. ``MatMul``, ``Exp`` and their like
differ in the last bit from one library to the next, and stay."""


def is_same_everywhere(node: ir.Node, operands: list[ir.TensorProtocol | None]) -> bool:
    """Whether every correct implementation computes the same bits from these operands."""
    dtypes = {tensor.dtype for tensor in operands if tensor is not None}
    if ir.DataType.STRING in dtypes or node.outputs[0].dtype is ir.DataType.STRING:
        return False
    if node.op_type in _INTEGER_ARITHMETIC:
        return all(dtype.is_integer() for dtype in dtypes)
    if node.op_type not in _FOLDABLE:
        return False
    divisor = operands[1] if node.op_type == "Div" else None
    if divisor is not None and divisor.dtype.is_integer():
        return bool(np.all(divisor.numpy() != 0))
    if node.op_type in ("Cast", "CastLike") and operands[0] is not None:
        return _is_cast_defined(operands[0], node.outputs[0].dtype)
    return True


def _is_cast_defined(source: ir.TensorProtocol, to: ir.DataType | None) -> bool:
    if to is None or to not in _CAST_TARGETS:
        return False
    if not source.dtype.is_floating_point() or not to.is_integer():
        return True
    elements = source.numpy().astype(np.float64)
    limit = 2.0**31 if to is ir.DataType.INT32 else 2.0**63
    return bool(np.all(np.abs(elements) < limit))


def asked_elements(node: ir.Node, operands: list[ir.TensorProtocol | None]) -> int:
    """At least so many elements come out, counted without overflow, which inference may have."""
    numbers = [
        [int(item) for item in tensor.numpy().reshape(-1)]
        for tensor in operands[1:] or operands
        if tensor is not None and tensor.dtype in _INTEGERS and tensor.size <= _MAX_RANK
    ]
    if node.op_type in ("Tile", "Expand", "ConstantOfShape") and numbers:
        return math.prod(numbers[0])
    if node.op_type == "Range" and operands[0] is not None and len(numbers) == 2:
        start = int(operands[0].numpy())
        return abs(numbers[0][0] - start) // max(1, abs(numbers[1][0]))
    return 0
