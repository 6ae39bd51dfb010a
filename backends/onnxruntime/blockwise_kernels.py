"""Lowering of blockwise compression: weights stay packed, functions to what is fast here.

``portable`` writes products as ``DequantizeLinear`` and ``MatMul`` and keeps the reference
functions of all else, tables and shifts included. ``cpu`` has ``MatMulNBits``, which rounds
activations to blocks of 8 bits within, and ``GatherBlockQuantized``; functions go back to float32
operators, as the runtime has no kernel for tables: float32 is faster, and closer to the original.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dechaff.ir import DOMAIN, Module, constant_value
from dechaff.passes import GraphBuilder, Rewriter
from dechaff.passes.quantization.storage import store_integers

from .contrib_kernels import CONTRIB_DOMAIN
from .kernels import has_kernel
from .varlen_attention import lower_varlen_attention
from .weight_kernels import BITS, kernel_block, low_bit_product, packed_blocks, repeat_scales

_TWO = np.array(2, np.float32)


def lower_blockwise_matmul(node: ir.Node, rewriter: Rewriter) -> bool:
    """To ``MatMulNBits``, or where that cannot be, to standard operators."""
    x, weight, exponent = node.inputs
    tensor, exponents = constant_value(weight), constant_value(exponent)
    rows, columns, groups = _size(weight, 0), _size(weight, 1), _size(exponent, 0)
    if tensor is None or exponents is None or tensor.dtype not in BITS:
        return lower_blockwise_matmul_to_standard(node, rewriter)
    if rows is None or columns is None or groups is None:
        return lower_blockwise_matmul_to_standard(node, rewriter)
    block = kernel_block(rows // groups)
    if block is None or not has_kernel("MatMulNBits", CONTRIB_DOMAIN, ir.DataType.FLOAT):
        return lower_blockwise_matmul_to_standard(node, rewriter)
    with rewriter.rewrite("lower-blockwise-matmul", [node]) as builder:
        packed = packed_blocks(tensor.numpy().astype(np.int8), block, BITS[tensor.dtype])
        by_column = np.ascontiguousarray(exponents.numpy().astype(np.int8).T)
        stored = store_integers(by_column, BITS[exponents.dtype], "exponent", builder)
        scales = _scales(node, builder, stored)
        scales = repeat_scales(scales, rows // block, rows // groups // block, builder)
        weights = builder.constant(packed, tensor.name or "weight")
        y = low_bit_product(builder, [x, weights, scales], tensor, block, BITS[tensor.dtype])
        builder.replace(node.outputs[0], y)
    return True


def lower_blockwise_matmul_to_standard(node: ir.Node, rewriter: Rewriter) -> bool:
    """To ``BlockwiseRound`` of the activations, and ``DequantizeLinear`` of the weights."""
    x, weight, exponent = node.inputs
    rows, groups = _size(weight, 0), _size(exponent, 0)
    if rows is None or groups is None or weight is None:
        return False
    with rewriter.rewrite("lower-blockwise-matmul", [node]) as builder:
        attributes = {"block_size": node.attributes["block_size"].as_int(), "bits": 8}
        rounded = builder.op("BlockwiseRound", [x], attributes, domain=DOMAIN)
        blocks = {"axis": 0, "block_size": rows // groups}
        restored = builder.op(
            "DequantizeLinear", [weight, _scales(node, builder, exponent)], blocks
        )
        builder.replace(node.outputs[0], builder.op("MatMul", [rounded, restored]))
    return True


def lower_blockwise_gather(node: ir.Node, rewriter: Rewriter) -> bool:
    """To ``GatherBlockQuantized``, which restores the rows that it reads."""
    table, exponent, ids = node.inputs
    half_width, groups, rows = _size(table, 1), _size(exponent, 1), _size(table, 0)
    if half_width is None or groups is None or rows is None:
        return False
    block = kernel_block(2 * half_width // groups)
    if block is None or not has_kernel("GatherBlockQuantized", CONTRIB_DOMAIN, ir.DataType.UINT8):
        return False
    with rewriter.rewrite("lower-blockwise-gather", [node]) as builder:
        width = 2 * half_width
        scales = _scales(node, builder, exponent)
        scales = repeat_scales(scales, width // block, width // groups // block, builder)
        attributes = {"bits": 4, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
        operands = [table, ids, scales]
        y = builder.op("GatherBlockQuantized", operands, attributes, domain=CONTRIB_DOMAIN)
        y.dtype, y.shape = ir.DataType.FLOAT, node.outputs[0].shape
        builder.replace(node.outputs[0], y)
    return True


def lower_blockwise_function(node: ir.Node, rewriter: Rewriter) -> bool:
    """Back to the float32 operator."""
    with rewriter.rewrite("lower-blockwise-function", [node]) as builder:
        if node.op_type == "BlockwiseGelu":
            kept = {"approximate": node.attributes["approximate"].as_string()}
            y = builder.op("Gelu", node.inputs, kept)
        elif node.op_type == "BlockwiseSoftmax":
            y = builder.op("Softmax", node.inputs, {"axis": -1})
        else:
            kept_epsilon = {"epsilon": node.attributes["epsilon"].as_float(), "axis": -1}
            y = builder.op("LayerNormalization", node.inputs, kept_epsilon)
        builder.replace(node.outputs[0], y)
    return True


def lower_blockwise_attention(node: ir.Node, rewriter: Rewriter) -> bool:
    """By way of ``VarlenAttention``, whose kernels compute in float32."""
    attributes = {item.name: item.value for item in node.attributes.values()}
    with rewriter.rewrite("lower-blockwise-attention", [node]) as builder:
        y = builder.op("VarlenAttention", node.inputs, attributes, domain=DOMAIN)
        attention = y.producer()
        builder.replace(node.outputs[0], y)
    return attention is not None and lower_varlen_attention(attention, rewriter)


def _scales(node: ir.Node, builder: GraphBuilder, exponent: ir.Value | None) -> ir.Value:
    """``2**(exponent + offset)``: the file holds the exponents, the runtime folds this once."""
    offset = np.array(node.attributes["exponent_offset"].as_int(), np.float32)
    stored = builder.op("Cast", [exponent], {"to": ir.DataType.FLOAT})
    powers = builder.op("Add", [stored, builder.constant(offset, "exponent_offset")])
    return builder.op("Pow", [builder.constant(_TWO, "two"), powers])


def _size(value: ir.Value | None, axis: int) -> int | None:
    size = None if value is None or value.shape is None else value.shape[axis]
    return size if isinstance(size, int) else None


def lower_blockwise_restore(node: ir.Node, rewriter: Rewriter) -> bool:
    """To one ``DequantizeLinear``: the scales of a short vector take less than nodes would."""
    quantized, exponent = node.inputs
    stored, size = constant_value(exponent), _size(quantized, 0)
    if stored is None or size is None:
        return False
    powers = stored.numpy().astype(np.float32) + node.attributes["exponent_offset"].as_int()
    scales = np.exp2(powers).astype(np.float32)
    one = scales.size == 1
    with rewriter.rewrite("lower-blockwise-restore", [node]) as builder:
        scale = builder.constant(scales[0] if one else scales, "scale")
        blocks = {} if one else {"axis": 0, "block_size": size // scales.size}
        builder.replace(node.outputs[0], builder.op("DequantizeLinear", [quantized, scale], blocks))
    return True


def has_blockwise_weights(module: Module) -> bool:
    """Whether weights of the module were compressed by blocks."""
    return any(
        node.domain == DOMAIN and node.op_type in ("BlockwiseMatMul", "BlockwiseGather")
        for node in module.graph
    )


def drop_annotations(module: Module) -> None:
    """Take from nodes what no runtime reads: where they come from, and shapes between them.

    Some hundred bytes a node: beside weights of four bits that is one part in a hundred of a file.
    """
    kept = {value.name for value in module.graph.outputs}
    for node in module.graph:
        node.metadata_props.clear()
        for output in node.outputs:
            output.metadata_props.clear()
            if output.name not in kept:
                output.shape, output.type = None, None
    for node in module.nodes():
        node.metadata_props.clear()
