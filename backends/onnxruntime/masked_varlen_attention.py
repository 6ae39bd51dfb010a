"""Lowering of ``MaskedVarlenAttention``: one sequence at a time, under its part of the mask.

As for ``VarlenAttention``, bounds of rows are computed once for all layers, and a batch without
padding is attended to at once. Where the tokens of each row lie side by side, as they do unless
padding stands between them, a row's part of the mask is one slice; else it is gathered.
"""

from __future__ import annotations

import onnx_ir as ir

from dechaff.passes import Rewriter

from .varlen_attention import attend_in_rows, contexts_are_as_wide_as_queries, define
from .varlen_functions import LOWERED_DOMAIN

_BOUNDS = """
<domain: "dechaff.lowered", opset_import: ["" : 23]>
RowBoundsMasked (cu_seqlens, index, attn_mask) =>
    (grid, full, contiguous, count, row_starts, row_ends, rows_column, mask_starts, mask_ends,
     positions)
{
    axis_0 = Constant <value = int64[1] {0}> ()
    axis_1 = Constant <value = int64[1] {1}> ()
    minus_one = Constant <value = int64[1] {-1}> ()
    one_row = Constant <value = int64[2] {1, -1}> ()
    many = Constant <value = int64[1] {9223372036854775807}> ()
    none = Constant <value = int64 {0}> ()

    bounds, first_of_bound = Unique <sorted = 1> (cu_seqlens)
    own_starts = Slice (bounds, axis_0, minus_one, axis_0)
    own_ends = Slice (bounds, axis_1, many, axis_0)
    ends_of_rows = Slice (first_of_bound, axis_1, many, axis_0)
    rows = Sub (ends_of_rows, axis_1)
    count = Size (rows)
    row_starts = Unsqueeze (own_starts, axis_1)
    row_ends = Unsqueeze (own_ends, axis_1)
    rows_column = Unsqueeze (rows, axis_1)
    next_rows = Unsqueeze (ends_of_rows, axis_1)

    sequence = Shape <start = 3> (attn_mask)
    positions = Mod (index, sequence)
    last_tokens = Sub (own_ends, axis_1)
    first = Gather <axis = 0> (positions, own_starts)
    last = Gather <axis = 0> (positions, last_tokens)
    past_last = Add (last, axis_1)
    first_column = Unsqueeze (first, axis_1)
    past_last_column = Unsqueeze (past_last, axis_1)
    mask_starts = Concat <axis = 1> (rows_column, first_column, first_column)
    mask_ends = Concat <axis = 1> (next_rows, past_last_column, past_last_column)

    token_count = ReduceMax <keepdims = 0> (cu_seqlens)
    spans = Sub (past_last, first)
    all_spans = ReduceSum <keepdims = 0> (spans)
    contiguous = Equal (all_spans, token_count)

    bound_count = Size (cu_seqlens)
    one = Constant <value = int64 {1}> ()
    batch = Sub (bound_count, one)
    length = Squeeze (sequence)
    all_positions = Mul (batch, length)
    every_position = Equal (token_count, all_positions)
    some_tokens = Greater (token_count, none)
    full = And (every_position, some_tokens)
    all_rows = Concat <axis = 0> (minus_one, sequence)
    grid = Where (full, all_rows, one_row)
}
"""

_ATTEND = """
<domain: "dechaff.lowered", opset_import: ["" : 23]>
AttendMasked <q_num_heads, kv_num_heads, scale>
    (full, contiguous, count, row_starts, row_ends, rows_column, mask_starts, mask_ends, positions,
     attn_mask, q, k, v) => (context)
{
    axis_0 = Constant <value = int64[1] {0}> ()
    axis_1 = Constant <value = int64[1] {1}> ()
    mask_axes = Constant <value = int64[3] {0, 2, 3}> ()
    true = Constant <value = bool {1}> ()
    context = If (full) <
        then_branch = without_padding () => (context_at_once) {
            context_at_once = Attention <ATTRIBUTES> (q, k, v, attn_mask)
        },
        else_branch = row_by_row () => (context_by_row) {
            no_context = Slice (q, axis_0, axis_0, axis_1)
            nothing = SequenceConstruct (no_context)
            contexts = If (contiguous) <
                then_branch = tokens_side_by_side () => (contexts_sliced) { SLICED },
                else_branch = padding_in_between () => (contexts_gathered) { GATHERED }
            >
            context_by_row = ConcatFromSequence <axis = 1> (contexts)
        }
    >
}
"""

_LOOP = """
    contexts_{name} = Loop (count, true, nothing) <body = {name}_rows
        (int64 row_{name}, bool going_{name}, before_{name})
            => (bool go_on_{name}, after_{name}) {{
            go_on_{name} = Identity (going_{name})
            start_{name} = Gather <axis = 0> (row_starts, row_{name})
            end_{name} = Gather <axis = 0> (row_ends, row_{name})
            q_{name} = Slice (q, start_{name}, end_{name}, axis_1)
            k_{name} = Slice (k, start_{name}, end_{name}, axis_1)
            v_{name} = Slice (v, start_{name}, end_{name}, axis_1)
            {cut_mask}
            context_{name} = Attention <ATTRIBUTES> (q_{name}, k_{name}, v_{name}, mask_{name})
            after_{name} = SequenceInsert (before_{name}, context_{name})
        }}
    >
"""
_SLICED = _LOOP.format(
    name="sliced",
    cut_mask="""
            mask_start = Gather <axis = 0> (mask_starts, row_sliced)
            mask_end = Gather <axis = 0> (mask_ends, row_sliced)
            mask_sliced = Slice (attn_mask, mask_start, mask_end, mask_axes)
    """,
)
_GATHERED = _LOOP.format(
    name="gathered",
    cut_mask="""
            own_row = Gather <axis = 0> (rows_column, row_gathered)
            own_positions = Slice (positions, start_gathered, end_gathered, axis_0)
            mask_of_row = Gather <axis = 0> (attn_mask, own_row)
            mask_of_queries = Gather <axis = 2> (mask_of_row, own_positions)
            mask_gathered = Gather <axis = 3> (mask_of_queries, own_positions)
    """,
)
_ATTRIBUTES = """q_num_heads: int = @q_num_heads, kv_num_heads: int = @kv_num_heads,
                scale: float = @scale"""

_BOUNDS_RESULTS = 10


def lower_masked_varlen_attention(node: ir.Node, rewriter: Rewriter) -> bool:
    """To calls of the functions above; the caller inlines them."""
    if not contexts_are_as_wide_as_queries(node):
        return False
    attend = _ATTEND.replace("SLICED", _SLICED).replace("GATHERED", _GATHERED)
    define("RowBoundsMasked", _BOUNDS, rewriter)
    define("AttendMasked", attend.replace("ATTRIBUTES", _ATTRIBUTES), rewriter)
    mask = node.inputs[5]
    with rewriter.rewrite("lower-masked-varlen-attention", [node]) as builder:
        grid = builder.op(
            "RowBoundsMasked", node.inputs[3:], domain=LOWERED_DOMAIN, num_outputs=_BOUNDS_RESULTS
        )
        maker = grid.producer()
        assert maker is not None
        before = [*maker.outputs[1:], mask]
        context = attend_in_rows(node, "AttendMasked", before, node.inputs[:3], [], grid, builder)
        builder.replace(node.outputs[0], context)
    return True
