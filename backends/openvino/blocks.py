"""Blocks of integers that are restored at run time, in operators that OpenVINO has.

Its importer takes ``DequantizeLinear`` with blocks where all sizes are known, as those of a matrix
of weights are, which its products then multiply as it is stored. Rows that are looked up in a table
are as many as the inputs say.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dechaff.ir import constant_value
from dechaff.passes import GraphBuilder, Rewriter
from dechaff.passes.matching import integer_attribute, is_op, sizes_of

_FLOAT = {"to": ir.DataType.FLOAT}


def restore_blocks_of_rows(rewriter: Rewriter) -> None:
    """Spell each ``DequantizeLinear`` out whose blocks lie in rows that are computed."""
    for node in list(rewriter.module.graph):
        if is_op(node, "DequantizeLinear") and constant_value(node.inputs[0]) is None:
            _restore(node, rewriter)


def _restore(node: ir.Node, rewriter: Rewriter) -> None:
    block = integer_attribute(node, "block_size", 0)
    integers, scale = node.inputs[:2]
    if not block or len(node.inputs) > 2 or scale is None or scale.shape is None:
        return
    rank, blocks = len(scale.shape), scale.shape[-1]
    if integer_attribute(node, "axis", 1) not in (-1, rank - 1) or not isinstance(blocks, int):
        return
    with rewriter.rewrite("restore-blocks", [node]) as builder:
        floats = builder.op("Cast", [integers], _FLOAT)
        builder.replace(node.outputs[0], _scaled(floats, scale, rank, (blocks, block), builder))


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
