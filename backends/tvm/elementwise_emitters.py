"""Operators that work on each element, and the broadcasting between their operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax, tirx

from .emission import Emission, Expr, LoweringError, attribute, dtype_text


def broadcast(emission: Emission, operands: Sequence[Expr], own_axes: int = 0) -> list[Expr]:
    """Operands whose sizes TVM can see to be equal or 1, all but the last ``own_axes``.

    Where two sizes bear different names, they must be equal at run time, and are checked there.
    """
    aligned = list(operands)
    rank = max((len(emission.shape(item)) for item in aligned), default=0)
    for axis in range(own_axes + 1, rank + 1):
        known = None
        for index, item in enumerate(aligned):
            shape = emission.shape(item)
            if axis > len(shape) or _is_one(shape[-axis]):
                continue
            if known is None:
                known = shape[-axis]
            elif not emission.sizes.equal(known, shape[-axis]):
                aligned[index] = emission.match(item, [*shape[:-axis], known, *_after(shape, axis)])
    return aligned


def _after(shape: list[Any], axis: int) -> list[Any]:
    return shape[len(shape) - axis + 1 :]


def _is_one(size: Any) -> bool:
    return isinstance(size, tirx.IntImm) and int(size) == 1


def unary(function: Callable[[Expr], Expr]) -> Any:
    """An emitter for an operator of one operand."""
    return lambda emission, node: function(emission.tensor(node.inputs[0]))


def in_float32(function: Callable[[Expr], Expr]) -> Any:
    """An emitter that computes in float32 at least, and rounds the result."""

    def emit(emission: Emission, node: ir.Node) -> Expr:
        return widened(emission, emission.tensor(node.inputs[0]), function)

    return emit


def widened(emission: Emission, x: Expr, function: Callable[[Expr], Expr]) -> Expr:
    """The function of a 16-bit value, computed in float32."""
    dtype = emission.dtype(x)
    if dtype not in ("float16", "bfloat16"):
        return function(x)
    wide = emission.emit(function(emission.emit(relax.op.astype(x, "float32"))))
    return relax.op.astype(wide, dtype)


def variadic(function: Callable[[Expr, Expr], Expr]) -> Any:
    """An emitter for an operator that takes two operands or more."""

    def emit(emission: Emission, node: ir.Node) -> Expr:
        operands = broadcast(emission, emission.tensors(node))
        result = operands[0]
        for operand in operands[1:]:
            result = emission.emit(function(result, operand))
        return result

    return emit


def emit_equal(emission: Emission, node: ir.Node) -> Expr:
    """``Equal``: truth values are compared as integers, as TVM compares them as floats for LLVM."""
    left, right = broadcast(emission, emission.tensors(node))
    if emission.dtype(left) == "bool":
        left, right = (emission.emit(relax.op.astype(item, "int8")) for item in (left, right))
    return relax.op.equal(left, right)


def emit_pow(emission: Emission, node: ir.Node) -> Expr:
    """``Pow``: the exponent may be of another type."""
    base, exponent = (emission.tensor(value) for value in node.inputs)
    known = emission.array(node.inputs[1])
    if known is not None and known.size == 1 and float(known.reshape(())) == 2.0:
        return relax.op.multiply(base, base)
    if emission.dtype(exponent) != emission.dtype(base):
        exponent = emission.emit(relax.op.astype(exponent, emission.dtype(base)))
    return relax.op.power(*broadcast(emission, [base, exponent]))


def emit_mod(emission: Emission, node: ir.Node) -> Expr:
    """``Mod``: the sign of the divisor, or of the dividend with ``fmod``."""
    operation = relax.op.mod if attribute(node, "fmod", 0) else relax.op.floor_mod
    return operation(*broadcast(emission, emission.tensors(node)))


def emit_gelu(emission: Emission, node: ir.Node) -> Expr:
    """``Gelu``, exact or by tanh."""
    return gelu(emission, emission.tensor(node.inputs[0]), attribute(node, "approximate", "none"))


def gelu(emission: Emission, x: Expr, approximate: str) -> Expr:
    """GELU of a tensor, computed in float32."""
    function = relax.op.nn.gelu_tanh if approximate == "tanh" else relax.op.nn.gelu
    return widened(emission, x, function)


def emit_bias_gelu(emission: Emission, node: ir.Node) -> Expr:
    """``BiasGelu``: the sum is not rounded on the way."""
    x, bias = emission.tensors(node)
    dtype = emission.dtype(x)
    if dtype != "float32":
        x, bias = (emission.emit(relax.op.astype(item, "float32")) for item in (x, bias))
    biased = emission.emit(relax.op.add(x, bias))
    result = emission.emit(gelu(emission, biased, attribute(node, "approximate", "none")))
    return relax.op.astype(result, dtype)


def emit_clip(emission: Emission, node: ir.Node) -> Expr:
    """``Clip`` between two scalars, each of which may be missing."""
    result = emission.tensor(node.inputs[0])
    bounds = [*node.inputs[1:], None, None][:2]
    for bound, operation in zip(bounds, (relax.op.maximum, relax.op.minimum), strict=True):
        if bound is not None:
            result = emission.emit(operation(result, emission.tensor(bound)))
    return result


def emit_cast(emission: Emission, node: ir.Node) -> Expr:
    """``Cast``: to bool, everything but zero is true."""
    return cast(
        emission, emission.tensor(node.inputs[0]), dtype_text(ir.DataType(attribute(node, "to", 1)))
    )


def emit_cast_like(emission: Emission, node: ir.Node) -> Expr:
    """``CastLike``."""
    return cast(
        emission,
        emission.tensor(node.inputs[0]),
        emission.dtype(emission.tensor(node.inputs[1])),
    )


def cast(emission: Emission, x: Expr, dtype: str) -> Expr:
    """The tensor in another dtype, by ONNX's rules."""
    if dtype == "bool" and emission.dtype(x) != "bool":
        return relax.op.not_equal(x, emission.constant(np.zeros((), emission.dtype(x))))
    return relax.op.astype(x, dtype)


def emit_where(emission: Emission, node: ir.Node) -> Expr:
    """``Where``."""
    return relax.op.where(*broadcast(emission, emission.tensors(node)))


def emit_leaky_relu(emission: Emission, node: ir.Node) -> Expr:
    """``LeakyRelu``."""
    return relax.op.nn.leakyrelu(emission.tensor(node.inputs[0]), attribute(node, "alpha", 0.01))


def emit_is_nan(emission: Emission, node: ir.Node) -> Expr:
    """``IsNaN``: what is not equal to itself."""
    x = emission.tensor(node.inputs[0])
    return relax.op.not_equal(x, x)


def emit_identity(emission: Emission, node: ir.Node) -> Expr:
    """``Identity``, and ``Dropout`` outside training."""
    if len([output for output in node.outputs if output.uses()]) > 1:
        raise LoweringError("the mask of a Dropout is not computed")
    return emission.tensor(node.inputs[0])
