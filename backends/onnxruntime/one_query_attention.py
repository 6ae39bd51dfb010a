"""Lowering of ``VarlenAttention`` where each sequence has one query.

``skip-unread-rows`` leaves such. Scores are then as many as keys, and what costs is to bring keys
and values together: they are padded to the longest row by two gathers, and all rows are attended to
at once, without a loop. Only standard operators are used, and OpenVINO has them all.
"""

from __future__ import annotations

import onnx_ir as ir

from dechaff.passes import Rewriter
from dechaff.passes.matching import made_by, scalar

from .varlen_attention import define
from .varlen_functions import LOWERED_DOMAIN

_NAME = "AttendOneQueryEach"

_FUNCTION = f"""
<domain: "{LOWERED_DOMAIN}", opset_import: ["" : 23]>
{_NAME} <q_num_heads, kv_num_heads, scale> (q, k, v, key_index, cu_seqlens) => (context)
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
    q_rows = Unsqueeze (q, axis_1)
    mask = Unsqueeze (valid, key_axes)
    c_rows = Attention <q_num_heads: int = @q_num_heads, kv_num_heads: int = @kv_num_heads,
        scale: float = @scale> (q_rows, k_rows, v_rows, mask)
    context = Squeeze (c_rows, axis_1)
}}
"""


def lower_one_query_attention(node: ir.Node, rewriter: Rewriter) -> bool:
    """To a call of a function; the caller inlines it."""
    if not _has_one_query_each(node):
        return False
    define(_NAME, _FUNCTION, rewriter)
    with rewriter.rewrite("lower-one-query-attention", [node]) as builder:
        names = ("q_num_heads", "kv_num_heads", "scale")
        attributes = {name: node.attributes[name].value for name in names}
        operands = [*node.inputs[:3], *node.inputs[4:]]
        context = builder.op(_NAME, operands, attributes, domain=LOWERED_DOMAIN)
        builder.replace(node.outputs[0], context)
    return True


def _has_one_query_each(node: ir.Node) -> bool:
    """Whether queries begin at ``0, 1, .., B`` and see all keys of their row."""
    counting = made_by(node.inputs[3], "Range")
    if counting is None or node.attributes["is_causal"].as_int():
        return False
    start, count, step = counting.inputs
    return scalar(start) == 0 and scalar(step) == 1 and made_by(count, "Size") is not None
