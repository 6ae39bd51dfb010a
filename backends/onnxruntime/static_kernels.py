"""Lowering of standard quantized products to ``MatMulIntegerToFloat``, bias included."""

from __future__ import annotations

import onnx_ir as ir

from dechaff.ir import constant_value
from dechaff.passes import Rewriter

from .quantized_kernels import has_integer_product

_CONTRIB_DOMAIN = "com.microsoft"
_PRODUCT = "MatMulIntegerToFloat"
_FULL_PRODUCT_INPUTS = 7
"""Activations, weights, their scales, their zero points, and the bias."""


def lower_static_product(node: ir.Node, rewriter: Rewriter) -> bool:
    """``MatMul`` of two ``DequantizeLinear``, the second of constant weights."""
    activations, weights = (_dequantization(value) for value in node.inputs[:2])
    if activations is None or weights is None or not has_integer_product():
        return False
    quantized, scale, zero_point = (*activations.inputs, None)[:3]
    integers, weight_scale = weights.inputs[:2]
    if quantized is None or quantized.dtype is not ir.DataType.UINT8 or not _is_scalar(scale):
        return False
    stored = constant_value(integers)
    if stored is None or stored.dtype is not ir.DataType.INT8 or len(weights.inputs) > 2:
        return False
    if "block_size" in weights.attributes or _axis(weights) != 1:
        return False
    with rewriter.rewrite("lower-static-product", [activations, weights, node], node) as builder:
        operands = [quantized, integers, scale, weight_scale, zero_point]
        y = builder.op(_PRODUCT, operands, domain=_CONTRIB_DOMAIN)
        y.dtype, y.shape = ir.DataType.FLOAT, node.outputs[0].shape
        builder.replace(node.outputs[0], y)
    return True


def _dequantization(value: ir.Value | None) -> ir.Node | None:
    maker = value.producer() if value is not None else None
    is_one = maker is not None and maker.domain == "" and maker.op_type == "DequantizeLinear"
    return maker if is_one else None


def _is_scalar(value: ir.Value | None) -> bool:
    tensor = constant_value(value)
    return tensor is not None and len(tensor.shape) == 0


def _axis(node: ir.Node) -> int:
    return node.attributes["axis"].as_int() if "axis" in node.attributes else 1


def add_bias_in_product(node: ir.Node, rewriter: Rewriter) -> bool:
    """``Add`` of a constant vector to an integer product: the kernel adds it as it writes."""
    for product, bias in (node.inputs[:2], node.inputs[1::-1]):
        maker = product.producer() if product is not None else None
        vector = constant_value(bias)
        if maker is None or maker.op_type != _PRODUCT or product is None or vector is None:
            continue
        fits = len(vector.shape) == 1 and product.shape is not None
        if not fits or vector.shape[0] != product.shape[-1]:  # type: ignore[index]
            continue
        if len(list(product.uses())) != 1 or product.is_graph_output():
            continue
        missing = _FULL_PRODUCT_INPUTS - 1 - len(maker.inputs)
        if missing < 0:
            continue
        with rewriter.rewrite("add-bias-in-product", [maker, node], node) as builder:
            operands = [*maker.inputs, *[None] * missing, bias]
            y = builder.op(_PRODUCT, operands, domain=_CONTRIB_DOMAIN)
            y.dtype, y.shape = ir.DataType.FLOAT, node.outputs[0].shape
            builder.replace(node.outputs[0], y)
        return True
    return False
