"""Lowering of quantized products to the contrib ``MatMulIntegerToFloat``.

Its fast kernels multiply unsigned activations with signed weights; with both signed it takes ten
times as long on x86 without AVX-VNNI-INT8 (1.32: 223 against 24 ms for a feed-forward network of
BERT-base, 1,228 tokens). So activations get a zero point of 128. A scale for each token is not
among the kernel's operands: it is multiplied into the result, which costs a walk over memory.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dechaff.ir import DOMAIN, constant_value
from dechaff.passes import GraphBuilder, Rewriter

from .kernels import has_kernel

_CONTRIB_DOMAIN = "com.microsoft"
_ZERO_POINT = np.array(128, np.uint8)
_UNIT = np.array(1, np.float32)
_STEP = np.array(1 / 127, np.float32)
_TINY = np.array(1e-30, np.float32)


def has_integer_product() -> bool:
    """Whether the installed runtime multiplies uint8 with int8."""
    return has_kernel("MatMulIntegerToFloat", _CONTRIB_DOMAIN, ir.DataType.UINT8)


def lower_quantize_per_token(node: ir.Node, rewriter: Rewriter) -> bool:
    """To unsigned integers, if all who read them are products."""
    x = node.inputs[0]
    if x is None or x.shape is None or not _only_multiplied(node):
        return False
    with rewriter.rewrite("lower-quantize-per-token", [node]) as builder:
        last_axis = builder.constant(np.array([-1], np.int64), "last_axis")
        largest = builder.op("ReduceMax", [builder.op("Abs", [x]), last_axis], {"keepdims": 1})
        scale = _scale_of(largest, builder)
        if len(x.shape) == 2:
            quantized = _quantize_rows(x, scale, last_axis, builder)
        else:
            scaled = builder.op("Div", [x, scale])
            quantized = _quantize(scaled, builder.constant(_UNIT, "unit"), builder)
        _replace_both(node, quantized, scale, builder)
    return True


def _quantize_rows(
    x: ir.Value, scale: ir.Value, last_axis: ir.Value, builder: GraphBuilder
) -> ir.Value:
    """``[T, D]``: the runtime's quantization by axis needs no scaled copy of the activations."""
    vector = builder.op("Reshape", [scale, last_axis])
    zero_points = builder.op(
        "ConstantOfShape",
        [builder.op("Shape", [vector])],
        {"value": ir.tensor(_ZERO_POINT.reshape(1))},
    )
    return builder.op("QuantizeLinear", [x, vector, zero_points], {"axis": 0})


def lower_quantize_per_tensor(node: ir.Node, rewriter: Rewriter) -> bool:
    """To unsigned integers, if all who read them are products."""
    x = node.inputs[0]
    if x is None or not _only_multiplied(node):
        return False
    with rewriter.rewrite("lower-quantize-per-tensor", [node]) as builder:
        last_axis = builder.constant(np.array([-1], np.int64), "last_axis")
        of_tokens = builder.op("ReduceMax", [builder.op("Abs", [x]), last_axis])
        column = builder.op("Reshape", [of_tokens, last_axis])
        nothing = builder.constant(np.zeros(1, np.float32), "nothing")
        all_of_them = builder.op("Concat", [column, nothing], {"axis": 0})
        scale = _scale_of(builder.op("ReduceMax", [all_of_them], {"keepdims": 0}), builder)
        _replace_both(node, _quantize(x, scale, builder), scale, builder)
    return True


def _only_multiplied(node: ir.Node) -> bool:
    uses = list(node.outputs[0].uses())
    return has_integer_product() and all(
        use.node.domain == DOMAIN and use.node.op_type == "QuantizedMatMul" for use in uses
    )


def _scale_of(largest: ir.Value, builder: GraphBuilder) -> ir.Value:
    scale = builder.op("Mul", [largest, builder.constant(_STEP, "step")])
    return builder.op("Max", [scale, builder.constant(_TINY, "tiny")])


def _quantize(x: ir.Value, scale: ir.Value, builder: GraphBuilder) -> ir.Value:
    zero_point = builder.constant(_ZERO_POINT, "zero_point")
    return builder.op("QuantizeLinear", [x, scale, zero_point])


def _replace_both(
    node: ir.Node, quantized: ir.Value, scale: ir.Value, builder: GraphBuilder
) -> None:
    builder.replace(node.outputs[0], quantized)
    builder.replace(node.outputs[1], scale)


def lower_quantized_matmul(node: ir.Node, rewriter: Rewriter) -> bool:
    """A scale for all tokens goes into the kernel, one for each behind it."""
    quantized, scale, weight, weight_scale = node.inputs
    if quantized is None or scale is None or constant_value(weight) is None:
        return False
    if quantized.dtype is not ir.DataType.UINT8:
        return False  # the quantization was not lowered
    with rewriter.rewrite("lower-quantized-matmul", [node]) as builder:
        zero_point = builder.constant(_ZERO_POINT, "zero_point")
        for_all = scale.shape is not None and len(scale.shape) == 0
        inside = scale if for_all else builder.constant(_UNIT, "unit")
        operands = [quantized, weight, inside, weight_scale, zero_point]
        y = builder.op("MatMulIntegerToFloat", operands, domain=_CONTRIB_DOMAIN)
        y.dtype, y.shape = ir.DataType.FLOAT, node.outputs[0].shape
        if not for_all:
            y = builder.op("Mul", [y, scale])
        builder.replace(node.outputs[0], y)
    return True
