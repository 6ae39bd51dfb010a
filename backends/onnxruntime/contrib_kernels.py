"""Lowering to ONNX Runtime's contrib operators, where the installed runtime has the kernel."""

from __future__ import annotations

import onnx_ir as ir

from dechaff.passes import Rewriter

from .kernels import has_kernel

CONTRIB_DOMAIN = "com.microsoft"

_SKIP_KERNELS = {
    "SkipLayerNormalization": "SkipLayerNormalization",
    "BiasSkipLayerNormalization": "SkipLayerNormalization",
    "SkipRMSNormalization": "SkipSimplifiedLayerNormalization",
}
_GELU_KERNELS = {"none": "BiasGelu", "tanh": "FastGelu"}
_KERNEL_RANKS = (2, 3)
_SUM_OUTPUT = 3


def lower_skip_normalization(node: ir.Node, rewriter: Rewriter) -> bool:
    """To ``SkipLayerNormalization`` or ``SkipSimplifiedLayerNormalization``.

    Their fourth output is the sum before normalization; the second and third are for training.
    """
    kernel, x = _SKIP_KERNELS[node.op_type], node.inputs[0]
    if not _has_contrib(kernel, x) or x is None or len(x.shape or ()) not in _KERNEL_RANKS:
        return False
    total = node.outputs[1]
    needs_sum = bool(total.uses()) or total.is_graph_output()
    with rewriter.rewrite("lower-skip-normalization", [node]) as builder:
        attributes = {"epsilon": node.attributes["epsilon"].as_float()}
        normalized = builder.op(
            kernel,
            node.inputs,
            attributes,
            domain=CONTRIB_DOMAIN,
            num_outputs=_SUM_OUTPUT + 1 if needs_sum else 1,
        )
        made = normalized.producer()
        if needs_sum and made is not None:
            for unused in made.outputs[1:_SUM_OUTPUT]:
                unused.name = ""
            builder.replace(total, made.outputs[_SUM_OUTPUT])
        builder.replace(node.outputs[0], normalized)
    return True


def lower_bias_gelu(node: ir.Node, rewriter: Rewriter) -> bool:
    """To ``BiasGelu`` (exact) or ``FastGelu`` (tanh); the two stay apart."""
    kernel = _GELU_KERNELS[node.attributes["approximate"].as_string()]
    if not _has_contrib(kernel, node.inputs[0]):
        return False
    with rewriter.rewrite("lower-bias-gelu", [node]) as builder:
        activated = builder.op(kernel, node.inputs, domain=CONTRIB_DOMAIN)
        builder.replace(node.outputs[0], activated)
    return True


def _has_contrib(op_type: str, value: ir.Value | None) -> bool:
    dtype = value.dtype if value is not None else None
    return dtype is not None and has_kernel(op_type, CONTRIB_DOMAIN, dtype)
