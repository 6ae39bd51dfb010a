"""Dialect operator for attention over packed sequences of different lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import sympy

from .dialect import DialectOp, Dims, known_dims, register

PACKED_ATTENTIONS = (
    "VarlenAttention",
    "MaskedVarlenAttention",
    "TopKVarlenAttention",
    "LocalVarlenAttention",
)
"""The dialect's operators for attention over packed sequences."""


def _varlen_shapes(shapes: Sequence[Dims | None], attributes: Mapping[str, ir.Attr]) -> list[Dims]:
    tokens = known_dims(shapes, 0)[0]
    value_heads_size = known_dims(shapes, 2)[1]
    groups = sympy.Integer(attributes["q_num_heads"].as_int()) / attributes["kv_num_heads"].as_int()
    return [(tokens, value_heads_size * groups)]


def _varlen_flops(shapes: Sequence[Dims | None], attributes: Mapping[str, ir.Attr]) -> sympy.Expr:
    """Scores and context at the mean length: ``4 * T * (T / B) * hidden_size``.

    The exact figure is ``sum(L_b ** 2)`` in place of ``T ** 2 / B``; it is the same for equal
    lengths and cannot be said without them.
    """
    tokens, hidden = known_dims(shapes, 0)
    batch = known_dims(shapes, 3)[0] - 1
    causal = attributes["is_causal"].as_int()
    return 4 * tokens * (tokens / batch) * hidden / (2 if causal else 1)


VARLEN_ATTENTION = register(
    DialectOp(
        name="VarlenAttention",
        documentation="""Attention within each sequence of a packed batch; sequences never mix.

        q: float[T, q_num_heads * head_size]; k: float[T, kv_num_heads * head_size];
        v: float[T, kv_num_heads * v_head_size]: the kept tokens of all rows.
        cu_seqlens_q: int64[B + 1], where each row's queries begin in ``q``.
        key_index: int64[Tk], which rows of ``k`` and ``v`` may be attended to, ascending.
        cu_seqlens_k: int64[B + 1], where each row's keys begin in ``key_index``.
        Gives float[T, q_num_heads * v_head_size]. A row that has queries must have a key.

        q_num_heads, kv_num_heads: heads, the second divides the first (grouped-query attention).
        scale: factor on the scores. is_causal: 1 if a query sees only keys at or before its own
        packed position, which then requires every kept token to be a key.

        The interface is that of FlashAttention's ``flash_attn_varlen_func``; the work is that of
        ByteTransformer's padding-free fused attention (IPDPS 2023, section III.E).
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        VarlenAttention <q_num_heads, kv_num_heads, scale, is_causal>
            (q, k, v, cu_seqlens_q, key_index, cu_seqlens_k) => (context)
        {
            zero = Constant <value = int64 {0}> ()
            one = Constant <value = int64 {1}> ()
            axis_0 = Constant <value = int64[1] {0}> ()
            axis_1 = Constant <value = int64[1] {1}> ()
            axis_2 = Constant <value = int64[1] {2}> ()
            minus_one = Constant <value = int64[1] {-1}> ()
            many = Constant <value = int64[1] {9223372036854775807}> ()

            q_starts = Slice (cu_seqlens_q, axis_0, minus_one, axis_0)
            q_ends = Slice (cu_seqlens_q, axis_1, many, axis_0)
            q_lengths = Sub (q_ends, q_starts)
            q_maximum = ReduceMax <keepdims = 0> (q_lengths)
            q_longest = Max (q_maximum, one)
            q_positions = Range (zero, q_longest, one)
            q_lengths_column = Unsqueeze (q_lengths, axis_1)
            q_valid = Less (q_positions, q_lengths_column)
            q_found = NonZero (q_valid)
            q_places = Transpose <perm = [1, 0]> (q_found)

            k_starts = Slice (cu_seqlens_k, axis_0, minus_one, axis_0)
            k_ends = Slice (cu_seqlens_k, axis_1, many, axis_0)
            k_lengths = Sub (k_ends, k_starts)
            k_maximum = ReduceMax <keepdims = 0> (k_lengths)
            k_longest = Max (k_maximum, one)
            k_positions = Range (zero, k_longest, one)
            k_lengths_column = Unsqueeze (k_lengths, axis_1)
            k_valid = Less (k_positions, k_lengths_column)
            k_found = NonZero (k_valid)
            k_places = Transpose <perm = [1, 0]> (k_found)

            zero_float = Constant <value = float[1] {0}> ()
            zero_value = CastLike (zero_float, q)

            q_grid = Shape (q_valid)
            q_width = Shape <start = 1> (q)
            q_shape = Concat <axis = 0> (q_grid, q_width)
            q_zeros = Expand (zero_value, q_shape)
            q_padded = ScatterND (q_zeros, q_places, q)

            k_grid = Shape (k_valid)
            k_width = Shape <start = 1> (k)
            k_shape = Concat <axis = 0> (k_grid, k_width)
            k_zeros = Expand (zero_value, k_shape)
            k_kept = Gather <axis = 0> (k, key_index)
            k_padded = ScatterND (k_zeros, k_places, k_kept)

            v_width = Shape <start = 1> (v)
            v_shape = Concat <axis = 0> (k_grid, v_width)
            v_zeros = Expand (zero_value, v_shape)
            v_kept = Gather <axis = 0> (v, key_index)
            v_padded = ScatterND (v_zeros, k_places, v_kept)

            k_row = Unsqueeze (k_valid, axis_1)
            mask_rows = Unsqueeze (q_valid, axis_2)
            mask_shape_2d = Or (mask_rows, k_row)
            key_mask_3d = And (mask_shape_2d, k_row)
            key_mask = Unsqueeze (key_mask_3d, axis_1)

            keep_two = Constant <value = int64[2] {0, 0}> ()
            q_heads_count = Constant <value_int: int = @q_num_heads> ()
            q_heads_vector = Reshape (q_heads_count, minus_one)
            q_split_shape = Concat <axis = 0> (keep_two, q_heads_vector, minus_one)
            kv_heads_count = Constant <value_int: int = @kv_num_heads> ()
            kv_heads_vector = Reshape (kv_heads_count, minus_one)
            kv_split_shape = Concat <axis = 0> (keep_two, kv_heads_vector, minus_one)
            q_split = Reshape (q_padded, q_split_shape)
            k_split = Reshape (k_padded, kv_split_shape)
            v_split = Reshape (v_padded, kv_split_shape)
            q_heads = Transpose <perm = [0, 2, 1, 3]> (q_split)
            k_heads = Transpose <perm = [0, 2, 1, 3]> (k_split)
            v_heads = Transpose <perm = [0, 2, 1, 3]> (v_split)
            c_heads = Attention <scale: float = @scale, is_causal: int = @is_causal>
                (q_heads, k_heads, v_heads, key_mask)
            c_split = Transpose <perm = [0, 2, 1, 3]> (c_heads)
            join_shape = Concat <axis = 0> (keep_two, minus_one)
            padded = Reshape (c_split, join_shape)
            context = GatherND (padded, q_places)
        }
        """,
        shape_rule=_varlen_shapes,
        flops=_varlen_flops,
        dtype_rule=lambda dtypes: [dtypes[0]],
    )
)


def _masked_varlen_flops(
    shapes: Sequence[Dims | None], attributes: Mapping[str, ir.Attr]
) -> sympy.Expr:
    """As for ``VarlenAttention``; a mask saves no work."""
    tokens, hidden = known_dims(shapes, 0)
    batch = known_dims(shapes, 3)[0] - 1
    return 4 * tokens * (tokens / batch) * hidden


MASKED_VARLEN_ATTENTION = register(
    DialectOp(
        name="MaskedVarlenAttention",
        documentation="""Attention within each sequence of a packed batch, under a mask.

        The mask is that of the padded batch: windows, relative positions, biases of any kind.

        q: float[T, q_num_heads * head_size]; k: float[T, kv_num_heads * head_size];
        v: float[T, kv_num_heads * v_head_size]: the kept tokens of all rows; all of them are keys.
        cu_seqlens: int64[B + 1], where each row begins in ``q``.
        index: int64[T], where each token lies among the B * S positions, ascending.
        attn_mask: bool or float[B, H or 1, S, S], as ``Attention`` takes it: false hides, a number
        is added to the score. Entries of positions that are not kept are not read.
        Gives float[T, q_num_heads * v_head_size]. Each query must see a key.

        q_num_heads, kv_num_heads: heads, the second divides the first (grouped-query attention).
        scale: factor on the scores.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        MaskedVarlenAttention <q_num_heads, kv_num_heads, scale>
            (q, k, v, cu_seqlens, index, attn_mask) => (context)
        {
            zero_float = Constant <value = float[1] {0}> ()
            zero_value = CastLike (zero_float, q)
            axis_1 = Constant <value = int64[1] {1}> ()
            minus_one = Constant <value = int64[1] {-1}> ()
            keep_two = Constant <value = int64[2] {0, 0}> ()
            one = Constant <value = int64[1] {1}> ()

            boundaries = Shape (cu_seqlens)
            batch = Sub (boundaries, one)
            sequence = Shape <start = 3> (attn_mask)
            positions = Mul (batch, sequence)
            places = Unsqueeze (index, axis_1)

            q_width = Shape <start = 1> (q)
            q_flat_shape = Concat <axis = 0> (positions, q_width)
            q_zeros = Expand (zero_value, q_flat_shape)
            q_flat = ScatterND (q_zeros, places, q)
            k_width = Shape <start = 1> (k)
            k_flat_shape = Concat <axis = 0> (positions, k_width)
            k_zeros = Expand (zero_value, k_flat_shape)
            k_flat = ScatterND (k_zeros, places, k)
            v_width = Shape <start = 1> (v)
            v_flat_shape = Concat <axis = 0> (positions, v_width)
            v_zeros = Expand (zero_value, v_flat_shape)
            v_flat = ScatterND (v_zeros, places, v)

            q_heads_count = Constant <value_int: int = @q_num_heads> ()
            q_heads_vector = Reshape (q_heads_count, minus_one)
            q_shape = Concat <axis = 0> (batch, sequence, q_heads_vector, minus_one)
            kv_heads_count = Constant <value_int: int = @kv_num_heads> ()
            kv_heads_vector = Reshape (kv_heads_count, minus_one)
            kv_shape = Concat <axis = 0> (batch, sequence, kv_heads_vector, minus_one)
            q_split = Reshape (q_flat, q_shape)
            k_split = Reshape (k_flat, kv_shape)
            v_split = Reshape (v_flat, kv_shape)
            q_heads = Transpose <perm = [0, 2, 1, 3]> (q_split)
            k_heads = Transpose <perm = [0, 2, 1, 3]> (k_split)
            v_heads = Transpose <perm = [0, 2, 1, 3]> (v_split)
            c_heads = Attention <scale: float = @scale> (q_heads, k_heads, v_heads, attn_mask)
            c_split = Transpose <perm = [0, 2, 1, 3]> (c_heads)
            join_shape = Concat <axis = 0> (keep_two, minus_one)
            joined = Reshape (c_split, join_shape)
            c_width = Shape <start = 2> (joined)
            flat_shape = Concat <axis = 0> (positions, c_width)
            padded = Reshape (joined, flat_shape)
            context = Gather <axis = 0> (padded, index)
        }
        """,
        shape_rule=_varlen_shapes,
        flops=_masked_varlen_flops,
        dtype_rule=lambda dtypes: [dtypes[0]],
    )
)
