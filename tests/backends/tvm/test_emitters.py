"""Operators give on TVM what they give in ONNX Runtime, at several sizes of their symbols.

Each graph holds many operators and is compiled once: compiling is what takes the time.
"""

from __future__ import annotations

import numpy as np
import pytest

from dechaff.backends.tvm import compile_module, resolve_target
from dechaff.ir import DechaffError, parse
from tests.dechaff.examples import numbers

from .compiling import compare, refused

HEADER = '<ir_version: 10, opset_import: ["" : 23, "dechaff" : 1]>\n'
SIZES: tuple[dict[str, int], ...] = ({}, {"B": 1, "S": 1}, {"B": 3, "S": 9})


def test_operators_on_elements() -> None:
    compare(
        HEADER
        + """
        g (float[B,S,4] x, float[B,S,4] y, float[S,1] column, bool[B,S,1] c, int64[B,S,4] i)
            => (abs, added, joined, ceiling, clipped, cosine, divided, same, errors, powers, floors,
                gelus, tanhs, more, least, capped, whole, halves, negated, opposite, rooted, square,
                turned, rounded, logistic, signs, chosen, remainder, truth, back, cubes, agree)
        <float low = {-0.5}, float high = {0.5}, float one = {1.0}, float two = {2.0},
         int64 three = {3}, float third = {3.0}>
        {
            abs = Abs (x)
            added = Add (x, column)
            joined = And (c, c)
            ceiling = Ceil (x)
            clipped = Clip (x, low, high)
            cosine = Cos (x)
            large = Add (abs, one)
            divided = Div (y, large)
            same = Equal (i, i)
            errors = Erf (x)
            powers = Exp (x)
            floors = Floor (x)
            gelus = Gelu (x)
            tanhs = Gelu <approximate = "tanh"> (x)
            more = Greater (x, y)
            least = LessOrEqual (x, y)
            agree = Equal (c, more)
            capped = Min (x, y, column)
            whole = Div (i, three)
            halves = LeakyRelu <alpha = 0.5> (x)
            negated = Neg (x)
            opposite = Not (c)
            rooted = Sqrt (abs)
            square = Pow (x, two)
            turned = Sin (x)
            rounded = Round (x)
            logistic = Sigmoid (x)
            signs = Sign (x)
            chosen = Where (c, x, y)
            remainder = Mod (i, three)
            truth = Cast <to = 9> (x)
            back = CastLike (i, x)
            cubes = Pow (large, third)
        }
        """,
        SIZES,
    )


def test_operators_on_shapes() -> None:
    compare(
        HEADER
        + """
        g (float[B,S,4] x, float[S,1] column)
            => (merged, split_left, split_right, turned, wide, narrow, joined, repeated, first,
                last, backward, inner, counted, filled, padded, lower, flat, sizes, tripled)
        <int64[2] merge = {0, -1}, int64[1] front = {0}, int64[1] middle = {1}, int64[1] end = {2},
         int64[1] minus = {-1}, int64[1] far = {9223372036854775807}, int64[2] parts = {1, 3},
         int64[3] shape = {1, 1, 4}, int64[6] pads = {0, 1, 0, 0, 2, 0}, int64 zero = {0},
         int64 one = {1}, int64[3] tiles = {1, 2, 1}, int64 two = {2}, int64[1] least = {-1000}>
        {
            merged_2d = Reshape (x, merge)
            merged = Unsqueeze (merged_2d, middle)
            split_left, split_right = Split <axis = 2> (x, parts)
            turned = Transpose <perm = [2, 0, 1]> (x)
            wide = Unsqueeze (column, front)
            narrow = Squeeze (wide, front)
            joined = Concat <axis = 1> (x, x)
            size = Shape (x)
            repeated = Expand (column, size)
            first = Slice (x, front, middle, middle)
            last = Slice (x, minus, far, middle)
            backward = Slice (x, minus, least, middle, minus)
            inner = Slice (x, middle, end, end)
            length_1d = Shape <start = 1, end = 2> (x)
            length = Squeeze (length_1d)
            counted = Range (zero, length, two)
            filled = ConstantOfShape (length_1d)
            padded = Pad (x, pads)
            lower = Trilu <upper = 0> (x)
            flat = Flatten <axis = 2> (x)
            sizes = Concat <axis = 0> (length_1d, front)
            tripled = Tile (x, tiles)
        }
        """,
        SIZES,
    )


def test_operators_by_index() -> None:
    compare(
        HEADER
        + """
        g (float[B,S,4] x, int64[B,S] picks, int64[B,S,4] places, bool[N] kept, int64[M,2] pairs,
           float[M,4] updates, float[B,S,2] placed)
            => (rows, negative, chosen, gathered, scattered, turned, found, running, left,
                backward, best, top, which)
        <int64[2] ends = {0, -1}, int64 axis = {1}, int64[1] count = {2}>
        {
            rows = Gather <axis = 2> (x, picks)
            negative = Gather <axis = 1> (x, ends)
            chosen = GatherElements <axis = 2> (x, places)
            gathered = GatherND (x, pairs)
            scattered = ScatterND (x, pairs, updates)
            sizes = Shape (placed)
            columns = Expand (ends, sizes)
            turned = ScatterElements <axis = 2> (x, columns, placed)
            found = NonZero (kept)
            running = CumSum (x, axis)
            left = CumSum <exclusive = 1> (x, axis)
            backward = CumSum <reverse = 1> (x, axis)
            best = ArgMax <axis = 1> (x)
            top, which = TopK <axis = 2> (x, count)
        }
        """,
        [{"N": 9}, {"N": 1, "B": 2, "S": 2}],
        given={"pairs": np.array([[0, 1], [1, 0], [1, 1]], np.int64)},
    )


def test_nothing_is_found_where_nothing_is_true() -> None:
    text = HEADER + "g (bool[N] kept) => (int64[1,M] found) { found = NonZero (kept) }"
    compare(text, given={"kept": np.zeros(4, bool)})
    compiled = compile_module(parse(text), resolve_target("llvm"))
    with pytest.raises(DechaffError, match="input 'kept' has no elements"):
        compiled.run({"kept": np.zeros(0, bool)})


def test_products_reductions_and_normalizations() -> None:
    compare(
        HEADER
        + """
        g (float[B,S,8] x, float[8,6] w, float[6,8] v, float[6] bias, float[8] scale,
           float[8] shift, float[B,8,S] k, float[B,8,6,6] image, float[4,4,3,3] filter)
            => (product, dense, turned, scores, weights, logs, mean, total, largest, length,
                squares, centered, whole, root, convolved, pooled, contracted)
        <int64[1] last = {-1}, float[2,2] unused = {1, 2, 3, 4}>
        {
            product = MatMul (x, w)
            flat = Flatten <axis = 2> (x)
            dense = Gemm <alpha = 0.5, beta = 2.0> (flat, w, bias)
            turned = Gemm <transB = 1> (flat, v, bias)
            scores = MatMul (x, k)
            weights = Softmax (scores)
            logs = LogSoftmax (scores)
            mean = ReduceMean <keepdims = 0> (x, last)
            total = ReduceSum (x, last)
            largest = ReduceMax (x, last)
            length = ReduceL2 (x, last)
            squares = ReduceSumSquare (x)
            centered = LayerNormalization (x, scale, shift)
            whole = LayerNormalization <epsilon = 0.1> (x, scale)
            root = RMSNormalization (x, scale)
            convolved = Conv <group = 2, pads = [1, 0, 0, 1], strides = [2, 1]> (image, filter)
            pooled = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (image)
            contracted = Einsum <equation = "bsd,bdt->bst"> (x, k)
        }
        """,
        SIZES,
        tolerance=1e-5,
    )


def test_convolutions_whose_windows_tile_the_image_or_do_not() -> None:
    text = f"""
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[B,3,6,8] image, float[B,3,7,8] odd) => (plain, biased, overlapping, cut, grouped)
        <float[5,3,3,2] w = {numbers(5, 3, 3, 2)}, float[5] b = {numbers(5)},
         float[3,1,3,2] each = {numbers(3, 1, 3, 2)}>
        {{
            plain = Conv <strides = [3, 2]> (image, w)
            biased = Conv <strides = [3, 2]> (image, w, b)
            overlapping = Conv <strides = [1, 2]> (image, w, b)
            cut = Conv <strides = [3, 2]> (odd, w, b)
            grouped = Conv <strides = [3, 2], group = 3> (image, each)
        }}
    """
    compare(text, [{"B": 1}, {"B": 3}], tolerance=1e-5)


ATTENTION = """
    g (float[B,S,8] q, float[B,P,4] k, float[B,P,4] v, bool[B,1,S,P] mask, float[S,P] bias,
       float[B,4,S,2] heads, float[B,2,R,2] past, float[B,2,S,2] key)
        => (plain, masked, biased, causal, capped, grown, keys, values)
    {
        plain = Attention <q_num_heads = 4, kv_num_heads = 2> (q, k, v)
        masked = Attention <q_num_heads = 4, kv_num_heads = 2, scale = 0.3> (q, k, v, mask)
        biased = Attention <q_num_heads = 4, kv_num_heads = 2> (q, k, v, bias)
        causal = Attention <q_num_heads = 4, kv_num_heads = 2, is_causal = 1> (q, k, v)
        capped = Attention <q_num_heads = 4, kv_num_heads = 2, softcap = 2.0> (q, k, v)
        grown, keys, values = Attention <is_causal = 1> (heads, key, key, , past, past)
    }
"""


def test_attention_with_every_kind_of_mask() -> None:
    sizes = [{"P": 5, "R": 3}, {"B": 1, "S": 1, "P": 4, "R": 1}, {"S": 6, "P": 6, "R": 2}]
    compare(HEADER + ATTENTION, sizes, tolerance=1e-5)


def test_a_query_that_sees_no_key_gives_zero() -> None:
    mask = np.ones((2, 1, 5, 5), bool)
    mask[1, :, 2:] = False
    bias = np.zeros((5, 5), np.float32)
    bias[1], bias[2] = -np.inf, np.finfo(np.float32).min
    given = {"mask": mask, "bias": bias}
    compare(HEADER + ATTENTION, [{"P": 5, "R": 3}], given=given, tolerance=1e-5)


def test_rotary_embedding_turns_halves_and_neighbours() -> None:
    compare(
        HEADER
        + """
        g (float[B,2,S,8] x, float[B,S,16] flat, float[20,4] cosine, float[20,4] sine,
           float[B,S,4] own_cosine, float[B,S,4] own_sine, int64[B,S] positions,
           float[20,2] short_cosine, float[20,2] short_sine)
            => (turned, neighbours, direct, partial)
        {
            turned = RotaryEmbedding (x, cosine, sine, positions)
            neighbours = RotaryEmbedding <interleaved = 1> (x, cosine, sine, positions)
            direct = RotaryEmbedding <num_heads = 2> (flat, own_cosine, own_sine)
            partial = RotaryEmbedding <rotary_embedding_dim = 4>
                (x, short_cosine, short_sine, positions)
        }
        """,
        SIZES,
    )


def test_missing_operators_are_reported_all_at_once() -> None:
    module = parse(
        HEADER
        + """
        g (float[B,4] x) => (float[B,4] z)
        {
            y = Hardmax (x)
            w = Mish (y)
            z = Add (x, w)
        }
        """,
        source="odd.onnx",
    )
    message = refused(module)
    assert "odd.onnx" in message
    assert "Hardmax (x)" in message
    assert "Mish (y)" in message


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('y = Pad <mode = "reflect"> (x, pads)', "only padding with a constant"),
        ("n = NonZero (x) y = Cast <to = 1> (n)", "non-zero elements of a vector"),
    ],
)
def test_what_an_emitter_cannot_lower_is_named_with_the_reason(body: str, reason: str) -> None:
    text = f"g (float[B,4] x) => (y) <int64[4] pads = {{0, 1, 0, 1}}> {{ {body} }}"
    message = refused(parse(HEADER + text))
    assert reason in message
    assert "cannot be lowered for TVM" in message
