"""Attention in primitive operators becomes one ``Attention``; head transposes go inside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from dechaff.ir import Module, static_dim

from .attention_heads import absorb_transposes, group_heads, rotate_before_split
from .attention_pattern import (
    AttentionMatch,
    MaskTerm,
    NoMatch,
    key_before_transpose,
    match_attention,
)
from .matching import is_op, rank, same_dim
from .pass_base import Numerics, Pass
from .rewriter import GraphBuilder, Rewriter

_FUSE = "fuse-scaled-dot-product-attention"

_LOWEST_BIAS = -1e30
"""Additive masks are raised to this. Lower ones make the runtime's kernel return zeros for a row
without keys, where the primitive chain returns the mean of the values; this one swallows any score
just the same."""


class FuseAttention(Pass):
    """Fuse scaled dot-product attention (ONNX ``Attention``, opset 23).

    ``Softmax(Q K^T * scale + mask) V`` is found in the spellings of torch's exporters and of older
    files, and whole ``Attention`` nodes take the transposes between ``[B, S, H * d]`` and
    ``[B, H, S, d]`` inside, so that what is left between two attentions is token-wise. Keys and
    values that were repeated for each group of queries are read as they were (grouped-query
    attention), and rotary positions turn the heads before they are split.

    Before::

        before (float[B,S,8] q, float[B,S,8] k, float[B,S,8] v, float[B,1,1,S] mask)
            => (float[B,S,8] context)
        <int64[4] split = {0, 0, 2, 4}, int64[3] join = {0, 0, 8}, float half = {0.5}>
        {
            q_split = Reshape (q, split)
            q_heads = Transpose <perm = [0, 2, 1, 3]> (q_split)
            k_split = Reshape (k, split)
            k_heads = Transpose <perm = [0, 2, 3, 1]> (k_split)
            v_split = Reshape (v, split)
            v_heads = Transpose <perm = [0, 2, 1, 3]> (v_split)
            products = MatMul (q_heads, k_heads)
            scaled = Mul (products, half)
            scores = Add (scaled, mask)
            probabilities = Softmax <axis = -1> (scores)
            context_heads = MatMul (probabilities, v_heads)
            context_split = Transpose <perm = [0, 2, 1, 3]> (context_heads)
            context = Reshape (context_split, join)
        }

    After::

        after (float[B,S,8] q, float[B,S,8] k, float[B,S,8] v, float[B,1,1,S] mask)
            => (float[B,S,8] context)
        <int64[4] split = {0, 0, 2, 4}, float lowest = {-1e30},
         int64[2] leading = {1, 1}, int64[1] one = {1}>
        {
            q_split = Reshape (q, split)
            q_heads = Transpose <perm = [0, 2, 1, 3]> (q_split)
            raised = Max (mask, lowest)
            length = Shape <start = 2, end = 3> (q_heads)
            mask_shape = Concat <axis = 0> (leading, length, one)
            written_out = Expand (raised, mask_shape)
            context = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5>
                (q, k, v, written_out)
        }
    """

    name = "fuse-attention"
    numerics = Numerics.REASSOCIATES
    after = ("canonicalize", "fold-constants")

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Fuse the primitive chains, then take repeated heads and transposes inside."""
        for node in list(module.nodes()):
            if node.op_type == "MatMul" and node.domain == "":
                _fuse(node, rewriter)
        for node in list(module.nodes()):
            if is_op(node, "RotaryEmbedding"):
                rotate_before_split(node, rewriter)
        for node in list(module.nodes()):
            if is_op(node, "Attention"):
                absorb_transposes(group_heads(node, rewriter), rewriter)


def _fuse(context: ir.Node, rewriter: Rewriter) -> None:
    try:
        found = match_attention(context)
    except NoMatch as reason:
        rewriter.miss(_FUSE, context, str(reason))
        return
    if found is None:
        return
    with rewriter.rewrite(_FUSE, found.nodes) as builder:
        mask = _build_mask(found, builder)
        inputs = [found.query, _key(found, builder), found.value]
        attributes = {"scale": found.scale}
        if found.softcap:
            attributes["softcap"] = found.softcap
        attention = builder.op("Attention", inputs if mask is None else [*inputs, mask], attributes)
        builder.replace(context.outputs[0], attention)


def _key(found: AttentionMatch, builder: GraphBuilder) -> ir.Value:
    before = key_before_transpose(found.key_transposed)
    if before is None:
        return builder.op("Transpose", [found.key_transposed], {"perm": [0, 1, 3, 2]})
    key, perm = before
    return builder.op("Transpose", [key], {"perm": list(perm)}) if perm else key


def _build_mask(found: AttentionMatch, builder: GraphBuilder) -> ir.Value | None:
    """One additive mask of all terms, its query dimension written out as the runtime wants it."""
    if not found.masks:
        return None
    terms = list(reversed(found.masks))  # the innermost first, as the original computes
    total = _additive(terms[0], found, builder)
    for term in terms[1:]:
        total = _combined(total, term, found, builder)
    if len(terms) > 1 or terms[0].fill is None:
        total = _raised(total, found, builder)
    if _is_written_out(total, found):
        return total
    return builder.op("Expand", [total, _mask_shape(total, found, builder)])


def _is_written_out(mask: ir.Value, found: AttentionMatch) -> bool:
    """Whether the runtime takes the mask: its query dimension is there, and that of the keys."""
    if mask.shape is None or rank(mask) != 4 or static_dim(mask.shape[2]) == 1:
        return False
    return _has_key_length(mask, found)


def _has_key_length(mask: ir.Value, found: AttentionMatch) -> bool:
    """Whether the last dimension is surely the keys', and not 1 to be broadcast over them."""
    keys = found.key_transposed
    if not mask.shape or not keys.shape:
        return False
    return same_dim(mask.shape[-1], keys.shape[-1])


def _raised(mask: ir.Value, found: AttentionMatch, builder: GraphBuilder) -> ir.Value:
    """The mask with its finite entries raised to ``_LOWEST_BIAS``; under the guard -inf stays."""
    lowest = np.array(_LOWEST_BIAS, mask.dtype.numpy() if mask.dtype else np.float32)
    raised = builder.op("Max", [mask, builder.constant(lowest, "lowest_bias")])
    if not found.empty_rows_are_zero:
        return raised
    forbidden = builder.op("IsInf", [mask], {"detect_positive": 0})
    return builder.op("Where", [forbidden, mask, raised])


def _mask_shape(mask: ir.Value, found: AttentionMatch, builder: GraphBuilder) -> ir.Value:
    """``[1, 1, Sq, 1]``, or ``[1, 1, Sq, Sk]`` where the mask is not as long as the keys are."""
    length = builder.op("Shape", [found.query], {"start": 2, "end": 3})
    leading = builder.constant(np.array([1, 1], np.int64), "leading")
    if _has_key_length(mask, found):
        last = builder.constant(np.array([1], np.int64), "one")
    else:
        last = builder.op("Shape", [found.key_transposed], {"start": 3, "end": 4})
    return builder.op("Concat", [leading, length, last], {"axis": 0})


def _additive(term: MaskTerm, found: AttentionMatch, builder: GraphBuilder) -> ir.Value:
    if term.fill is None:
        return _scaled(term, found, builder)
    zero = builder.constant(np.array(0, _dtype(found)), "zero_bias")
    return _selected(term, zero, found, builder)


def _combined(
    inner: ir.Value, term: MaskTerm, found: AttentionMatch, builder: GraphBuilder
) -> ir.Value:
    """A further mask over the masks before it; a selection replaces what they said."""
    if term.fill is None:
        return builder.op("Add", [inner, _scaled(term, found, builder)])
    return _selected(term, inner, found, builder)


def _scaled(term: MaskTerm, found: AttentionMatch, builder: GraphBuilder) -> ir.Value:
    """An additive mask with what the scores are multiplied by behind it."""
    if term.factor == 1.0:
        return term.value
    if term.factor == -1.0:
        return builder.op("Neg", [term.value])
    factor = builder.constant(np.array(term.factor, _dtype(found)), "mask_factor")
    return builder.op("Mul", [term.value, factor])


def _selected(
    term: MaskTerm, otherwise: ir.Value, found: AttentionMatch, builder: GraphBuilder
) -> ir.Value:
    masked = -np.inf if found.empty_rows_are_zero else _LOWEST_BIAS
    fill = builder.constant(np.array(masked, _dtype(found)), "masked_bias")
    chosen = [fill, otherwise] if term.masked_where else [otherwise, fill]
    return builder.op("Where", [term.value, *chosen])


def _dtype(found: AttentionMatch) -> np.dtype[Any]:
    return found.query.dtype.numpy() if found.query.dtype else np.dtype(np.float32)
