"""Lowering of ``LocalVarlenAttention``: blocks of packed tokens, each beside its two neighbours.

The packed tokens of all rows are cut into blocks as long as the window. What a query may see then
lies in its own block and the two beside it, whatever the rows' lengths: one ``Attention`` over all
blocks computes ``3 * block`` scores for a query in place of one for each token of its row, without
a loop over rows. A mask takes out other rows and what is too far.
"""

from __future__ import annotations

import onnx_ir as ir

from dechaff.passes import Rewriter

from .varlen_attention import define
from .varlen_functions import LOWERED_DOMAIN

_LEAST_BLOCK = 16

_FUNCTION = """
<domain: "dechaff.lowered", opset_import: ["" : 23]>
AttendInBlocks <q_num_heads, kv_num_heads, scale, is_causal, window, block>
    (q, k, v, cu_seqlens, key_index) => (context)
{
    zero = Constant <value = int64 {0}> ()
    one = Constant <value = int64 {1}> ()
    none = Constant <value = int64[1] {0}> ()
    axis_1 = Constant <value = int64[1] {1}> ()
    axis_2 = Constant <value = int64[1] {2}> ()
    minus_one = Constant <value = int64[1] {-1}> ()
    block_size = Constant <value_int: int = @block> ()
    block_vector = Reshape (block_size, minus_one)

    token_vector = Shape <start = 0, end = 1> (q)
    token_count = Squeeze (token_vector)
    missing_to = Sub (token_count, one)
    floor_blocks = Div (missing_to, block_size)
    past_floor = Add (floor_blocks, one)
    block_count = Max (past_floor, one)
    padded_count = Mul (block_count, block_size)
    padding = Sub (padded_count, token_count)
    padding_behind = Reshape (padding, minus_one)
    longer_behind = Add (padding_behind, block_vector)
    q_pads = Concat <axis = 0> (none, none, padding_behind, none)
    k_pads = Concat <axis = 0> (block_vector, none, longer_behind, none)
    q_padded = Pad (q, q_pads)
    k_padded = Pad (k, k_pads)
    v_padded = Pad (v, k_pads)

    first_block = Constant <value = int64[1] {0}> ()
    end_first = Reshape (padded_count, minus_one)
    start_second = Identity (block_vector)
    end_second = Add (end_first, block_vector)
    start_third = Add (block_vector, block_vector)
    end_third = Add (end_second, block_vector)
    in_blocks = Concat <axis = 0> (minus_one, block_vector)
    q_width = Shape <start = 1> (q)
    q_block_shape = Concat <axis = 0> (in_blocks, q_width)
    k_width = Shape <start = 1> (k)
    k_block_shape = Concat <axis = 0> (in_blocks, k_width)
    v_width = Shape <start = 1> (v)
    v_block_shape = Concat <axis = 0> (in_blocks, v_width)
    q_blocks = Reshape (q_padded, q_block_shape)
    k_first_flat = Slice (k_padded, first_block, end_first, none)
    k_first = Reshape (k_first_flat, k_block_shape)
    k_second_flat = Slice (k_padded, start_second, end_second, none)
    k_second = Reshape (k_second_flat, k_block_shape)
    k_third_flat = Slice (k_padded, start_third, end_third, none)
    k_third = Reshape (k_third_flat, k_block_shape)
    k_blocks = Concat <axis = 1> (k_first, k_second, k_third)
    v_first_flat = Slice (v_padded, first_block, end_first, none)
    v_first = Reshape (v_first_flat, v_block_shape)
    v_second_flat = Slice (v_padded, start_second, end_second, none)
    v_second = Reshape (v_second_flat, v_block_shape)
    v_third_flat = Slice (v_padded, start_third, end_third, none)
    v_third = Reshape (v_third_flat, v_block_shape)
    v_blocks = Concat <axis = 1> (v_first, v_second, v_third)

    places = Range (zero, token_count, one)
    starts_column = Unsqueeze (cu_seqlens, axis_1)
    begun = LessOrEqual (starts_column, places)
    begun_numbers = Cast <to = 7> (begun)
    row_of_token = ReduceSum <keepdims = 0> (begun_numbers, none)
    row_pads_q = Concat <axis = 0> (none, padding_behind)
    row_pads_k = Concat <axis = 0> (block_vector, longer_behind)
    no_row = Constant <value = int64 {-1}> ()
    q_rows_flat = Pad (row_of_token, row_pads_q, no_row)
    k_rows_flat = Pad (row_of_token, row_pads_k, no_row)
    q_rows = Reshape (q_rows_flat, in_blocks)
    k_rows_first_flat = Slice (k_rows_flat, first_block, end_first, none)
    k_rows_first = Reshape (k_rows_first_flat, in_blocks)
    k_rows_second_flat = Slice (k_rows_flat, start_second, end_second, none)
    k_rows_second = Reshape (k_rows_second_flat, in_blocks)
    k_rows_third_flat = Slice (k_rows_flat, start_third, end_third, none)
    k_rows_third = Reshape (k_rows_third_flat, in_blocks)
    k_rows = Concat <axis = 1> (k_rows_first, k_rows_second, k_rows_third)
    q_rows_column = Unsqueeze (q_rows, axis_2)
    k_rows_row = Unsqueeze (k_rows, axis_1)
    one_row = Equal (q_rows_column, k_rows_row)

    is_a_key = Constant <value = int64[1] {1}> ()
    no_key = Constant <value = int64[1] {0}> ()
    no_keys = Expand (no_key, token_vector)
    key_ones_shape = Shape (key_index)
    key_ones = Expand (is_a_key, key_ones_shape)
    keys_flat = ScatterElements <axis = 0> (no_keys, key_index, key_ones)
    keys_padded = Pad (keys_flat, row_pads_k, one)
    keys_first_flat = Slice (keys_padded, first_block, end_first, none)
    keys_first = Reshape (keys_first_flat, in_blocks)
    keys_second_flat = Slice (keys_padded, start_second, end_second, none)
    keys_second = Reshape (keys_second_flat, in_blocks)
    keys_third_flat = Slice (keys_padded, start_third, end_third, none)
    keys_third = Reshape (keys_third_flat, in_blocks)
    keys_numbers = Concat <axis = 1> (keys_first, keys_second, keys_third)
    keys_bool = Cast <to = 9> (keys_numbers)
    keys_row = Unsqueeze (keys_bool, axis_1)
    one_row_of_keys = And (one_row, keys_row)

    three = Constant <value = int64 {3}> ()
    key_count = Mul (three, block_size)
    key_places = Range (zero, key_count, one)
    query_places = Range (zero, block_size, one)
    shifted_queries = Add (query_places, block_size)
    query_column = Unsqueeze (shifted_queries, axis_1)
    distances = Sub (query_column, key_places)
    distance = Abs (distances)
    reach = Constant <value_int: int = @window> ()
    near = LessOrEqual (distance, reach)
    causal_count = Constant <value_int: int = @is_causal> ()
    both_ways = Equal (causal_count, zero)
    not_ahead = GreaterOrEqual (distances, zero)
    in_sight = Or (both_ways, not_ahead)
    pattern = And (near, in_sight)
    mask_rows = And (one_row_of_keys, pattern)
    mask = Unsqueeze (mask_rows, axis_1)
    context_blocks = Attention <q_num_heads: int = @q_num_heads,
        kv_num_heads: int = @kv_num_heads, scale: float = @scale>
        (q_blocks, k_blocks, v_blocks, mask)
    context_width = Shape <start = 2> (context_blocks)
    flat_shape = Concat <axis = 0> (minus_one, context_width)
    context_padded = Reshape (context_blocks, flat_shape)
    context = Slice (context_padded, none, token_vector, none)
}
"""


def lower_local_varlen_attention(node: ir.Node, rewriter: Rewriter) -> bool:
    """To one ``Attention`` over blocks; global tokens are declined."""
    if node.attributes["num_global"].as_int():
        return False
    define("AttendInBlocks", _FUNCTION, rewriter)
    names = ("q_num_heads", "kv_num_heads", "scale", "is_causal", "window")
    attributes = {name: node.attributes[name].value for name in names}
    attributes["block"] = max(_LEAST_BLOCK, attributes["window"])
    with rewriter.rewrite("lower-local-varlen-attention", [node]) as builder:
        context = builder.op("AttendInBlocks", node.inputs[:5], attributes, domain=LOWERED_DOMAIN)
        builder.replace(node.outputs[0], context)
    return True
