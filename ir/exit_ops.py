"""Dialect operators of early exits: how sure a row is, and which packed tokens are a row's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import sympy

from .dialect import DialectOp, Dims, known_dims, register

_FLOPS_PER_SIMILARITY_ELEMENT = 6
_FLOPS_PER_SOFTMAX_ELEMENT = 12


def _per_row(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> list[Dims]:
    return [known_dims(shapes, 0)[:1]]


def _per_mask_row(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> list[Dims]:
    return [known_dims(shapes, 3)[:1]]


def _similarity_flops(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> sympy.Expr:
    return _FLOPS_PER_SIMILARITY_ELEMENT * sympy.Mul(*known_dims(shapes, 0))


def _softmax_flops(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> sympy.Expr:
    return _FLOPS_PER_SOFTMAX_ELEMENT * sympy.Mul(*known_dims(shapes, 0))


def _float_like_first(dtypes: Sequence[ir.DataType | None]) -> list[ir.DataType | None]:
    return [dtypes[0]]


_COSINE = """
            dot = ReduceSum <keepdims = 0> (dot_tokens, one)
            square = ReduceSum <keepdims = 0> (square_tokens, one)
            square_before = ReduceSum <keepdims = 0> (square_before_tokens, one)
            product = Mul (square, square_before)
            norms = Sqrt (product)
            least_float = Constant <value = float {1e-30}> ()
            least = CastLike (least_float, h)
            safe_norms = Max (norms, least)
            similarity = Div (dot, safe_norms)
"""
"""From sums of each token's products [B, S] to the cosine of each row."""

ROW_SIMILARITY = register(
    DialectOp(
        name="RowSimilarity",
        documentation="""How little a layer changed each row: the cosine of before and after.

        h, previous: float[B, S, D], the states after a layer and after the one before it.
        keep_mask: bool[B, S] (or what broadcasts to it), the tokens that count.
        Gives float[B]: the cosine of the two states, taken as one vector over the row's tokens and
        channels; 0 for a row without tokens. No row's result depends on another row.

        The exit test of MuE (CVPR 2023, section 3.2), which takes it over the whole batch.
        """,
        function=f"""
        <domain: "dechaff", opset_import: ["" : 23]>
        RowSimilarity (h, previous, keep_mask) => (similarity)
        {{
            one = Constant <value = int64[1] {{1}}> ()
            last = Constant <value = int64[1] {{-1}}> ()
            kept = CastLike (keep_mask, h)
            dots = Mul (h, previous)
            dots_sum = ReduceSum <keepdims = 0> (dots, last)
            dot_tokens = Mul (dots_sum, kept)
            squares = Mul (h, h)
            squares_sum = ReduceSum <keepdims = 0> (squares, last)
            square_tokens = Mul (squares_sum, kept)
            squares_before = Mul (previous, previous)
            squares_before_sum = ReduceSum <keepdims = 0> (squares_before, last)
            square_before_tokens = Mul (squares_before_sum, kept)
{_COSINE}
        }}
        """,
        shape_rule=_per_row,
        flops=_similarity_flops,
        dtype_rule=_float_like_first,
    )
)

PACKED_ROW_SIMILARITY = register(
    DialectOp(
        name="PackedRowSimilarity",
        documentation="""``RowSimilarity`` of packed states.

        h, previous: float[T, D], the kept tokens of all rows.
        token_index: int64[T], flat positions ``b * S + s``. keep_mask: bool[B, S].
        Gives float[B]: the cosine of the two states of each row; 0 for a row without tokens. Sums
        run over each row's own positions, so that no row's result depends on another row.
        """,
        function=f"""
        <domain: "dechaff", opset_import: ["" : 23]>
        PackedRowSimilarity (h, previous, token_index, keep_mask) => (similarity)
        {{
            one = Constant <value = int64[1] {{1}}> ()
            last = Constant <value = int64[1] {{-1}}> ()
            dots = Mul (h, previous)
            dots_sum = ReduceSum <keepdims = 0> (dots, last)
            dot_tokens = dechaff.Unpack (dots_sum, token_index, keep_mask)
            squares = Mul (h, h)
            squares_sum = ReduceSum <keepdims = 0> (squares, last)
            square_tokens = dechaff.Unpack (squares_sum, token_index, keep_mask)
            squares_before = Mul (previous, previous)
            squares_before_sum = ReduceSum <keepdims = 0> (squares_before, last)
            square_before_tokens = dechaff.Unpack (squares_before_sum, token_index, keep_mask)
{_COSINE}
        }}
        """.replace('["" : 23]', '["" : 23, "dechaff" : 1]'),
        shape_rule=_per_mask_row,
        flops=_similarity_flops,
        dtype_rule=_float_like_first,
    )
)


def _summary_shapes(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> list[Dims]:
    batch, _sequence, width = known_dims(shapes, 0)
    return [(batch, 2 * width)]


TOKEN_SUMMARY = register(
    DialectOp(
        name="TokenSummary",
        documentation="""What a light exit head reads of each row: its first token beside the mean.

        h: float[B, S, D]. keep_mask: bool[B, S] or what broadcasts to it, the tokens that count.
        Gives float[B, 2 * D]: the state of the first token that counts, then the mean over all
        that do; zeros for a row without tokens.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        TokenSummary (h, keep_mask) => (summary)
        {
            zero = Constant <value = int64 {0}> ()
            one = Constant <value = int64[1] {1}> ()
            last = Constant <value = int64[1] {-1}> ()
            grid = Shape <start = 0, end = 2> (h)
            full_mask = Expand (keep_mask, grid)
            kept = CastLike (full_mask, h)
            kept_column = Unsqueeze (kept, last)
            tokens = Mul (h, kept_column)
            sum = ReduceSum <keepdims = 0> (tokens, one)
            count = ReduceSum <keepdims = 1> (kept, one)
            least_float = Constant <value = float {1}> ()
            least = CastLike (least_float, h)
            divisor = Max (count, least)
            mean = Div (sum, divisor)
            places = ArgMax <axis = 1, keepdims = 1> (kept)
            first = GatherND <batch_dims = 1> (tokens, places)
            summary = Concat <axis = 1> (first, mean)
        }
        """,
        shape_rule=_summary_shapes,
        flops=lambda shapes, _: 2 * sympy.Mul(*known_dims(shapes, 0)),
        dtype_rule=_float_like_first,
    )
)


def _packed_summary_shapes(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> list[Dims]:
    return [(known_dims(shapes, 2)[0], 2 * known_dims(shapes, 0)[1])]


PACKED_TOKEN_SUMMARY = register(
    DialectOp(
        name="PackedTokenSummary",
        documentation="""``TokenSummary`` of packed states.

        h: float[T, D]. token_index: int64[T], flat positions ``b * S + s``. keep_mask: bool[B, S].
        Gives float[B, 2 * D].
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23, "dechaff" : 1]>
        PackedTokenSummary (h, token_index, keep_mask) => (summary)
        {
            padded = dechaff.Unpack (h, token_index, keep_mask)
            summary = dechaff.TokenSummary (padded, keep_mask)
        }
        """,
        shape_rule=_packed_summary_shapes,
        flops=lambda shapes, _: 2 * sympy.Mul(*known_dims(shapes, 0)),
        dtype_rule=_float_like_first,
    )
)


def _row_tokens_shapes(_: Sequence[Dims | None], __: Mapping[str, ir.Attr]) -> list[Dims]:
    raise ValueError("how many tokens the rows have is known at run time only")


ROW_TOKENS = register(
    DialectOp(
        name="RowTokens",
        documentation="""Where the tokens of some rows lie among the packed tokens of all.

        rows: int64[R], ascending. token_index: int64[T], flat positions ``b * S + s``.
        keep_mask: bool[B, S].
        Gives int64[t]: the packed places of all tokens of these rows, ascending.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        RowTokens (rows, token_index, keep_mask) => (tokens)
        {
            minus_one = Constant <value = int64[1] {-1}> ()
            sequence = Shape <start = 1, end = 2> (keep_mask)
            batch = Shape <start = 0, end = 1> (keep_mask)
            row_of_token = Div (token_index, sequence)
            none = ConstantOfShape <value = int64[1] {0}> (batch)
            count = Shape (rows)
            ones = ConstantOfShape <value = int64[1] {1}> (count)
            chosen = ScatterElements <axis = 0> (none, rows, ones)
            chosen_tokens = Gather <axis = 0> (chosen, row_of_token)
            found = NonZero (chosen_tokens)
            tokens = Reshape (found, minus_one)
        }
        """,
        shape_rule=_row_tokens_shapes,
        flops=lambda shapes, _: sympy.Integer(0),
        dtype_rule=lambda _: [ir.DataType.INT64],
    )
)

SOFTMAX_ENTROPY = register(
    DialectOp(
        name="SoftmaxEntropy",
        documentation="""How unsure a classifier is: the entropy of its distribution, in nats.

        logits: float[..., C]. Gives float[...], from 0 (sure) to ln C.
        The exit test of DeeBERT (ACL 2020, section 3.2).
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        SoftmaxEntropy (logits) => (entropy)
        {
            last = Constant <value = int64[1] {-1}> ()
            logarithms = LogSoftmax <axis = -1> (logits)
            probabilities = Exp (logarithms)
            terms = Mul (probabilities, logarithms)
            sum = ReduceSum <keepdims = 0> (terms, last)
            entropy = Neg (sum)
        }
        """,
        shape_rule=lambda shapes, _: [known_dims(shapes, 0)[:-1]],
        flops=_softmax_flops,
        dtype_rule=_float_like_first,
    )
)

SOFTMAX_GAP = register(
    DialectOp(
        name="SoftmaxGap",
        documentation="""How sure a classifier is: its largest probability less the second.

        logits: float[..., C], C at least 2. Gives float[...], from 0 to 1 (sure).
        The softmax response of CALM (NeurIPS 2022, section 3.5).
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        SoftmaxGap (logits) => (gap)
        {
            two = Constant <value = int64[1] {2}> ()
            first = Constant <value = int64 {0}> ()
            second = Constant <value = int64 {1}> ()
            probabilities = Softmax <axis = -1> (logits)
            best, places = TopK <axis = -1> (probabilities, two)
            largest = Gather <axis = -1> (best, first)
            runner_up = Gather <axis = -1> (best, second)
            gap = Sub (largest, runner_up)
        }
        """,
        shape_rule=lambda shapes, _: [known_dims(shapes, 0)[:-1]],
        flops=_softmax_flops,
        dtype_rule=_float_like_first,
    )
)
