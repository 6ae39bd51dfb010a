"""Dialect operator for an activation with the bias that comes before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import sympy

from .dialect import DialectOp, Dims, known_dims, register


def _shape_of_x(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> list[Dims]:
    return [known_dims(shapes, 0)]


def _flops(shapes: Sequence[Dims | None], attributes: Mapping[str, ir.Attr]) -> sympy.Expr:
    """One addition and the eight operations that ``Gelu`` counts as."""
    return 9 * sympy.Mul(*known_dims(shapes, 0))


BIAS_GELU = register(
    DialectOp(
        name="BiasGelu",
        documentation="""``Gelu(x + bias)`` in one walk over memory.

        x: float[..., D]; bias: float[D], of the same dtype. Gives float[..., D].
        approximate: "none" or "tanh", as for ``Gelu``.

        The fusion after the first dense layer of a Transformer's feed-forward network
        (ByteTransformer, IPDPS 2023, section III.C).
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23]>
        BiasGelu <approximate> (x, bias) => (y)
        {
            biased = Add (x, bias)
            y = Gelu <approximate: string = @approximate> (biased)
        }
        """,
        shape_rule=_shape_of_x,
        flops=_flops,
        dtype_rule=lambda dtypes: [dtypes[0]],
    )
)
