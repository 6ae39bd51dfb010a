"""Blocks of integers that are restored at run time, in operators that OpenVINO has.

Its importer takes ``DequantizeLinear`` with blocks where all sizes are known, as those of a matrix
of weights are, which its products then multiply as it is stored. Rows that are looked up in a table
are as many as the inputs say.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dechaff.ir import constant_value
from dechaff.passes import Rewriter
from dechaff.passes.matching import integer_attribute, is_op


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
    leading = [0] * (rank - 1)  # as the input has them
    with rewriter.rewrite("restore-blocks", [node]) as builder:
        floats = builder.op("Cast", [integers], {"to": ir.DataType.FLOAT})
        apart = builder.constant(np.array([*leading, blocks, block], np.int64), "blocks")
        last = builder.constant(np.array([-1], np.int64), "last_axis")
        together = builder.constant(np.array([*leading, blocks * block], np.int64), "rows")
        factor = builder.op("Unsqueeze", [scale, last])
        restored = builder.op("Mul", [builder.op("Reshape", [floats, apart]), factor])
        builder.replace(node.outputs[0], builder.op("Reshape", [restored, together]))
