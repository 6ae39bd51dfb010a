"""Lowering of ``VarlenAttention`` for OpenVINO: rows in groups of similar lengths.

OpenVINO has no sequences of tensors, and its loops copy what they carry. So the rows are sorted by
length and cut into a fixed number of groups; each group is padded to its own longest row, for the
attention alone, and attended to under a mask. Batching similar lengths together is
TurboTransformers' idea (PPoPP 2021, section 4.4), here within one batch. At lengths even on
[0.2 S, S], 16 rows in eight groups compute 1.17 times the scores of attention row by row, in one
group 2.4 times.

Rows of one length, a single one among them, are attended to at once, where they are, unless queries
and keys were rounded to integers: those always go in groups. The layout of
the groups depends on the lengths alone, so all layers share it. Only standard operators are used,
and no group is empty, so that ONNX Runtime runs the file too, unless a batch has no token at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dechaff.backends.onnxruntime.varlen_attention import (
    all_tokens_are_keys,
    contexts_are_as_wide_as_queries,
    define,
    read_unrounded,
    width_of,
)
from dechaff.backends.onnxruntime.varlen_functions import LOWERED_DOMAIN
from dechaff.ir import constant_value
from dechaff.passes import Rewriter
from dechaff.passes.matching import made_by

from .grouped_functions import GROUPS, GroupVariant

_PLACES = 2
"""Number of the output of a layout that says where contexts lie."""


@dataclasses.dataclass(frozen=True)
class _Integers:
    """Queries and keys as int8, values as they are; the scales of the first two."""

    tokens: Sequence[ir.Value | None]
    scales: Sequence[ir.Value | None]


def lower_to_grouped_attention(node: ir.Node, rewriter: Rewriter) -> bool:
    """To calls of the functions of :class:`GroupVariant`; the caller inlines them.

    A causal attention needs no mask: rows begin together, so that no query sees padding behind it,
    and its keys are all tokens. What is quantized is gathered as integers.
    """
    if not contexts_are_as_wide_as_queries(node):
        return False
    is_causal = node.attributes["is_causal"].as_int() == 1
    integers = None if is_causal else _integers(node)
    if integers is None:
        read_unrounded(node)
    variant = GroupVariant(
        all_keys=is_causal or all_tokens_are_keys(node),
        causal=is_causal,
        integers=integers is not None,
    )
    define(variant.layout_name, variant.layout_text(), rewriter)
    define(variant.attend_name, variant.attend_text(), rewriter)
    with rewriter.rewrite("lower-to-grouped-attention", [node]) as builder:
        at_once = builder.op(
            variant.layout_name,
            node.inputs[3:4] if variant.all_keys else node.inputs[3:5],
            domain=LOWERED_DOMAIN,
            num_outputs=3 + 3 * GROUPS,
        )
        maker = at_once.producer()
        assert maker is not None
        widths = [width_of(value, builder) for value in node.inputs[:3]]
        minus_one = builder.constant(np.array([-1], np.int64), "minus_one")
        flat = builder.op("Concat", [minus_one, widths[0]], {"axis": 0})
        if integers is None:
            operands = [*maker.outputs, *node.inputs[:3], *widths, flat]
        else:
            operands = [*maker.outputs[_PLACES:], *integers.tokens, flat, *integers.scales]
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        context = builder.op(variant.attend_name, operands, attributes, domain=LOWERED_DOMAIN)
        builder.replace(node.outputs[0], context)
    return True


def _integers(node: ir.Node) -> _Integers | None:
    """The operands of an attention whose queries and keys were rounded, with a head for a head."""
    query, key, value = node.inputs[:3]
    heads = [node.attributes[name].as_int() for name in ("q_num_heads", "kv_num_heads")]
    if heads[0] != heads[1] or query is None or query.dtype is not ir.DataType.FLOAT:
        return None
    rounded = [_symmetric_integers(query), _symmetric_integers(key)]
    if not all(rounded):
        return None
    return _Integers([*(pair[0] for pair in rounded), value], [pair[1] for pair in rounded])


def _symmetric_integers(tokens: ir.Value | None) -> Sequence[ir.Value | None]:
    """Integers and scale of what was rounded to int8 about zero, with one scale; else nothing."""
    maker = made_by(tokens, "DequantizeLinear")
    if maker is None or len(maker.inputs) < 3:
        return ()
    scale, zero_point = (constant_value(value) for value in maker.inputs[1:])
    if scale is None or zero_point is None or len(scale.shape) > 0:
        return ()
    is_symmetric = zero_point.dtype is ir.DataType.INT8 and not zero_point.numpy().any()
    return maker.inputs[:2] if is_symmetric else ()
