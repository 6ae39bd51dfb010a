"""Lowering of ``Pack`` by what is known of its operand's leading sizes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dechaff.ir import static_dim
from dechaff.passes import GraphBuilder, Rewriter

_INT64 = np.int64


def lower_pack(node: ir.Node, rewriter: Rewriter) -> bool:
    """Gather without materializing the broadcast that the reference function expands first."""
    x = node.inputs[0]
    if x is None or x.shape is None or len(x.shape) < 2:
        return False
    one_row, one_column = (static_dim(x.shape[axis]) == 1 for axis in (0, 1))
    if one_row and one_column:
        return False  # a constant per token: the reference function's Expand is as good
    with rewriter.rewrite("lower-pack", [node]) as builder:
        if one_row:
            packed = _pack_positions(node, builder)
        elif one_column:
            packed = _pack_rows(node, builder)
        else:
            packed = _pack_tokens(node, builder)
        builder.replace(node.outputs[0], packed)
    return True


def _pack_tokens(node: ir.Node, builder: GraphBuilder) -> ir.Value:
    """``[B, S, ...]``: merge the two leading axes and gather."""
    x, token_index, _ = node.inputs
    flat = builder.op("Reshape", [x, _merged_shape(x, builder)])
    return builder.op("Gather", [flat, token_index], {"axis": 0})


def _pack_positions(node: ir.Node, builder: GraphBuilder) -> ir.Value:
    """``[1, S, ...]``: the row of a token is its position, ``token_index mod S``."""
    x, token_index, keep_mask = node.inputs
    length = builder.op("Shape", [keep_mask], {"start": 1, "end": 2})
    position = builder.op("Mod", [token_index, length])
    table = builder.op("Squeeze", [x, builder.constant(np.array([0], _INT64), "axis_0")])
    return builder.op("Gather", [table, position], {"axis": 0})


def _pack_rows(node: ir.Node, builder: GraphBuilder) -> ir.Value:
    """``[B, 1, ...]``: the row of a token is its sequence, ``token_index div S``."""
    x, token_index, keep_mask = node.inputs
    length = builder.op("Shape", [keep_mask], {"start": 1, "end": 2})
    row = builder.op("Div", [token_index, length])
    table = builder.op("Squeeze", [x, builder.constant(np.array([1], _INT64), "axis_1")])
    return builder.op("Gather", [table, row], {"axis": 0})


def _merged_shape(x: ir.Value | None, builder: GraphBuilder) -> ir.Value:
    minus_one = builder.constant(np.array([-1], _INT64), "minus_one")
    trailing = builder.op("Shape", [x], {"start": 2})
    return builder.op("Concat", [minus_one, trailing], {"axis": 0})
