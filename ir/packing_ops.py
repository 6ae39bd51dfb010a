"""Dialect operators that move tokens between the padded layout and the packed one.

Padded: ``[B, S, ...]``, a row per sequence. Packed: ``[T, ...]``, the ``T`` kept tokens of all
sequences end to end, row by row (ByteTransformer, IPDPS 2023, section III.D: "zero padding").
A *keep mask* ``[B, S]`` says which tokens travel; nothing is assumed about where its zeros lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import sympy

from .dialect import DialectOp, Dims, known_dims, register
from .symbols import symbol

PACKED_TOKENS = symbol("T")
"""Number of packed tokens: known only at run time, at most ``B * S``."""


def packed_sizes(count: int) -> list[str]:
    """``T``, ``T_2``, ``T_3``, ...: names for the tokens that the layouts of a model keep."""
    return [PACKED_TOKENS.name, *(f"{PACKED_TOKENS.name}_{i}" for i in range(2, count + 1))]


def tokens_symbol(attributes: Mapping[str, ir.Attr]) -> sympy.Symbol:
    """The number of tokens that a ``TokenLayout`` keeps, by its attributes."""
    name = attributes.get("tokens")
    return PACKED_TOKENS if name is None else symbol(name.as_string())


def _token_layout_shapes(
    shapes: Sequence[Dims | None], attributes: Mapping[str, ir.Attr]
) -> list[Dims]:
    batch, sequence = known_dims(shapes, 0)
    return [(tokens_symbol(attributes),), (batch + 1,), (batch, sequence)]


TOKEN_LAYOUT = register(
    DialectOp(
        name="TokenLayout",
        documentation="""Where each kept token lies in the packed layout.

        keep_mask: bool[B, S]. Gives
        token_index: int64[T], the flat position ``b * S + s`` of every kept token, ascending;
        cu_seqlens: int32-valued int64[B + 1], where each row's tokens begin (exclusive prefix sum);
        packed_position: int64[B, S], the packed row of each token (of a kept token; elsewhere the
        row of the last kept token before it, or -1).

        tokens: the name of the size T: layouts of different masks keep different numbers.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        TokenLayout <tokens: string = "T"> (keep_mask) => (token_index, cu_seqlens, packed_position)
        {
            minus_one = Constant <value = int64[1] {-1}> ()
            one = Constant <value = int64[1] {1}> ()
            zero = Constant <value = int64 {0}> ()
            zero_row = Constant <value = int64[1] {0}> ()
            flat = Reshape (keep_mask, minus_one)
            indices = NonZero (flat)
            token_index = Reshape (indices, minus_one)
            counts = Cast <to = 7> (keep_mask)
            lengths = ReduceSum <keepdims = 0> (counts, one)
            ends = CumSum (lengths, zero)
            cu_seqlens = Concat <axis = 0> (zero_row, ends)
            flat_counts = Cast <to = 7> (flat)
            running = CumSum (flat_counts, zero)
            position = Sub (running, one)
            mask_shape = Shape (keep_mask)
            packed_position = Reshape (position, mask_shape)
        }
        """,
        shape_rule=_token_layout_shapes,
        flops=lambda shapes, _: sympy.Integer(0),
        dtype_rule=lambda _: [ir.DataType.INT64] * 3,
    )
)


def _pack_shapes(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> list[Dims]:
    return [(known_dims(shapes, 1)[0], *known_dims(shapes, 0)[2:])]


PACK = register(
    DialectOp(
        name="Pack",
        documentation="""Gather the kept tokens: ``x`` [B or 1, S or 1, ...] to [T, ...].

        x: any dtype; a leading dimension of 1 is broadcast against the mask.
        token_index: int64[T], flat positions ``b * S + s``.
        keep_mask: bool[B, S], gives the sizes to broadcast to.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        Pack (x, token_index, keep_mask) => (packed)
        {
            minus_one = Constant <value = int64[1] {-1}> ()
            mask_shape = Shape (keep_mask)
            trailing = Shape <start = 2> (x)
            full_shape = Concat <axis = 0> (mask_shape, trailing)
            full = Expand (x, full_shape)
            flat_shape = Concat <axis = 0> (minus_one, trailing)
            flat = Reshape (full, flat_shape)
            packed = Gather <axis = 0> (flat, token_index)
        }
        """,
        shape_rule=_pack_shapes,
        flops=lambda shapes, _: sympy.Integer(0),
        dtype_rule=lambda dtypes: [dtypes[0]],
    )
)


def _unpack_shapes(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> list[Dims]:
    return [(*known_dims(shapes, 2), *known_dims(shapes, 0)[1:])]


UNPACK = register(
    DialectOp(
        name="Unpack",
        documentation="""Put packed tokens back: ``packed`` [T, ...] to [B, S, ...], else zero.

        packed: any numeric dtype.
        token_index: int64[T], flat positions ``b * S + s``.
        keep_mask: bool[B, S], gives the sizes of the result.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        Unpack (packed, token_index, keep_mask) => (x)
        {
            minus_one = Constant <value = int64[1] {-1}> ()
            count = Size (keep_mask)
            rows = Reshape (count, minus_one)
            trailing = Shape <start = 1> (packed)
            flat_shape = Concat <axis = 0> (rows, trailing)
            zero_float = Constant <value = float[1] {0}> ()
            zero = CastLike (zero_float, packed)
            zeros = Expand (zero, flat_shape)
            column = Unsqueeze (token_index, minus_one)
            flat = ScatterND (zeros, column, packed)
            mask_shape = Shape (keep_mask)
            full_shape = Concat <axis = 0> (mask_shape, trailing)
            x = Reshape (flat, full_shape)
        }
        """,
        shape_rule=_unpack_shapes,
        flops=lambda shapes, _: sympy.Integer(0),
        dtype_rule=lambda dtypes: [dtypes[0]],
    )
)
