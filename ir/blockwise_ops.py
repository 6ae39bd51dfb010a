"""Dialect operators of blockwise compression (BCT): integers whose blocks share a power of two.

A block of ``b`` neighbours holds integers ``q`` and one exponent ``e``; it stands for ``q * 2**e``.
Inside an operator all is done with integers: products, shifts, sums and look-ups. Between operators
values are float32, as in ONNX's own form of quantized graphs, and each is exactly an integer times
a power of two, so that a backend with integers only never needs to make the floats.

Source: "Blockwise Compression of Transformer-based Models without Retraining", arXiv 2304.01483.
Products of integers are written as ``MatMul`` of float32, which holds them exactly up to 2**24:
the runtime's own integer product saturates on processors without VNNI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import sympy

from .dialect import DialectOp, Dims, known_dims, register


def shape_of_x(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> list[Dims]:
    """The first input's shape, for operators that work on each element or row."""
    return [known_dims(shapes, 0)]


def float_result(_: Sequence[ir.DataType | None]) -> list[ir.DataType | None]:
    """float32, whatever comes in."""
    return [ir.DataType.FLOAT]


def no_products(_: Sequence[Dims | None], __: Mapping[str, ir.Attr]) -> sympy.Expr:
    """Counted as what it is for: it moves numbers into fewer bytes, as ``Cast`` does."""
    return sympy.Integer(0)


def _tile_shapes(shapes: Sequence[Dims | None], attributes: Mapping[str, ir.Attr]) -> list[Dims]:
    dims = known_dims(shapes, 0)
    block = sympy.Integer(attributes["block_size"].as_int()) or dims[-1]
    tiles = (*dims[:-1], dims[-1] / block)
    return [(*tiles, block), (*tiles, sympy.Integer(1))]


BLOCKWISE_QUANTIZE = register(
    DialectOp(
        name="BlockwiseQuantize",
        documentation="""Integers and exponents of blocks along the last axis.

        x: float[..., D]; block_size: b, which divides D; 0 for the whole axis.
        bits: of the integers, 8 or 16.
        Gives quantized: int32[..., D / b, b], within ``bits`` bits, and
        exponent: int32[..., D / b, 1], ``ceil(log2(max|x| / (2**(bits - 1) - 1)))``, -40 to 40.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        BlockwiseQuantize <block_size, bits> (x) => (quantized, exponent)
        {
            last_axis = Constant <value = int64[1] {-1}> ()
            none = Constant <value = int64[1] {0}> ()
            one = Constant <value = int64[1] {1}> ()
            float_one = Constant <value = float {1}> ()
            two = Constant <value = float {2}> ()
            tiny = Constant <value = float {0.0000000000001}> ()
            log_of_two = Constant <value = float {0.6931471805599453}> ()
            least = Constant <value = float {-40}> ()
            most = Constant <value = float {40}> ()

            asked_scalar = Constant <value_int: int = @block_size> ()
            asked = Reshape (asked_scalar, last_axis)
            width = Shape <start = -1> (x)
            whole = Max (width, one)
            is_whole = Equal (asked, none)
            block = Where (is_whole, whole, asked)
            count = Div (width, block)
            leading = Shape <end = -1> (x)
            tiled = Concat <axis = 0> (leading, count, block)
            tiles = Reshape <allowzero = 1> (x, tiled)

            bit_count = Constant <value_int: int = @bits> ()
            bits_float = CastLike (bit_count, two)
            magnitude_bits = Sub (bits_float, float_one)
            range = Pow (two, magnitude_bits)
            top = Sub (range, float_one)
            bottom = Neg (range)

            magnitude = Abs (tiles)
            largest = ReduceMax <keepdims = 1> (magnitude, last_axis)
            ratio = Div (largest, top)
            positive = Max (ratio, tiny)
            logarithm = Log (positive)
            binary_logarithm = Div (logarithm, log_of_two)
            raised = Ceil (binary_logarithm)
            bounded = Clip (raised, least, most)
            exponent = Cast <to = 6> (bounded)
            unit = Pow (two, bounded)
            scaled = Div (tiles, unit)
            nearest = Round (scaled)
            clamped = Clip (nearest, bottom, top)
            quantized = Cast <to = 6> (clamped)
        }
        """,
        shape_rule=_tile_shapes,
        flops=no_products,
        dtype_rule=lambda _: [ir.DataType.INT32, ir.DataType.INT32],
    )
)

BLOCKWISE_ROUND = register(
    DialectOp(
        name="BlockwiseRound",
        documentation="""What the integers of ``BlockwiseQuantize`` stand for.

        x: float[..., D]. Gives float32[..., D]: ``quantized * 2**exponent``.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23, "dechaff" : 1]>
        BlockwiseRound <block_size, bits> (x) => (y)
        {
            two = Constant <value = float {2}> ()
            quantized, exponent = dechaff.BlockwiseQuantize
                <block_size: int = @block_size, bits: int = @bits> (x)
            integers = Cast <to = 1> (quantized)
            powers = Cast <to = 1> (exponent)
            units = Pow (two, powers)
            tiles = Mul (integers, units)
            shape = Shape (x)
            y = Reshape <allowzero = 1> (tiles, shape)
        }
        """,
        shape_rule=shape_of_x,
        flops=no_products,
        dtype_rule=float_result,
    )
)

BLOCKWISE_RESTORE = register(
    DialectOp(
        name="BlockwiseRestore",
        documentation="""A stored vector of parameters: a bias, a factor.

        quantized: int8[D]; exponent: int4 or int8[G], of blocks of D / G elements.
        exponent_offset: what is added to the exponents. Gives float32[D].
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        BlockwiseRestore <exponent_offset> (quantized, exponent) => (y)
        {
            two = Constant <value = float {2}> ()
            last_axis = Constant <value = int64[1] {-1}> ()
            integers = Cast <to = 1> (quantized)
            stored = Cast <to = 1> (exponent)
            offset = Constant <value_int: int = @exponent_offset> ()
            offset_float = Cast <to = 1> (offset)
            powers = Add (stored, offset_float)
            units_row = Pow (two, powers)
            units = Unsqueeze (units_row, last_axis)
            count = Shape (stored)
            tiled = Concat <axis = 0> (count, last_axis)
            tiles = Reshape (integers, tiled)
            scaled = Mul (tiles, units)
            y = Reshape (scaled, last_axis)
        }
        """,
        shape_rule=shape_of_x,
        flops=no_products,
        dtype_rule=float_result,
    )
)

SHIFT_RIGHT = register(
    DialectOp(
        name="ShiftRight",
        documentation="""``x / 2**distance``, rounded to nearest, halves away from zero.

        x: int32; distance: int32, 0 to 30, of a shape that is broadcast. Gives int32.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        ShiftRight (x, distance) => (y)
        {
            two = Constant <value = float {2}> ()
            half = Constant <value = int32 {2}> ()
            distance_float = Cast <to = 1> (distance)
            power = Pow (two, distance_float)
            divisor = Cast <to = 6> (power)
            rounding = Div (divisor, half)
            magnitude = Abs (x)
            raised = Add (magnitude, rounding)
            shifted = Div (raised, divisor)
            sign = Sign (x)
            y = Mul (sign, shifted)
        }
        """,
        shape_rule=lambda shapes, _: [known_dims(shapes, 1)],
        flops=no_products,
        dtype_rule=lambda _: [ir.DataType.INT32],
    )
)
