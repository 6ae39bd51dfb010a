"""Dialect operators of hard attention (the best keys of each query) and of local attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import sympy

from .attention_ops import VARLEN_ATTENTION
from .dialect import DialectOp, Dims, known_dims, register

_ATTENDS = "(q_heads, k_heads, v_heads, key_mask)"


def _varlen_function(name: str, attributes: str, mask: str) -> str:
    """The reference function of ``VarlenAttention`` with less of its mask."""
    text = VARLEN_ATTENTION.function.replace(
        "VarlenAttention <q_num_heads, kv_num_heads, scale, is_causal>",
        f"{name} <q_num_heads, kv_num_heads, scale, is_causal, {attributes}>",
    )
    text = text.replace('["" : 23]', '["" : 23, "dechaff" : 1]')
    head, attends, tail = text.partition("            c_heads = Attention")
    return head + mask + attends + tail.replace(_ATTENDS, "(q_heads, k_heads, v_heads, kept)")


def _mask_shapes(shapes: Sequence[Dims | None], attributes: Mapping[str, ir.Attr]) -> list[Dims]:
    batch, queries, _width = known_dims(shapes, 0)
    keys = known_dims(shapes, 1)[1]
    return [(batch, sympy.Integer(attributes["q_num_heads"].as_int()), queries, keys)]


def _mask_flops(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> sympy.Expr:
    """The scores; to sort them is counted as nothing, though it is most of the time."""
    return 2 * sympy.Mul(*known_dims(shapes, 0)) * known_dims(shapes, 1)[1]


TOP_K_MASK = register(
    DialectOp(
        name="TopKMask",
        documentation="""Which keys each query attends to: those with its k largest scores.

        q: float[B, Sq, q_num_heads * d]. key: float[B, Sk, kv_num_heads * d].
        allowed: bool, broadcast to [B, H, Sq, Sk]; the keys to choose from.
        Gives bool[B, H, Sq, Sk]. Keys whose score is that of the last one chosen are chosen too.

        q_num_heads, kv_num_heads: heads. is_causal: 1 if a query chooses from keys at or before
        its own position. k: how many keys; 0 to choose by ``fraction``, the share of the allowed
        keys, rounded up. At least one key is chosen; with k or the fraction at all keys, the mask
        is ``allowed``.

        Hard attention of AxFormer (arXiv 2010.03688, selective hard attention). To know the k best
        takes all scores: a mask saves no time.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        TopKMask <q_num_heads, kv_num_heads, is_causal, k, fraction> (q, key, allowed) => (chosen)
        {
            zero = Constant <value = int64 {0}> ()
            one = Constant <value = int64 {1}> ()
            one_vector = Constant <value = int64[1] {1}> ()
            minus_one = Constant <value = int64[1] {-1}> ()
            keep_two = Constant <value = int64[2] {0, 0}> ()
            q_heads_count = Constant <value_int: int = @q_num_heads> ()
            q_heads_vector = Reshape (q_heads_count, minus_one)
            kv_heads_count = Constant <value_int: int = @kv_num_heads> ()
            kv_heads_vector = Reshape (kv_heads_count, minus_one)
            q_split_shape = Concat <axis = 0> (keep_two, q_heads_vector, minus_one)
            q_split = Reshape (q, q_split_shape)
            q_heads = Transpose <perm = [0, 2, 1, 3]> (q_split)
            k_split_shape = Concat <axis = 0> (keep_two, kv_heads_vector, minus_one)
            k_split = Reshape (key, k_split_shape)
            k_transposed = Transpose <perm = [0, 2, 3, 1]> (k_split)
            q_shape = Shape (q_heads)
            k_width = Shape <start = 2> (k_transposed)
            batch = Shape <start = 0, end = 1> (q)
            queries = Shape <start = 1, end = 2> (q)
            keys = Shape <start = 1, end = 2> (key)
            group = Div (q_heads_vector, kv_heads_vector)
            grouped_axis = Constant <value = int64[1] {2}> ()
            k_apart = Unsqueeze (k_transposed, grouped_axis)
            k_group_shape = Concat <axis = 0> (batch, kv_heads_vector, group, k_width)
            k_repeated = Expand (k_apart, k_group_shape)
            k_shape = Concat <axis = 0> (batch, q_heads_vector, k_width)
            k_heads = Reshape (k_repeated, k_shape)
            scores = MatMul (q_heads, k_heads)

            scores_shape = Shape (scores)
            key_count = Squeeze (keys)
            query_count = Squeeze (queries)
            key_places = Range (zero, key_count, one)
            query_places = Range (zero, query_count, one)
            query_column = Unsqueeze (query_places, one_vector)
            before = LessOrEqual (key_places, query_column)
            causal_count = Constant <value_int: int = @is_causal> ()
            any_place = Equal (causal_count, zero)
            seen = Or (before, any_place)
            open_keys = And (allowed, seen)
            full_mask = Expand (open_keys, scores_shape)
            lowest_float = Constant <value = float {-3e38}> ()
            lowest = CastLike (lowest_float, scores)
            masked = Where (full_mask, scores, lowest)
            in_order, places = TopK <axis = -1> (masked, keys)

            open_numbers = Cast <to = 1> (full_mask)
            open_count = ReduceSum <keepdims = 1> (open_numbers, minus_one)
            share = Constant <value_float: float = @fraction> ()
            part = Mul (open_count, share)
            part_up = Ceil (part)
            part_count = Cast <to = 7> (part_up)
            fixed_count = Constant <value_int: int = @k> ()
            wanted = Max (part_count, fixed_count)
            not_more = Min (wanted, key_count)
            at_least_one = Max (not_more, one)
            last_place = Sub (at_least_one, one)
            last_chosen = GatherElements <axis = -1> (in_order, last_place)
            good_enough = GreaterOrEqual (masked, last_chosen)
            chosen = And (good_enough, full_mask)
        }
        """,
        shape_rule=_mask_shapes,
        flops=_mask_flops,
        dtype_rule=lambda _: [ir.DataType.BOOL],
    )
)


def _more_than_varlen(
    shapes: Sequence[Dims | None], attributes: Mapping[str, ir.Attr]
) -> sympy.Expr:
    return 2 * VARLEN_ATTENTION.flops(shapes, attributes)


TOP_K_VARLEN_ATTENTION = register(
    DialectOp(
        name="TopKVarlenAttention",
        documentation="""``VarlenAttention`` in which each query attends to its k best keys only.

        Inputs, outputs and attributes are those of ``VarlenAttention``, with ``k`` and ``fraction``
        as for ``TopKMask``.
        """,
        function=_varlen_function(
            "TopKVarlenAttention",
            "k, fraction",
            """            kept = dechaff.TopKMask <q_num_heads: int = @q_num_heads,
                kv_num_heads: int = @kv_num_heads, is_causal: int = @is_causal, k: int = @k,
                fraction: float = @fraction> (q_padded, k_padded, key_mask)
""",
        ),
        shape_rule=VARLEN_ATTENTION.shape_rule,
        flops=_more_than_varlen,
        dtype_rule=VARLEN_ATTENTION.dtype_rule,
    )
)


def _local_flops(shapes: Sequence[Dims | None], attributes: Mapping[str, ir.Attr]) -> sympy.Expr:
    """Scores and context with the keys of a window, and with the global tokens."""
    tokens, hidden = known_dims(shapes, 0)
    seen = 2 * attributes["window"].as_int() + 1 + attributes["num_global"].as_int()
    dense = VARLEN_ATTENTION.flops(shapes, attributes)
    return sympy.Min(4 * tokens * hidden * seen, dense)


LOCAL_VARLEN_ATTENTION = register(
    DialectOp(
        name="LocalVarlenAttention",
        documentation="""``VarlenAttention`` in which a query attends to keys near it.

        Inputs, outputs and attributes are those of ``VarlenAttention``. window: how many tokens on
        each side a query sees. num_global: how many first tokens of each row see all tokens of the
        row, and are seen by all. Distances count the kept tokens of the row.

        The static patterns of Longformer (arXiv 2004.05150, section 3.1), without its separate
        projections for global tokens. With a window of all tokens it is ``VarlenAttention``.
        """,
        function=_varlen_function(
            "LocalVarlenAttention",
            "window, num_global",
            """            q_column = Unsqueeze (q_positions, axis_1)
            first_column = Constant <value = int64 {0}> ()
            row_of_key = Gather <axis = 1> (k_places, first_column)
            row_starts = Gather <axis = 0> (q_starts, row_of_key)
            place_in_row = Sub (key_index, row_starts)
            no_places = Expand (zero, k_grid)
            key_places = ScatterND (no_places, k_places, place_in_row)
            key_places_row = Unsqueeze (key_places, axis_1)
            distances = Sub (q_column, key_places_row)
            distance = Abs (distances)
            reach = Constant <value_int: int = @window> ()
            near = LessOrEqual (distance, reach)
            globals = Constant <value_int: int = @num_global> ()
            from_global = Less (q_column, globals)
            to_global = Less (key_places_row, globals)
            either_global = Or (from_global, to_global)
            pattern_rows = Or (near, either_global)
            pattern = Unsqueeze (pattern_rows, axis_1)
            kept = And (key_mask, pattern)
""",
        ),
        shape_rule=VARLEN_ATTENTION.shape_rule,
        flops=_local_flops,
        dtype_rule=VARLEN_ATTENTION.dtype_rule,
    )
)
