"""Lowering of ``VarlenAttention`` where each sequence has one query.

``skip-unread-rows`` leaves such. Scores are then as many as keys, and what costs is to bring keys
and values together: they are padded to the longest row by two gathers, and all rows are attended to
at once, without a loop. Only standard operators are used, and OpenVINO has them all.

Where keys and values are products of the tokens with matrices, they need not be made: a score is
``q (x W)' = (q W') x'``, and a context ``p (x W) = (p x) W``. So the matrices move to the queries
and contexts, of which there are few, and the heads become queries that attend to the tokens
themselves, all in one product. It is what DeepSeek does with the up-projections of its cache
(arXiv 2405.04434, section 2.1.2).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from dechaff.ir import constant_value
from dechaff.passes import GraphBuilder, Rewriter
from dechaff.passes.matching import made_by, only_consumer, scalar, sizes_of

from .varlen_attention import define
from .varlen_functions import LOWERED_DOMAIN

_NAME = "AttendOneQueryEach"

_FUNCTION = f"""
<domain: "{LOWERED_DOMAIN}", opset_import: ["" : 23]>
{_NAME} <q_num_heads, kv_num_heads, scale> (q_rows, k, v, key_index, cu_seqlens) => (c_rows)
{{
    axis_0 = Constant <value = int64[1] {{0}}> ()
    axis_1 = Constant <value = int64[1] {{1}}> ()
    key_axes = Constant <value = int64[2] {{1, 2}}> ()
    minus_one = Constant <value = int64[1] {{-1}}> ()
    many = Constant <value = int64[1] {{9223372036854775807}}> ()
    none = Constant <value = int64 {{0}}> ()
    one = Constant <value = int64 {{1}}> ()

    column = Unsqueeze (cu_seqlens, axis_1)
    starts = Slice (column, axis_0, minus_one, axis_0)
    ends = Slice (column, axis_1, many, axis_0)
    lengths = Sub (ends, starts)
    longest = ReduceMax <keepdims = 0> (lengths)
    offsets = Range (none, longest, one)
    valid = Less (offsets, lengths)
    places = Add (starts, offsets)
    key_count = Size (key_index)
    last = Sub (key_count, one)
    some_key = Min (places, last)
    tokens = Gather <axis = 0> (key_index, some_key)
    k_rows = Gather <axis = 0> (k, tokens)
    v_rows = Gather <axis = 0> (v, tokens)
    mask_of_one = Unsqueeze (valid, key_axes)
    query_count = Shape <start = 1, end = 2> (q_rows)
    mask_shape = Concat <axis = 0> (axis_1, axis_1, query_count, axis_1)
    mask = Expand (mask_of_one, mask_shape)
    c_rows = Attention <q_num_heads: int = @q_num_heads, kv_num_heads: int = @kv_num_heads,
        scale: float = @scale> (q_rows, k_rows, v_rows, mask)
}}
"""


def lower_one_query_attention(node: ir.Node, rewriter: Rewriter) -> bool:
    """To a call of a function; the caller inlines it."""
    if not _has_one_query_each(node):
        return False
    define(_NAME, _FUNCTION, rewriter)
    with rewriter.rewrite("lower-one-query-attention", [node]) as builder:
        projections = _projections(node)
        attend = _attend if projections is None else projections.attend
        builder.replace(node.outputs[0], attend(node, builder))
    return True


def _attend(node: ir.Node, builder: GraphBuilder) -> ir.Value:
    names = ("q_num_heads", "kv_num_heads", "scale")
    attributes = {name: node.attributes[name].value for name in names}
    axis = builder.constant(np.array([1], np.int64), "axis")
    query = builder.op("Unsqueeze", [node.inputs[0], axis])
    operands = [query, *node.inputs[1:3], *node.inputs[4:]]
    return builder.op("Squeeze", [_rows(operands, attributes, builder), axis])


def _rows(
    operands: Sequence[ir.Value | None], attributes: Mapping[str, Any], builder: GraphBuilder
) -> ir.Value:
    """``[B, queries, width]`` for queries of that form, of keys and values by token."""
    return builder.op(_NAME, operands, attributes, domain=LOWERED_DOMAIN)


@dataclasses.dataclass(frozen=True)
class _Projections:
    """Tokens, float[T, D], and what makes keys and values of them, float[D, heads * head_size]."""

    tokens: ir.Value
    key: np.ndarray[Any, Any]
    value: np.ndarray[Any, Any]

    def attend(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        """The context, float[B, heads * head_size], of scores and sums over the tokens."""
        heads = node.attributes["q_num_heads"].as_int()
        width = len(self.key)
        to_keys = self.key.reshape(width, heads, -1).transpose(1, 2, 0)
        from_values = self.value.reshape(width, heads, -1).transpose(1, 0, 2)
        apart = builder.constant(np.array([0, heads, -1], np.int64), "apart")
        query = builder.op("Reshape", [node.inputs[0], apart])
        attributes = {
            "q_num_heads": 1,
            "kv_num_heads": 1,
            "scale": node.attributes["scale"].value,
        }
        queries = _each_by_its_matrix(query, to_keys, builder)
        operands = [queries, self.tokens, self.tokens, *node.inputs[4:]]
        sums = _rows(operands, attributes, builder)
        context = _each_by_its_matrix(sums, from_values, builder)
        together = builder.constant(np.array([0, -1], np.int64), "together")
        return builder.op("Reshape", [context, together])


def _each_by_its_matrix(
    heads: ir.Value, matrices: np.ndarray[Any, Any], builder: GraphBuilder
) -> ir.Value:
    """``[B, heads, a]`` to ``[B, heads, b]`` by a matrix ``[a, b]`` for each head."""
    heads_first = {"perm": [1, 0, 2]}
    first = builder.op("Transpose", [heads], heads_first)
    product = builder.op("MatMul", [first, builder.constant(matrices, "weight_of_heads")])
    return builder.op("Transpose", [product], heads_first)


def _projections(node: ir.Node) -> _Projections | None:
    """How keys and values are made, if by one product each, for this attention alone."""
    if node.attributes["q_num_heads"].as_int() != node.attributes["kv_num_heads"].as_int():
        return None
    key, value = (made_by(operand, "MatMul") for operand in node.inputs[1:3])
    if key is None or value is None or key.inputs[0] is not value.inputs[0]:
        return None
    if any(only_consumer(product.outputs[0]) is not node for product in (key, value)):
        return None
    matrices = [constant_value(product.inputs[1]) for product in (key, value)]
    tokens = key.inputs[0]
    if tokens is None or any(matrix is None or len(sizes_of(matrix)) != 2 for matrix in matrices):
        return None
    return _Projections(tokens, *(matrix.numpy() for matrix in matrices if matrix is not None))


def _has_one_query_each(node: ir.Node) -> bool:
    """Whether queries begin at ``0, 1, .., B`` and see all keys of their row."""
    counting = made_by(node.inputs[3], "Range")
    if counting is None or node.attributes["is_causal"].as_int():
        return False
    start, count, step = counting.inputs
    return scalar(start) == 0 and scalar(step) == 1 and made_by(count, "Size") is not None
