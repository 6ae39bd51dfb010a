"""Dialect operators of integers with real scales: products, and rows of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import sympy

from .dialect import DialectOp, Dims, known_dims, register


def _per_token_shapes(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> list[Dims]:
    dims = known_dims(shapes, 0)
    return [dims, (*dims[:-1], sympy.Integer(1))]


def _per_tensor_shapes(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> list[Dims]:
    return [known_dims(shapes, 0), (sympy.Integer(1),)]


def _no_products(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> sympy.Expr:
    """Quantizing is counted as what it is for: it moves numbers into fewer bytes, as ``Cast``."""
    return sympy.Integer(0)


QUANTIZE_PER_TOKEN = register(
    DialectOp(
        name="QuantizePerToken",
        documentation="""Integers of 8 bits with a scale for each token.

        x: float32[..., D], a token for each index of the leading axes. Gives
        quantized: int8[..., D], ``round(x / scale)`` within -127 .. 127, and
        scale: float32[..., 1], the token's largest magnitude over 127.

        No token's integers depend on another token. The row-wise absolute-maximum rule of GLM-130B
        (Zeng et al., ICLR 2023, section 3), applied to activations.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        QuantizePerToken (x) => (quantized, scale)
        {
            last_axis = Constant <value = int64[1] {-1}> ()
            step = Constant <value = float {0.007874015748031496}> ()
            tiny = Constant <value = float {0.000000000000000000000000000001}> ()
            unit = Constant <value = float {1}> ()
            zero = Constant <value = int8 {0}> ()
            magnitude = Abs (x)
            largest = ReduceMax <keepdims = 1> (magnitude, last_axis)
            raw_scale = Mul (largest, step)
            scale = Max (raw_scale, tiny)
            scaled = Div (x, scale)
            quantized = QuantizeLinear (scaled, unit, zero)
        }
        """,
        shape_rule=_per_token_shapes,
        flops=_no_products,
        dtype_rule=lambda _: [ir.DataType.INT8, ir.DataType.FLOAT],
    )
)

QUANTIZE_PER_TENSOR = register(
    DialectOp(
        name="QuantizePerTensor",
        documentation="""Integers of 8 bits with one scale for all.

        x: float32[..., D]. Gives quantized: int8[..., D] and scale: float32[1], the largest
        magnitude over 127. One outlier costs all tokens precision, and what else is in the batch
        changes a row's integers; no tokens at all are allowed.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        QuantizePerTensor (x) => (quantized, scale)
        {
            last_axis = Constant <value = int64[1] {-1}> ()
            step = Constant <value = float {0.007874015748031496}> ()
            tiny = Constant <value = float[1] {0.000000000000000000000000000001}> ()
            zero = Constant <value = int8 {0}> ()
            first_axis = Constant <value = int64[1] {0}> ()
            magnitude = Abs (x)
            largest_of_each = ReduceMax <keepdims = 1> (magnitude, last_axis)
            column = Reshape (largest_of_each, last_axis)
            at_least_one = Concat <axis = 0> (column, tiny)
            largest = ReduceMax <keepdims = 1> (at_least_one, first_axis)
            raw_scale = Mul (largest, step)
            scale = Max (raw_scale, tiny)
            scaled = Div (x, scale)
            unit = Constant <value = float {1}> ()
            quantized = QuantizeLinear (scaled, unit, zero)
        }
        """,
        shape_rule=_per_tensor_shapes,
        flops=_no_products,
        dtype_rule=lambda _: [ir.DataType.INT8, ir.DataType.FLOAT],
    )
)


def _product_shape(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> list[Dims]:
    return [(*known_dims(shapes, 0)[:-1], known_dims(shapes, 2)[1])]


def _product_flops(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> sympy.Expr:
    return 2 * sympy.Mul(*known_dims(shapes, 0)) * known_dims(shapes, 2)[1]


QUANTIZED_MATMUL = register(
    DialectOp(
        name="QuantizedMatMul",
        documentation="""``(scale * quantized) @ (weight * weight_scale)``, multiplied as integers.

        quantized: int8[..., K]; scale: float32[..., 1] or float32[1], as ``QuantizePerToken`` and
        ``QuantizePerTensor`` give them.
        weight: int8[K, N]; weight_scale: float32[N], one for each output channel.
        Gives float32[..., N]. Sums are exact: integers of 32 bits hold them.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        QuantizedMatMul (quantized, scale, weight, weight_scale) => (y)
        {
            unit = Constant <value = float {1}> ()
            zero = Constant <value = int8 {0}> ()
            x = DequantizeLinear (quantized, unit, zero)
            w = DequantizeLinear <axis = 1> (weight, weight_scale)
            product = MatMul (x, w)
            y = Mul (product, scale)
        }
        """,
        shape_rule=_product_shape,
        flops=_product_flops,
        dtype_rule=lambda _: [ir.DataType.FLOAT],
    )
)


def _table_shape(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> list[Dims]:
    return [(*known_dims(shapes, 2), 2 * known_dims(shapes, 0)[1])]


INT4_GATHER = register(
    DialectOp(
        name="Int4Gather",
        documentation="""Rows of a table of four-bit integers, times the scales of their blocks.

        table: uint8[V, D / 2], two integers to the byte, the one of the even column low, each
        shifted from -8 .. 7 to 0 .. 15. scale: float32[V, D / block_size], one for each block of
        columns of each row. ids: int[...]. Gives float32[..., D]. Only the rows read are restored.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        Int4Gather <block_size> (table, scale, ids) => (y)
        {
            shift = Constant <value = uint8 {4}> ()
            nibble = Constant <value = uint8 {15}> ()
            zero_point = Constant <value = int8 {8}> ()
            last_axis = Constant <value = int64[1] {-1}> ()
            twice = Constant <value = int64[1] {2}> ()
            rows = Gather <axis = 0> (table, ids)
            low = BitwiseAnd (rows, nibble)
            high = BitShift <direction = "RIGHT"> (rows, shift)
            low_column = Unsqueeze (low, last_axis)
            high_column = Unsqueeze (high, last_axis)
            pairs = Concat <axis = -1> (low_column, high_column)
            leading = Shape (ids)
            half_width = Shape <start = 1> (table)
            width = Mul (half_width, twice)
            shape = Concat <axis = 0> (leading, width)
            flat = Reshape <allowzero = 1> (pairs, shape)
            shifted = Cast <to = 3> (flat)
            integers = Sub (shifted, zero_point)
            scales = Gather <axis = 0> (scale, ids)
            y = DequantizeLinear <axis = -1, block_size: int = @block_size> (integers, scales)
        }
        """,
        shape_rule=_table_shape,
        flops=_no_products,
        dtype_rule=lambda _: [ir.DataType.FLOAT],
    )
)
