"""Softmax, reductions and normalizations: statistics are computed in float32 at least."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from .elementwise_emitters import broadcast, widened
from .emission import Emission, Expr, attribute
from .shape_emitters import axes_of


def emit_softmax(emission: Emission, node: ir.Node) -> Expr:
    """``Softmax``."""
    axis = attribute(node, "axis", -1)
    return widened(
        emission, emission.tensor(node.inputs[0]), lambda x: relax.op.nn.softmax(x, axis)
    )


def emit_log_softmax(emission: Emission, node: ir.Node) -> Expr:
    """``LogSoftmax``."""
    axis = attribute(node, "axis", -1)
    return widened(
        emission, emission.tensor(node.inputs[0]), lambda x: relax.op.nn.log_softmax(x, axis)
    )


def reduction(function: Callable[..., Expr]) -> Any:
    """An emitter for a reduction over axes, which are an input or an attribute."""

    def emit(emission: Emission, node: ir.Node) -> Expr:
        axes, keep = axes_of(emission, node), bool(attribute(node, "keepdims", 1))
        x = emission.tensor(node.inputs[0])
        if not axes and attribute(node, "noop_with_empty_axes", 0):
            return x
        return widened(emission, x, lambda value: function(value, axes or None, keep))

    return emit


def sum_of_squares(x: Expr, axes: list[int] | None, keep: bool) -> Expr:
    """The sum of squares over axes."""
    return relax.op.sum(relax.op.multiply(x, x), axes, keep)


def euclidean_norm(x: Expr, axes: list[int] | None, keep: bool) -> Expr:
    """The square root of the sum of squares over axes."""
    return relax.op.sqrt(sum_of_squares(x, axes, keep))


def emit_layer_normalization(emission: Emission, node: ir.Node) -> Expr:
    """``LayerNormalization`` over all axes from ``axis`` on."""
    x = emission.tensor(node.inputs[0])
    weight, bias = emission.tensor(node.inputs[1]), _optional(emission, node, 2)
    axis = attribute(node, "axis", -1)
    return normalize(emission, x, weight, bias, attribute(node, "epsilon", 1e-5), axis)


def emit_rms_normalization(emission: Emission, node: ir.Node) -> Expr:
    """``RMSNormalization`` over all axes from ``axis`` on."""
    x, weight = emission.tensors(node)
    axis, epsilon = attribute(node, "axis", -1), attribute(node, "epsilon", 1e-5)
    return normalize(emission, x, weight, None, epsilon, axis, centered=False)


def emit_skip_layer_normalization(emission: Emission, node: ir.Node) -> list[Expr]:
    """``SkipLayerNormalization`` and ``BiasSkipLayerNormalization``."""
    x, skip, weight, bias, *dense_bias = emission.tensors(node)
    return _skip(emission, node, [x, *dense_bias, skip], weight, bias)


def emit_skip_rms_normalization(emission: Emission, node: ir.Node) -> list[Expr]:
    """``SkipRMSNormalization``."""
    x, skip, weight = emission.tensors(node)
    return _skip(emission, node, [x, skip], weight, None)


def _skip(
    emission: Emission, node: ir.Node, terms: list[Expr], weight: Expr, bias: Expr | None
) -> list[Expr]:
    total = terms[0]
    for term in terms[1:]:
        total = emission.emit(relax.op.add(*broadcast(emission, [total, term])))
    centered = node.op_type != "SkipRMSNormalization"
    epsilon = attribute(node, "epsilon", 1e-5)
    return [normalize(emission, total, weight, bias, epsilon, -1, centered=centered), total]


def _optional(emission: Emission, node: ir.Node, index: int) -> Expr | None:
    given = len(node.inputs) > index and node.inputs[index] is not None
    return emission.tensor(node.inputs[index]) if given else None


def normalize(
    emission: Emission,
    x: Expr,
    weight: Expr,
    bias: Expr | None,
    epsilon: float,
    axis: int,
    *,
    centered: bool = True,
) -> Expr:
    """Layer or RMS normalization in two walks: the mean first, then the deviations from it.

    One walk that sums squares beside values, as in TVM's own operator, loses the small variance of
    a row with a large mean.
    """
    shape = emission.shape(x)
    first = axis % len(shape)
    if len(emission.shape(weight)) != len(shape) - first:
        return _normalize_by_operators(emission, x, weight, bias, epsilon, first, centered)
    operands = [x, weight] if bias is None else [x, weight, bias]
    return emission.emit_te(
        lambda *tensors: _normalization(list(tensors), first, epsilon, centered),
        *operands,
        name="layer_norm" if centered else "rms_norm",
    )


def _normalization(tensors: list[Any], first: int, epsilon: float, centered: bool) -> Any:
    x, weight = tensors[:2]
    lead, inner = x.shape[:first], x.shape[first:]
    count = tirx.const(1, "int64")
    for size in inner:
        count = count * size
    wide = "float64" if str(x.dtype) == "float64" else "float32"

    def total(term: Callable[..., Any], name: str) -> Any:
        axes = [te.reduce_axis((0, size), name=f"{name}_k{i}") for i, size in enumerate(inner)]
        return te.compute(lead, lambda *row: te.sum(term(*row, *axes), axis=axes), name=name)

    mean = None
    if centered:
        mean = total(lambda *place: x(*place).astype(wide), "row_sum")

    def deviation(*place: Any) -> Any:
        value = x(*place).astype(wide)
        return value if mean is None else value - mean(*place[:first]) / count.astype(wide)

    squares = total(lambda *place: deviation(*place) * deviation(*place), "square_sum")

    def element(*place: Any) -> Any:
        variance = squares(*place[:first]) / count.astype(wide)
        scaled = deviation(*place) * tirx.rsqrt(variance + tirx.const(epsilon, wide))
        result = scaled * weight(*place[first:]).astype(wide)
        if len(tensors) > 2:
            result = result + tensors[2](*place[first:]).astype(wide)
        return result.astype(x.dtype)

    return te.compute(x.shape, element, name="normalized")


def _normalize_by_operators(
    emission: Emission,
    x: Expr,
    weight: Expr,
    bias: Expr | None,
    epsilon: float,
    first: int,
    centered: bool,
) -> Expr:
    """For a weight that is broadcast, which is rare."""
    axes, dtype = list(range(first, len(emission.shape(x)))), emission.dtype(x)
    value = emission.emit(relax.op.astype(x, "float32"))
    if centered:
        mean = emission.emit(relax.op.mean(value, axes, True))
        value = emission.emit(relax.op.subtract(value, mean))
    square = emission.emit(
        relax.op.mean(emission.emit(relax.op.multiply(value, value)), axes, True)
    )
    shifted = emission.emit(relax.op.add(square, emission.constant(np.array(epsilon, np.float32))))
    value = emission.emit(relax.op.divide(value, emission.emit(relax.op.sqrt(shifted))))
    value = emission.emit(relax.op.multiply(value, relax.op.astype(weight, "float32")))
    if bias is not None:
        value = emission.emit(relax.op.add(value, relax.op.astype(bias, "float32")))
    return relax.op.astype(value, dtype)
