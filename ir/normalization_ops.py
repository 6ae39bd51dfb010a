"""Dialect operators for normalizations with the residual addition that comes before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import sympy

from .dialect import CostRule, DialectOp, Dims, known_dims, register


def _two_like_x(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> list[Dims]:
    return [known_dims(shapes, 0)] * 2


def _flops_per_element(count: int) -> CostRule:
    def rule(shapes: Sequence[Dims | None], attributes: Mapping[str, ir.Attr]) -> sympy.Expr:
        return count * sympy.Mul(*known_dims(shapes, 0))

    return rule


_SHAPES = """x, skip: float[..., D], of one shape. weight{vectors}: float[D].
        Gives ``normalized`` and ``sum``, both of the shape of ``x``; where nothing reads ``sum``, a
        kernel need not write it.
        epsilon: what is added to the {statistic}. The last axis is normalized; statistics are
        computed in float32 at least."""

SKIP_LAYER_NORMALIZATION = register(
    DialectOp(
        name="SkipLayerNormalization",
        documentation=f"""``sum = x + skip``, ``normalized = LayerNormalization(sum)``, in one walk.

        {_SHAPES.format(vectors=", bias", statistic="variance")}

        The fusion after attention and after the feed-forward network of a Transformer
        (ByteTransformer, IPDPS 2023, section III.C).
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        SkipLayerNormalization <epsilon> (x, skip, weight, bias) => (normalized, sum)
        {
            sum = Add (x, skip)
            normalized = LayerNormalization <epsilon: float = @epsilon> (sum, weight, bias)
        }
        """,
        shape_rule=_two_like_x,
        flops=_flops_per_element(8),
        dtype_rule=lambda dtypes: [dtypes[0], dtypes[0]],
    )
)

BIAS_SKIP_LAYER_NORMALIZATION = register(
    DialectOp(
        name="BiasSkipLayerNormalization",
        documentation=f"""``sum = x + dense_bias + skip``, ``normalized = LayerNormalization(sum)``.

        {_SHAPES.format(vectors=", bias, dense_bias", statistic="variance")}

        As ``SkipLayerNormalization``, with the bias of the dense layer that gave ``x``.
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        BiasSkipLayerNormalization <epsilon> (x, skip, weight, bias, dense_bias)
            => (normalized, sum)
        {
            biased = Add (x, dense_bias)
            sum = Add (biased, skip)
            normalized = LayerNormalization <epsilon: float = @epsilon> (sum, weight, bias)
        }
        """,
        shape_rule=_two_like_x,
        flops=_flops_per_element(9),
        dtype_rule=lambda dtypes: [dtypes[0], dtypes[0]],
    )
)

SKIP_RMS_NORMALIZATION = register(
    DialectOp(
        name="SkipRMSNormalization",
        documentation=f"""``sum = x + skip``, ``normalized = RMSNormalization(sum)``, in one walk.

        {_SHAPES.format(vectors="", statistic="mean square")}
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        SkipRMSNormalization <epsilon> (x, skip, weight) => (normalized, sum)
        {
            sum = Add (x, skip)
            normalized = RMSNormalization <epsilon: float = @epsilon> (sum, weight)
        }
        """,
        shape_rule=_two_like_x,
        flops=_flops_per_element(5),
        dtype_rule=lambda dtypes: [dtypes[0], dtypes[0]],
    )
)
