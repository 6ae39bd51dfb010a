"""What stands around an ``Attention`` and can go inside: transposes, repeated and rotated heads."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from dechaff.ir import static_dim

from .matching import (
    axes_from,
    float_attribute,
    integer_attribute,
    made_by,
    only_consumer,
    permutation,
    rank,
    same_dim,
)
from .rewriter import GraphBuilder, Rewriter

_ABSORB = "absorb-head-transposes"
_GROUP = "group-repeated-heads"
_ROTATE = "rotate-before-split"
_HEADS_FIRST = (0, 2, 1, 3)


def rotate_before_split(rotary: ir.Node, rewriter: Rewriter) -> None:
    """``RotaryEmbedding`` of split and transposed heads: turn ``[B, S, H * d]``, then split."""
    states, result = rotary.inputs[0], rotary.outputs[0]
    split = _untransposed(states)
    if split is None or states is None or rank(result) != 4:
        return
    sizes = [static_dim(dim) for dim in states.shape or ()]
    heads, head_size = sizes[1], sizes[3]
    if heads is None or head_size is None:
        reason = "the number of heads or their size is not known before run time"
        rewriter.miss(_ROTATE, rotary, reason)
        return
    with rewriter.rewrite(_ROTATE, [rotary]) as builder:
        attributes = {a.name: a.value for a in rotary.attributes.values()}
        attributes["num_heads"] = heads
        inputs = [_joined(split, builder), *rotary.inputs[1:]]
        turned = builder.op("RotaryEmbedding", inputs, attributes)
        sizes_after = builder.constant(np.array([0, 0, heads, head_size], np.int64), "split")
        again = builder.op("Reshape", [turned, sizes_after])
        builder.replace(result, builder.op("Transpose", [again], {"perm": list(_HEADS_FIRST)}))


def group_heads(attention: ir.Node, rewriter: Rewriter) -> ir.Node:
    """Keys and values repeated for each group of query heads: read them as they were."""
    if rank(attention.inputs[0]) != 4 or len(attention.inputs) > 4 or len(attention.outputs) > 1:
        return attention
    sources = [_before_repeat(value) for value in attention.inputs[1:3]]
    if sources == [None, None]:
        return attention
    key, value = sources
    if key is None or value is None or _heads(key) != _heads(value):
        rewriter.miss(_GROUP, attention, "keys and values are not repeated in the same way")
        return attention
    with rewriter.rewrite(_GROUP, [attention]) as builder:
        inputs = [attention.inputs[0], key, value, *attention.inputs[3:]]
        grouped = builder.op(
            "Attention", inputs, {a.name: a.value for a in attention.attributes.values()}
        )
        builder.replace(attention.outputs[0], grouped)
    return grouped.producer() or attention


def _heads(value: ir.Value) -> int | None:
    return static_dim(value.shape[1]) if value.shape is not None else None


def _before_repeat(value: ir.Value | None) -> ir.Value | None:
    """``k`` [B, H, S, d] of ``Reshape(Expand(Unsqueeze(k, 2)))``, each head some times in a row."""
    reshape = made_by(value, "Reshape")
    expand = made_by(reshape.inputs[0], "Expand") if reshape is not None else None
    unsqueeze = made_by(expand.inputs[0], "Unsqueeze") if expand is not None else None
    if value is None or expand is None or unsqueeze is None:
        return None
    wide, source = expand.outputs[0], unsqueeze.inputs[0]
    if axes_from(unsqueeze.inputs[1], 5) != (2,) or source is None or rank(source) != 4:
        return None
    if wide.shape is None or value.shape is None or len(wide.shape) != 5 or len(value.shape) != 4:
        return None
    heads, times, merged = (
        static_dim(dim) for dim in (wide.shape[1], wide.shape[2], value.shape[1])
    )
    if heads is None or times is None or merged != heads * times or _heads(source) != heads:
        return None
    kept = [wide.shape[axis] for axis in (0, 3, 4)]
    for other in (source.shape, value.shape):
        if other is None or not all(map(same_dim, kept, (other[axis] for axis in (0, 2, 3)))):
            return None
    return source


def absorb_transposes(attention: ir.Node, rewriter: Rewriter) -> None:
    """``[B, H, S, d]`` operands made from ``[B, S, H * d]`` by reshape and transpose: use those."""
    operands = attention.inputs[:3]
    if rank(operands[0]) != 4 or len(attention.outputs) > 1 or len(attention.inputs) > 4:
        return
    splits = [_untransposed(value) for value in operands]
    missing = [name for name, split in zip("QKV", splits, strict=True) if split is None]
    if missing:
        rewriter.miss(_ABSORB, attention, f"{', '.join(missing)} is not a transposed split")
        return
    joined = _after_join(attention.outputs[0])
    if joined is None:
        rewriter.miss(_ABSORB, attention, "the context is not transposed and joined again")
        return
    heads = [static_dim(value.shape[1]) if value and value.shape else None for value in operands]
    if heads[0] is None or heads[1] is None:
        rewriter.miss(_ABSORB, attention, "the number of heads is not known before run time")
        return
    with rewriter.rewrite(_ABSORB, [attention, *joined]) as builder:
        attributes = {
            "q_num_heads": heads[0],
            "kv_num_heads": heads[1],
            "is_causal": integer_attribute(attention, "is_causal", 0),
            "softcap": float_attribute(attention, "softcap") or 0.0,
            "scale": float_attribute(attention, "scale"),
        }
        given = {name: value for name, value in attributes.items() if value}
        joint = [_joined(split, builder) for split in splits if split is not None]
        fused = builder.op("Attention", [*joint, *attention.inputs[3:]], given)
        builder.replace(joined[-1].outputs[0], fused)


def _untransposed(value: ir.Value | None) -> ir.Value | None:
    """``x`` [B, S, H, d] of which ``value`` is the transpose with heads before the sequence."""
    transpose = made_by(value, "Transpose")
    if transpose is None or permutation(transpose) != _HEADS_FIRST:
        return None
    return transpose.inputs[0] if rank(transpose.inputs[0]) == 4 else None


def _joined(split: ir.Value, builder: GraphBuilder) -> ir.Value:
    """``[B, S, H * d]`` of ``[B, S, H, d]``: what was split, or else the heads side by side."""
    reshape = made_by(split, "Reshape")
    source = reshape.inputs[0] if reshape is not None else None
    if source is not None and rank(source) == 3 and _same_leading(source, split):
        return source
    sizes = [static_dim(dim) for dim in (split.shape or ())[2:]]
    width = -1 if None in sizes else math.prod(size or 0 for size in sizes)
    join = builder.constant(np.array([0, 0, width], np.int64), "join")
    return builder.op("Reshape", [split, join])


def _after_join(value: ir.Value) -> list[ir.Node] | None:
    """The ``Transpose`` and ``Reshape`` that turn ``[B, H, S, d]`` into ``[B, S, H * d]``."""
    transpose = only_consumer(value)
    if transpose is None or transpose.op_type != "Transpose":
        return None
    if permutation(transpose) != _HEADS_FIRST:
        return None
    reshape = only_consumer(transpose.outputs[0])
    if reshape is None or reshape.op_type != "Reshape" or rank(reshape.outputs[0]) != 3:
        return None
    if not _same_leading(transpose.outputs[0], reshape.outputs[0]):
        return None
    return [transpose, reshape]


def _same_leading(before: ir.Value | None, after: ir.Value) -> bool:
    """Whether batch and sequence keep their places: both sizes are known and equal."""
    if before is None or before.shape is None or after.shape is None:
        return False
    pairs = list(zip(before.shape, after.shape, strict=False))[:2]
    return len(pairs) == 2 and all(same_dim(a, b) for a, b in pairs)
