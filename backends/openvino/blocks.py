"""Blocks of integers that are restored at run time, in operators that OpenVINO has.

Its importer takes ``DequantizeLinear`` with blocks where all sizes are known and blocks divide
them. Such are most matrices of weights, which its products then multiply as they are stored. Rows
that are looked up in a table are as many as the inputs say.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from dechaff.ir import constant_value
from dechaff.passes import GraphBuilder, Rewriter
from dechaff.passes.matching import integer_attribute, is_op, sizes_of

_LEAST_BLOCK = 8
_FLOAT = {"to": ir.DataType.FLOAT}


def restore_blocks(rewriter: Rewriter) -> None:
    """Put each ``DequantizeLinear`` with blocks that OpenVINO has not into another form."""
    for node in list(rewriter.module.graph):
        block = integer_attribute(node, "block_size", 0)
        if not is_op(node, "DequantizeLinear") or not block or len(node.inputs) > 2:
            continue
        if constant_value(node.inputs[0]) is None:
            _spell_out(node, block, rewriter)
        else:
            _fit_blocks(node, block, rewriter)


def _spell_out(node: ir.Node, block: int, rewriter: Rewriter) -> None:
    """Rows that are computed: times the scales of their blocks."""
    integers, scale = node.inputs
    if scale is None or scale.shape is None:
        return
    rank, blocks = len(scale.shape), scale.shape[-1]
    if integer_attribute(node, "axis", 1) not in (-1, rank - 1) or not isinstance(blocks, int):
        return
    with rewriter.rewrite("restore-blocks", [node]) as builder:
        floats = builder.op("Cast", [integers], _FLOAT)
        builder.replace(node.outputs[0], _scaled(floats, scale, rank, (blocks, block), builder))


def _fit_blocks(node: ir.Node, block: int, rewriter: Rewriter) -> None:
    """Weights whose last block is cut short: smaller blocks, or float32 where they were tiny."""
    weight, scale = map(constant_value, node.inputs)
    if weight is None or scale is None or integer_attribute(node, "axis", 1) != 0:
        return
    rows = sizes_of(weight)[0]
    if rows % block == 0:
        return
    shared = math.gcd(rows, block)
    scales = np.repeat(scale.numpy(), block // shared, axis=0)[: rows // shared]
    with rewriter.rewrite("fit-blocks", [node]) as builder:
        if shared < _LEAST_BLOCK:
            floats = weight.numpy().astype(np.float32) * np.repeat(scales, shared, axis=0)
            y = builder.constant(floats, "weight")
        elif shared == rows:
            operands = [node.inputs[0], builder.constant(scales[0], "weight_scale")]
            y = builder.op("DequantizeLinear", operands, {"axis": 1})
        else:
            operands = [node.inputs[0], builder.constant(scales, "weight_scale")]
            y = builder.op("DequantizeLinear", operands, {"axis": 0, "block_size": shared})
        builder.replace(node.outputs[0], y)


def lower_int4_gather_to_arithmetic(node: ir.Node, rewriter: Rewriter) -> bool:
    """Take bytes apart by arithmetic: OpenVINO rounds where ``BitShift`` cuts off."""
    table, scale, ids = node.inputs
    scales = constant_value(scale)
    if scales is None or ids is None or ids.shape is None:
        return False
    rank, block = len(ids.shape) + 1, node.attributes["block_size"].as_int()
    with rewriter.rewrite("lower-int4-gather", [node]) as builder:
        rows, factors = (builder.op("Gather", [each, ids], {"axis": 0}) for each in (table, scale))
        nibble = builder.constant(np.array(15, np.uint8), "nibble")
        whole = builder.op("Cast", [rows], _FLOAT)
        low = builder.op("Cast", [builder.op("BitwiseAnd", [rows, nibble])], _FLOAT)
        sixteenth = builder.constant(np.array(1 / 16, np.float32), "sixteenth")
        high = builder.op("Mul", [builder.op("Sub", [whole, low]), sixteenth])
        last = builder.constant(np.array([-1], np.int64), "last_axis")
        columns = [builder.op("Unsqueeze", [each, last]) for each in (low, high)]
        pairs = builder.op("Concat", columns, {"axis": -1})
        zero_point = builder.constant(np.array(8, np.float32), "zero_point")
        integers = builder.op("Sub", [pairs, zero_point])
        sizes = (sizes_of(scales)[1], block)
        builder.replace(node.outputs[0], _scaled(integers, factors, rank, sizes, builder))
    return True


def _scaled(
    floats: ir.Value, scale: ir.Value, rank: int, sizes: tuple[int, int], builder: GraphBuilder
) -> ir.Value:
    """Rows, times the scales of their blocks.

    Args:
        floats: float32[..., columns], or with more axes in the place of the last.
        scale: float32[..., blocks].
        rank: that of the rows.
        sizes: number of blocks, and columns of a block.
        builder: where it goes.
    """
    blocks, block = sizes
    leading = [0] * (rank - 1)  # as the input has them
    apart = builder.constant(np.array([*leading, blocks, block], np.int64), "blocks")
    together = builder.constant(np.array([*leading, blocks * block], np.int64), "rows")
    last = builder.constant(np.array([-1], np.int64), "last_axis")
    factor = builder.op("Unsqueeze", [scale, last])
    restored = builder.op("Mul", [builder.op("Reshape", [floats, apart]), factor])
    return builder.op("Reshape", [restored, together])
