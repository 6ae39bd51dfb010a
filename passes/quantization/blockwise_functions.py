"""Rules of ``quantize-blockwise`` for what is no product: each operator to its blockwise one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from dechaff.ir import DOMAIN, constant_value, static_dim
from dechaff.passes.matching import float_attribute, integer_attribute, is_op, rank
from dechaff.passes.rewriter import Rewriter

from .blockwise_storage import VECTOR_BLOCK, store_vector

RULE = "quantize-blockwise"
_FUNCTION_RULE = "blockwise-function"
_SKIPS = ("SkipLayerNormalization", "BiasSkipLayerNormalization")
_DEFAULT_EPSILON = 1e-5


def block_of(value: ir.Value | None, wanted: int) -> int:
    """The wanted block size if it divides the last axis, else 0 for the whole axis."""
    size = None if value is None or not value.shape else static_dim(value.shape[-1])
    return wanted if size is not None and size % wanted == 0 else 0


def quantize_function(node: ir.Node, block: int, rewriter: Rewriter) -> bool:
    """Replace a GELU, a normalization, a softmax or an attention; say whether it was one."""
    rule = _RULES.get((node.domain, node.op_type))
    if rule is None:
        without_integers = _LEFT_IN_FLOAT.get((node.domain, node.op_type))
        if without_integers is not None:
            rewriter.miss(RULE, node, f"it stays in float32: {without_integers}")
        return False
    reason = _reason_against(node)
    if reason is not None:
        rewriter.miss(RULE, node, reason)
    else:
        rule(node, block, rewriter)
    return True


def _reason_against(node: ir.Node) -> str | None:
    x = node.inputs[0]
    if x is None or x.dtype is not ir.DataType.FLOAT:
        return "it is not computed in float32"
    if node.op_type in ("LayerNormalization", "Softmax"):
        axis, axes = integer_attribute(node, "axis", -1), rank(x)
        if axis != -1 and (axes is None or axis != axes - 1):
            return "it is not over the last axis"
    if node.op_type == "LayerNormalization" and (len(node.inputs) < 3 or len(node.outputs) > 1):
        return "it has no bias, or gives its statistics"
    if node.op_type == "VarlenAttention":
        heads = [integer_attribute(node, f"{name}_num_heads", 0) for name in ("q", "kv")]
        if integer_attribute(node, "is_causal", 0):
            return "it stays in float32: it is causal, and the blockwise one has no causal mask"
        if heads[0] != heads[1]:
            return "it stays in float32: its heads share keys, which the blockwise one has not"
    return None


def _gelu(node: ir.Node, block: int, rewriter: Rewriter) -> None:
    given = node.attributes.get("approximate")
    approximate = "none" if given is None else given.as_string()
    with rewriter.rewrite(_FUNCTION_RULE, [node]) as builder:
        x = node.inputs[0] if node.op_type == "Gelu" else builder.op("Add", node.inputs)
        attributes = {"block_size": block_of(x, block), "approximate": approximate}
        y = builder.op("BlockwiseGelu", [x], attributes, domain=DOMAIN)
        builder.replace(node.outputs[0], y)


def _normalization(node: ir.Node, block: int, rewriter: Rewriter) -> None:
    epsilon = float_attribute(node, "epsilon")
    with rewriter.rewrite(_FUNCTION_RULE, [node]) as builder:
        x, (weight, bias) = node.inputs[0], node.inputs[1:3]
        if node.op_type in _SKIPS:
            x, skip, weight, bias, *rest = node.inputs
            for dense_bias in rest:
                x = builder.op("Add", [x, dense_bias])
            x = builder.op("Add", [x, skip])
            builder.replace(node.outputs[1], x)
        attributes = {
            "epsilon": _DEFAULT_EPSILON if epsilon is None else epsilon,
            "block_size": block_of(x, block),
        }
        y = builder.op("BlockwiseLayerNormalization", [x, weight, bias], attributes, domain=DOMAIN)
        builder.replace(node.outputs[0], y)


def _softmax(node: ir.Node, _: int, rewriter: Rewriter) -> None:
    with rewriter.rewrite(_FUNCTION_RULE, [node]) as builder:
        y = builder.op("BlockwiseSoftmax", [node.inputs[0]], domain=DOMAIN)
        builder.replace(node.outputs[0], y)


def _attention(node: ir.Node, _: int, rewriter: Rewriter) -> None:
    attributes = {item.name: item.value for item in node.attributes.values()}
    with rewriter.rewrite(_FUNCTION_RULE, [node]) as builder:
        y = builder.op("BlockwiseVarlenAttention", node.inputs, attributes, domain=DOMAIN)
        builder.replace(node.outputs[0], y)


_RULES: dict[tuple[str, str], Callable[[ir.Node, int, Rewriter], None]] = {
    ("", "Gelu"): _gelu,
    (DOMAIN, "BiasGelu"): _gelu,
    ("", "LayerNormalization"): _normalization,
    (DOMAIN, "SkipLayerNormalization"): _normalization,
    (DOMAIN, "BiasSkipLayerNormalization"): _normalization,
    ("", "Softmax"): _softmax,
    (DOMAIN, "VarlenAttention"): _attention,
}

_LEFT_IN_FLOAT = {
    ("", "Attention"): "it is over padded rows, and the blockwise one over packed ones",
    ("", "RMSNormalization"): "the method has integers for LayerNormalization only",
    (DOMAIN, "SkipRMSNormalization"): "the method has integers for LayerNormalization only",
    (DOMAIN, "LocalVarlenAttention"): "the blockwise attention has no window",
    (DOMAIN, "MaskedVarlenAttention"): "the blockwise attention adds no mask or bias to scores",
    (DOMAIN, "TopKVarlenAttention"): "the blockwise attention keeps all keys",
}
"""What quantized models have of such functions, and why there is no blockwise one."""


def quantize_vectors(node: ir.Node, rewriter: Rewriter) -> None:
    """Store the vectors of a layer in 8 bits: a bias, the factors of a normalization."""
    for position in _vector_inputs(node):
        value = node.inputs[position]
        tensor = constant_value(value)
        if value is None or tensor is None or tensor.dtype is not ir.DataType.FLOAT:
            continue
        if len(tensor.shape) != 1 or tensor.size < VECTOR_BLOCK:
            continue
        vector = tensor.numpy()
        if not np.isfinite(vector).all():
            rewriter.miss(RULE, node, f"{value.name!r} is not finite")
            continue
        with rewriter.rewrite("blockwise-vector", [node], before=node) as builder:
            restored = store_vector(vector, value.name or "vector", builder)
            node.replace_input_with(position, restored)


def _vector_inputs(node: ir.Node) -> tuple[int, ...]:
    if node.domain == DOMAIN and node.op_type == "BlockwiseLayerNormalization":
        return 1, 2
    if not is_op(node, "Add"):
        return ()
    makers = [None if value is None else value.producer() for value in node.inputs]
    return tuple(
        1 - place
        for place, maker in enumerate(makers)
        if maker is not None and maker.op_type == "BlockwiseMatMul"
    )
