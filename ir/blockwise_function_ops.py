"""Dialect operators of blockwise compression (BCT) for what is no product: tables and shifts.

See :mod:`dechaff.ir.blockwise_ops` for the form of the numbers, and for the source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import sympy

from .blockwise_ops import float_result, shape_of_x
from .dialect import CostRule, DialectOp, Dims, known_dims, register


def _flops_per_element(count: int) -> CostRule:
    def rule(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> sympy.Expr:
        return count * sympy.Mul(*known_dims(shapes, 0))

    return rule


BLOCKWISE_GELU = register(
    DialectOp(
        name="BlockwiseGelu",
        documentation="""GELU of integers of 8 bits, by a table of 256 entries for each exponent.

        x: float[..., D], in blocks of ``block_size``. approximate: as for ``Gelu``.
        Gives float32[..., D], the nearest integer of 16 bits at eight binary places below the
        block's exponent: exact for what the integers stand for, up to that rounding.
        The table does not depend on data: a runtime makes it once, and no file holds it.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23, "dechaff" : 1]>
        BlockwiseGelu <block_size, approximate> (x) => (y)
        {
            two = Constant <value = float {2}> ()
            axis_1 = Constant <value = int64[1] {1}> ()
            last_axis = Constant <value = int64[1] {-1}> ()
            first_level = Constant <value = float {-128}> ()
            end_of_levels = Constant <value = float {128}> ()
            first_exponent = Constant <value = float {-40}> ()
            end_of_exponents = Constant <value = float {41}> ()
            step = Constant <value = float {1}> ()
            places = Constant <value = float {256}> ()
            entries = Constant <value = int32 {256}> ()
            level_shift = Constant <value = int32 {128}> ()
            exponent_shift = Constant <value = int32 {40}> ()

            levels = Range (first_level, end_of_levels, step)
            exponents = Range (first_exponent, end_of_exponents, step)
            exponents_column = Unsqueeze (exponents, axis_1)
            table_units = Pow (two, exponents_column)
            arguments = Mul (table_units, levels)
            exact = Gelu <approximate: string = @approximate> (arguments)
            in_units = Div (exact, table_units)
            in_places = Mul (in_units, places)
            nearest = Round (in_places)
            table = Reshape (nearest, last_axis)

            quantized, exponent = dechaff.BlockwiseQuantize
                <block_size: int = @block_size, bits = 8> (x)
            line = Add (exponent, exponent_shift)
            start = Mul (line, entries)
            level = Add (quantized, level_shift)
            place = Add (start, level)
            found = Gather <axis = 0> (table, place)
            exponent_float = Cast <to = 1> (exponent)
            block_units = Pow (two, exponent_float)
            units = Div (block_units, places)
            tiles = Mul (found, units)
            shape = Shape (x)
            y = Reshape <allowzero = 1> (tiles, shape)
        }
        """,
        shape_rule=shape_of_x,
        flops=_flops_per_element(8),
        dtype_rule=float_result,
    )
)

BLOCKWISE_SOFTMAX = register(
    DialectOp(
        name="BlockwiseSoftmax",
        documentation="""Softmax over the last axis by a table of 256 powers of two and shifts.

        x: float[..., S], taken as binary logarithms with eight binary places; what lies 30 below a
        row's largest counts as nothing. A power is ``2**-(n + f / 256)``: a shift by n of the
        table's entry f, 16 bits. Gives float32[..., S], integers of 8 bits without sign over 256,
        at most 255: probabilities below 1/512 vanish.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23, "dechaff" : 1]>
        BlockwiseSoftmax (x) => (y)
        {
            two = Constant <value = float {2}> ()
            one = Constant <value = int32 {1}> ()
            last_axis = Constant <value = int64[1] {-1}> ()
            first = Constant <value = float {0}> ()
            end = Constant <value = float {256}> ()
            step = Constant <value = float {1}> ()
            to_table = Constant <value = float {369.3299304675746}> ()
            least = Constant <value = float {-1000000}> ()
            most = Constant <value = float {1000000}> ()
            entries = Constant <value = int32 {256}> ()
            double = Constant <value = int32 {2}> ()
            furthest = Constant <value = int32 {30}> ()
            unit = Constant <value = float {32768}> ()
            top = Constant <value = int32 {255}> ()
            places = Constant <value = float {256}> ()

            steps = Range (first, end, step)
            fractions = Div (steps, end)
            negated = Neg (fractions)
            powers = Pow (two, negated)
            in_units = Mul (powers, unit)
            nearest = Round (in_units)
            table = Cast <to = 6> (nearest)

            bounded = Clip (x, least, most)
            logarithms_float = Mul (bounded, to_table)
            logarithms_rounded = Round (logarithms_float)
            logarithms = Cast <to = 6> (logarithms_rounded)
            largest = ReduceMax <keepdims = 1> (logarithms, last_axis)
            below = Sub (largest, logarithms)
            whole = Div (below, entries)
            whole_part = Mul (whole, entries)
            fraction = Sub (below, whole_part)
            entry = Gather <axis = 0> (table, fraction)
            distance = Min (whole, furthest)
            power = dechaff.ShiftRight (entry, distance)
            sum_of_powers = ReduceSum <keepdims = 1> (power, last_axis)
            sum = Max (sum_of_powers, one)
            half = Div (sum, double)
            scaled = Mul (power, entries)
            raised = Add (scaled, half)
            quotient = Div (raised, sum)
            clamped = Min (quotient, top)
            integers = Cast <to = 1> (clamped)
            y = Div (integers, places)
        }
        """,
        shape_rule=shape_of_x,
        flops=_flops_per_element(5),
        dtype_rule=float_result,
    )
)

BLOCKWISE_LAYER_NORMALIZATION = register(
    DialectOp(
        name="BlockwiseLayerNormalization",
        documentation="""Layer normalization of integers of 16 bits, over the last axis.

        x: float[..., D], in blocks of ``block_size``; weight, bias: float[D].
        Integers are aligned to the row's largest exponent; their sum and the sum of their squares,
        of 64 bits, give the variance. ``1 / sqrt`` takes a mantissa from 1 to 4 to a table of 256
        entries and one step of Newton's. Gives float32[..., D] on a grid of 16 bits.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23, "dechaff" : 1]>
        BlockwiseLayerNormalization <epsilon, block_size> (x, weight, bias) => (y)
        {
            two = Constant <value = float {2}> ()
            four = Constant <value = float {4}> ()
            one = Constant <value = float {1}> ()
            half = Constant <value = float {0.5}> ()
            three_halves = Constant <value = float {1.5}> ()
            log_of_four = Constant <value = float {1.3862943611198906}> ()
            tile_axes = Constant <value = int64[2] {-2, -1}> ()
            last_axis = Constant <value = int64[1] {-1}> ()
            furthest = Constant <value = int32 {30}> ()
            first = Constant <value = float {0}> ()
            entries = Constant <value = float {256}> ()
            last_entry = Constant <value = float {255}> ()
            per_entry = Constant <value = float {0.01171875}> ()
            entries_per_unit = Constant <value = float {85.33333333333333}> ()

            steps = Range (first, entries, one)
            middles = Add (steps, half)
            spread = Mul (middles, per_entry)
            mantissas = Add (spread, one)
            roots = Sqrt (mantissas)
            table = Reciprocal (roots)

            quantized, exponent = dechaff.BlockwiseQuantize
                <block_size: int = @block_size, bits = 16> (x)
            largest = ReduceMax <keepdims = 1> (exponent, tile_axes)
            difference = Sub (largest, exponent)
            distance = Min (difference, furthest)
            aligned_tiles = dechaff.ShiftRight (quantized, distance)
            shape = Shape (x)
            aligned_row = Reshape <allowzero = 1> (aligned_tiles, shape)
            aligned = Cast <to = 7> (aligned_row)
            squares = Mul (aligned, aligned)
            sum = ReduceSum <keepdims = 1> (aligned, last_axis)
            sum_of_squares = ReduceSum <keepdims = 1> (squares, last_axis)
            width = Shape <start = -1> (x)
            scaled_squares = Mul (sum_of_squares, width)
            square_of_sum = Mul (sum, sum)
            variance_integer = Sub (scaled_squares, square_of_sum)
            scaled_row = Mul (aligned, width)
            centered_integer = Sub (scaled_row, sum)

            width_float = Cast <to = 1> (width)
            row_exponent_tiles = Cast <to = 1> (largest)
            row_exponent = Squeeze (row_exponent_tiles, last_axis)
            row_unit = Pow (two, row_exponent)
            widths = Div (width_float, row_unit)
            widths_squared = Mul (widths, widths)
            smallest = Constant <value_float: float = @epsilon> ()
            epsilon_integer = Mul (smallest, widths_squared)
            variance_float = Cast <to = 1> (variance_integer)
            variance = Add (variance_float, epsilon_integer)

            logarithm = Log (variance)
            quarter_bits = Div (logarithm, log_of_four)
            place = Floor (quarter_bits)
            power_of_four = Pow (four, place)
            mantissa = Div (variance, power_of_four)
            beyond = Sub (mantissa, one)
            position = Mul (beyond, entries_per_unit)
            position_floor = Floor (position)
            position_bounded = Clip (position_floor, first, last_entry)
            index = Cast <to = 6> (position_bounded)
            guess = Gather <axis = 0> (table, index)
            guess_squared = Mul (guess, guess)
            product = Mul (mantissa, guess_squared)
            half_product = Mul (half, product)
            correction = Sub (three_halves, half_product)
            refined = Mul (guess, correction)
            power_of_two = Pow (two, place)
            inverse_root = Div (refined, power_of_two)

            centered = Cast <to = 1> (centered_integer)
            normalized = Mul (centered, inverse_root)
            weighted = Mul (normalized, weight)
            shifted = Add (weighted, bias)
            y = dechaff.BlockwiseRound <block_size: int = @block_size, bits = 16> (shifted)
        }
        """,
        shape_rule=shape_of_x,
        flops=_flops_per_element(7),
        dtype_rule=float_result,
    )
)
