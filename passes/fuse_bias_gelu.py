"""The pass ``fuse-bias-gelu``: a bias and the GELU after it become one operator."""

from __future__ import annotations

import onnx_ir as ir

from dechaff.ir import DOMAIN, Module, constant_value, static_dim

from .matching import is_op, is_private, made_by
from .pass_base import Numerics, Pass
from .rewriter import Rewriter

_RULE = "fuse-bias-gelu"


class FuseBiasGelu(Pass):
    """Fuse the bias of a dense layer with the GELU that follows it.

    The biased value is then never written to memory.

    Before::

        before (float[B,S,4] x) => (float[B,S,4] y) <float[4] bias = {0.5, 0, -0.5, 1}>
        {
            biased = Add (x, bias)
            y = Gelu <approximate = "tanh"> (biased)
        }

    After::

        after (float[B,S,4] x) => (float[B,S,4] y) <float[4] bias = {0.5, 0, -0.5, 1}>
        {
            y = dechaff.BiasGelu <approximate = "tanh"> (x, bias)
        }
    """

    name = "fuse-bias-gelu"
    numerics = Numerics.REASSOCIATES
    after = ("fuse-gelu",)

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Start from each GELU."""
        for node in list(module.nodes()):
            if is_op(node, "Gelu"):
                _fuse(node, rewriter)


def _fuse(gelu: ir.Node, rewriter: Rewriter) -> None:
    addition = made_by(gelu.inputs[0], "Add")
    if addition is None:
        return
    operands = dense_and_bias(addition)
    if operands is None:
        rewriter.miss(_RULE, gelu, "no operand of the Add is a constant vector for the last axis")
        return
    if not is_private(addition.outputs[0], [gelu]):
        rewriter.miss(_RULE, gelu, "the biased value is used elsewhere")
        return
    given = gelu.attributes.get("approximate")
    approximate = "none" if given is None else given.as_string()
    with rewriter.rewrite(_RULE, [addition, gelu], before=gelu) as builder:
        fused = builder.op("BiasGelu", operands, {"approximate": approximate}, domain=DOMAIN)
        builder.replace(gelu.outputs[0], fused)


def dense_and_bias(addition: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """The operands of ``Add`` as a value and a constant vector as long as its last axis."""
    left, right = addition.inputs[:2]
    for x, bias in ((left, right), (right, left)):
        if x is None or bias is None or constant_value(bias) is None or x.shape is None:
            continue
        if bias.shape is None or len(bias.shape) != 1 or len(x.shape) < 2:
            continue
        length = static_dim(bias.shape[0])
        if length is not None and static_dim(x.shape[-1]) == length:
            return x, bias
    return None
