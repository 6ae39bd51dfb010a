"""Dialect operators of blockwise compression (BCT) for attention.

See :mod:`dechaff.ir.blockwise_ops` for the form of the numbers, and for the source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import sympy

from .attention_ops import VARLEN_ATTENTION
from .blockwise_ops import float_result
from .dialect import DialectOp, Dims, known_dims, register


def _attention_shape(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> list[Dims]:
    return [(*known_dims(shapes, 0)[:-1], known_dims(shapes, 2)[-1])]


def _attention_flops(shapes: Sequence[Dims | None], _: Mapping[str, ir.Attr]) -> sympy.Expr:
    return 4 * sympy.Mul(*known_dims(shapes, 0)) * known_dims(shapes, 1)[2]


BLOCKWISE_ATTENTION = register(
    DialectOp(
        name="BlockwiseAttention",
        documentation="""Attention of integers of 8 bits, heads apart, with ``BlockwiseSoftmax``.

        q: float[B, H, S, head_size]; k: float[B, H, Sk, head_size]; v: float[B, H, Sk, v_size];
        mask: bool[..., Sk], broadcast over the scores, true where a key may be attended to.
        A block is a head of a query or of a key; for the values it is a channel over all keys, as
        the sum runs over these. scale: factor on the scores. Gives float32[B, H, S, v_size].
        """,
        function="""
        <domain: "dechaff", opset_import: ["" : 23, "dechaff" : 1]>
        BlockwiseAttention <scale> (q, k, v, mask) => (context)
        {
            far_below = Constant <value = float {-1000000}> ()
            q_rounded = dechaff.BlockwiseRound <block_size = 0, bits = 8> (q)
            k_rounded = dechaff.BlockwiseRound <block_size = 0, bits = 8> (k)
            v_channels = Transpose <perm = [0, 1, 3, 2]> (v)
            v_rounded = dechaff.BlockwiseRound <block_size = 0, bits = 8> (v_channels)
            v_keys = Transpose <perm = [0, 1, 3, 2]> (v_rounded)
            k_columns = Transpose <perm = [0, 1, 3, 2]> (k_rounded)
            products = MatMul (q_rounded, k_columns)
            factor = Constant <value_float: float = @scale> ()
            scores = Mul (products, factor)
            masked = Where (mask, scores, far_below)
            probabilities = dechaff.BlockwiseSoftmax (masked)
            context = MatMul (probabilities, v_keys)
        }
        """,
        shape_rule=_attention_shape,
        flops=_attention_flops,
        dtype_rule=float_result,
    )
)

BLOCKWISE_VARLEN_ATTENTION = register(
    DialectOp(
        name="BlockwiseVarlenAttention",
        documentation="""``VarlenAttention`` by way of ``BlockwiseAttention``.

        Inputs, attributes and result are those of ``VarlenAttention``; as many heads of keys as of
        queries, and not causal. No integer of a sequence depends on another sequence.
        """,
        function=VARLEN_ATTENTION.function.replace(
            "VarlenAttention <", "BlockwiseVarlenAttention <"
        )
        .replace('["" : 23]', '["" : 23, "dechaff" : 1]')
        .replace(
            "Attention <scale: float = @scale, is_causal: int = @is_causal>",
            "dechaff.BlockwiseAttention <scale: float = @scale>",
        ),
        shape_rule=VARLEN_ATTENTION.shape_rule,
        flops=VARLEN_ATTENTION.flops,
        dtype_rule=VARLEN_ATTENTION.dtype_rule,
    )
)
