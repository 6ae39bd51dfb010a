"""Dialect operators of blockwise compression (BCT) for weights: products and tables of rows.

See :mod:`dechaff.ir.blockwise_ops` for the form of the numbers, and for the source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import sympy

from .blockwise_ops import float_result, no_products
from .dialect import DialectOp, Dims, known_dims, register


def _product_shape(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> list[Dims]:
    return [(*known_dims(shapes, 0)[:-1], known_dims(shapes, 1)[1])]


def _product_flops(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> sympy.Expr:
    return 2 * sympy.Mul(*known_dims(shapes, 0)) * known_dims(shapes, 1)[1]


BLOCKWISE_MATMUL = register(
    DialectOp(
        name="BlockwiseMatMul",
        documentation="""``x @ (weight * 2**exponent)``: integers of blocks, aligned by shifts.

        x: float[..., K], taken as integers of 8 bits in blocks of ``block_size`` along K.
        weight: int4 or int8[K, N]; exponent: int4 or int8[G, N], one for each K / G rows of each
        column, to which ``exponent_offset`` is added. Blocks of ``x`` divide those of the weights.
        guard_bits: low bits that sums keep when they are aligned to the largest exponent; the sum
        must fit 31 bits. Gives float32[..., N], integers of 32 bits times powers of two.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23, "dechaff" : 1]>
        BlockwiseMatMul <block_size, guard_bits, exponent_offset> (x, weight, exponent) => (y)
        {
            two = Constant <value = float {2}> ()
            one = Constant <value = int64[1] {1}> ()
            axis_0 = Constant <value = int64[1] {0}> ()
            axis_1 = Constant <value = int64[1] {1}> ()
            furthest = Constant <value = int32 {30}> ()

            x_tiles, x_exponent = dechaff.BlockwiseQuantize
                <block_size: int = @block_size, bits = 8> (x)
            leading = Shape <end = -1> (x)
            tokens = ReduceProd <keepdims = 1> (leading, axis_0)
            tile_sizes = Shape <start = -2> (x_tiles)
            tile_count = Shape <start = -2, end = -1> (x_tiles)
            flat_shape = Concat <axis = 0> (tokens, tile_sizes)
            flat_tiles = Reshape <allowzero = 1> (x_tiles, flat_shape)
            x_groups_integer = Transpose <perm = [1, 0, 2]> (flat_tiles)
            x_groups = Cast <to = 1> (x_groups_integer)
            exponents_shape = Concat <axis = 0> (tokens, tile_count, one)
            flat_exponents = Reshape <allowzero = 1> (x_exponent, exponents_shape)
            x_exponents = Transpose <perm = [1, 0, 2]> (flat_exponents)

            weight_float = Cast <to = 1> (weight)
            columns = Shape <start = 1> (weight_float)
            weight_shape = Concat <axis = 0> (tile_sizes, columns)
            weight_groups = Reshape (weight_float, weight_shape)
            stored = Cast <to = 6> (exponent)
            offset = Constant <value_int: int = @exponent_offset> ()
            offset_integer = Cast <to = 6> (offset)
            weight_exponents = Add (stored, offset_integer)
            stored_count = Shape <end = 1> (stored)
            repeats = Div (tile_count, stored_count)
            spread_shape = Concat <axis = 0> (stored_count, repeats, columns)
            spread_rows = Unsqueeze (weight_exponents, axis_1)
            spread = Expand (spread_rows, spread_shape)
            group_shape = Concat <axis = 0> (tile_count, one, columns)
            group_exponents = Reshape (spread, group_shape)

            products_float = MatMul (x_groups, weight_groups)
            products = Cast <to = 6> (products_float)
            exponents = Add (x_exponents, group_exponents)
            largest = ReduceMax <keepdims = 1> (exponents, axis_0)
            difference = Sub (largest, exponents)
            distance = Min (difference, furthest)
            guard_scalar = Constant <value_int: int = @guard_bits> ()
            guard_float = Cast <to = 1> (guard_scalar)
            guard_power = Pow (two, guard_float)
            guard_factor = Cast <to = 6> (guard_power)
            raised = Mul (products, guard_factor)
            aligned = dechaff.ShiftRight (raised, distance)
            sums = ReduceSum <keepdims = 0> (aligned, axis_0)
            sums_float = Cast <to = 1> (sums)
            largest_row = Squeeze (largest, axis_0)
            largest_float = Cast <to = 1> (largest_row)
            result_exponent = Sub (largest_float, guard_float)
            units = Pow (two, result_exponent)
            flat = Mul (sums_float, units)
            shape = Concat <axis = 0> (leading, columns)
            y = Reshape <allowzero = 1> (flat, shape)
        }
        """,
        shape_rule=_product_shape,
        flops=_product_flops,
        dtype_rule=float_result,
    )
)


def _gather_shape(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> list[Dims]:
    return [(*known_dims(shapes, 2), 2 * known_dims(shapes, 0)[1])]


BLOCKWISE_GATHER = register(
    DialectOp(
        name="BlockwiseGather",
        documentation="""Rows of a table of four-bit integers; only the rows read are restored.

        table: uint8[V, D / 2], two integers to the byte, the one of the even column low, each
        shifted from -8 .. 7 to 0 .. 15. exponent: int4 or int8[V, G], one for each D / G columns of
        each row, to which ``exponent_offset`` is added. ids: int[...]. Gives float32[..., D].
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        BlockwiseGather <exponent_offset> (table, exponent, ids) => (y)
        {
            two = Constant <value = float {2}> ()
            zero_point = Constant <value = float {8}> ()
            nibble = Constant <value = uint8 {16}> ()
            last_axis = Constant <value = int64[1] {-1}> ()
            twice = Constant <value = int64[1] {2}> ()
            rows = Gather <axis = 0> (table, ids)
            high = Div (rows, nibble)
            high_part = Mul (high, nibble)
            low = Sub (rows, high_part)
            low_column = Unsqueeze (low, last_axis)
            high_column = Unsqueeze (high, last_axis)
            pairs = Concat <axis = -1> (low_column, high_column)
            shifted = Cast <to = 1> (pairs)
            integers = Sub (shifted, zero_point)
            stored = Cast <to = 1> (exponent)
            row_exponents = Gather <axis = 0> (stored, ids)
            offset = Constant <value_int: int = @exponent_offset> ()
            offset_float = Cast <to = 1> (offset)
            powers = Add (row_exponents, offset_float)
            units_row = Pow (two, powers)
            units = Unsqueeze (units_row, last_axis)
            leading = Shape (ids)
            count = Shape <start = 1> (stored)
            half_width = Shape <start = 1> (table)
            width = Mul (half_width, twice)
            block = Div (width, count)
            tiled = Concat <axis = 0> (leading, count, block)
            tiles = Reshape <allowzero = 1> (integers, tiled)
            scaled = Mul (tiles, units)
            shape = Concat <axis = 0> (leading, width)
            y = Reshape <allowzero = 1> (scaled, shape)
        }
        """,
        shape_rule=_gather_shape,
        flops=no_products,
        dtype_rule=float_result,
    )
)
