"""Taking heads out of an attention, and inner features out of a feed-forward block, for good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from dechaff.ir import constant_value, static_dim

from .matching import is_op, only_consumer, rank, sizes_of
from .reconstruction import Reconstruction
from .residual_blocks import (
    AttentionBlock,
    FeedForwardBlock,
    ResidualBlock,
    is_dense,
    weight_sizes,
)
from .rewriter import GraphBuilder, Rewriter

_MAX_NODES_BETWEEN = 16
_HEADS = "remove-heads"
_FEATURES = "remove-features"


def remove_features(
    block: FeedForwardBlock,
    kept: Sequence[int],
    nodes: Sequence[ir.Node],
    rewriter: Rewriter,
    reconstruction: Reconstruction | None = None,
) -> None:
    """Keep these inner features: columns of the first matrices, rows of the last.

    Args:
        block: the block.
        kept: the features that stay, ascending.
        nodes: all nodes of the graph in order.
        rewriter: makes the edits.
        reconstruction: what the last product becomes; None: its matrix loses rows.
    """
    inner = set(block.inner)
    path = [*block.first, *(node for node in nodes if node in inner)]
    with rewriter.rewrite(_FEATURES, [*path, *_end(block)]) as builder:
        made: dict[ir.Value, ir.Value] = {}
        for node in path:
            if node in block.first:
                operands: list[ir.Value | None] = [
                    node.inputs[0],
                    _taken(builder, node.inputs[1], kept, -1),
                ]
            else:
                operands = [
                    made.get(item) or _channels(builder, item, block.width, kept)
                    if item is not None
                    else None
                    for item in node.inputs
                ]
            made[node.outputs[0]] = _again(builder, node, operands)
        inner_value = block.last.inputs[0]
        assert inner_value is not None  # it has been traced
        _multiply(builder, block, made[inner_value], kept, reconstruction)


def remove_heads(
    block: AttentionBlock,
    kept: Sequence[int],
    rewriter: Rewriter,
    reconstruction: Reconstruction | None = None,
) -> bool:
    """Keep these heads of keys and values, and the heads of queries that they serve.

    Args:
        block: the block.
        kept: the heads of keys and values that stay, ascending.
        rewriter: makes the edits.
        reconstruction: what the last product becomes; None: its matrix loses rows.

    Returns:
        Whether it was possible; if not, the rewriter has been told why.
    """
    groups, heads = block.num_groups, block.num_heads
    served = heads // groups
    kept_heads = [group * served + each for group in kept for each in range(served)]
    paths = [path_to_dense(value) for value in block.attention.inputs[:3]]
    reason = _reason_against(block, paths)
    if reason is not None:
        rewriter.miss(_HEADS, block.attention, reason)
        return False
    with rewriter.rewrite(_HEADS, [block.attention, *_end(block)]) as builder:
        operands: list[ir.Value | None] = []
        for path, count, stay in zip(
            paths, (heads, groups, groups), (kept_heads, kept, kept), strict=True
        ):
            operands.append(_with_heads(builder, path or [], count, stay))
        operands += [
            _mask(builder, value, heads, kept_heads) for value in block.attention.inputs[3:]
        ]
        attributes = {a.name: a.value for a in block.attention.attributes.values()}
        attributes |= {"q_num_heads": len(kept_heads), "kv_num_heads": len(kept)}
        context = builder.op("Attention", operands, attributes)
        size = weight_sizes(block.last)[0] // heads
        _multiply(builder, block, context, _features(kept_heads, size), reconstruction)
    return True


def _end(block: ResidualBlock) -> list[ir.Node]:
    """The last product, and the addition of its bias, if there is one right behind it."""
    behind = only_consumer(block.last.outputs[0])
    has_bias = is_op(behind, "Add") and any(
        constant_value(operand) is not None for operand in (behind.inputs if behind else ())
    )
    return [block.last, behind] if behind is not None and has_bias else [block.last]


def _multiply(
    builder: GraphBuilder,
    block: ResidualBlock,
    x: ir.Value,
    rows: Sequence[int],
    reconstruction: Reconstruction | None,
) -> None:
    """The last product again, of ``x``, with these rows of its matrix or what stands for them."""
    if reconstruction is None:
        operands: list[ir.Value | None] = [x, _taken(builder, block.last.inputs[1], rows, 0)]
        builder.replace(block.last.outputs[0], _again(builder, block.last, operands))
        return
    weight = _like(builder, block.last.inputs[1], reconstruction.weight)
    product = _again(builder, block.last, [x, weight])
    *_, end = _end(block)
    if end is block.last:
        shift = _like(builder, block.last.inputs[1], reconstruction.shift)
        builder.replace(block.last.outputs[0], builder.op("Add", [product, shift]))
        return
    bias = next(operand for operand in end.inputs if constant_value(operand) is not None)
    tensor = constant_value(bias)
    assert tensor is not None  # looked for just now
    moved = _like(builder, bias, tensor.numpy() + reconstruction.shift)
    builder.replace(end.outputs[0], builder.op("Add", [product, moved]))


def _like(builder: GraphBuilder, value: ir.Value | None, array: np.ndarray[Any, Any]) -> ir.Value:
    """A constant of a type and name like those of another."""
    tensor = constant_value(value)
    assert tensor is not None  # the caller has seen it
    assert value is not None
    made = ir.tensor(array.astype(tensor.dtype.numpy()), dtype=tensor.dtype)
    return builder.tensor(made, f"{value.name}_fitted")


def _features(heads: Sequence[int], size: int) -> list[int]:
    return [head * size + each for head in heads for each in range(size)]


def path_to_dense(value: ir.Value | None) -> list[ir.Node] | None:
    """From a projection to the attention: the dense node, and what treats each head by itself."""
    path: list[ir.Node] = []
    while value is not None and len(path) < _MAX_NODES_BETWEEN:
        node = value.producer()
        if node is None:
            return None
        path.append(node)
        if is_dense(node):
            return path[::-1]
        computed = [item for item in node.inputs if constant_value(item) is None]
        if is_op(node, "RotaryEmbedding"):
            computed = [node.inputs[0]]
        per_head = is_op(
            node,
            *("Add", "Mul", "Cast", "Reshape", "RotaryEmbedding"),
            *("RMSNormalization", "LayerNormalization"),
        )
        if not per_head or len(computed) != 1:
            return None
        value = computed[0]
    return None


def _reason_against(block: AttentionBlock, paths: Sequence[list[ir.Node] | None]) -> str | None:
    if any(path is None for path in paths):
        return "its queries, keys or values do not come from a product with a constant matrix alone"
    heads, groups = block.num_heads, block.num_groups
    for path, count in zip(paths, (heads, groups, groups), strict=True):
        assert path is not None
        width = weight_sizes(path[0])[1]
        for node in path[1:]:
            if is_op(node, "RMSNormalization", "LayerNormalization") and rank(node.inputs[0]) != 4:
                return "its queries or keys are normalized over all heads together"
            if is_op(node, "Reshape") and not _is_split_or_join(node, count, width):
                return "its queries, keys or values are reshaped in a way that is not known"
    for mask in block.attention.inputs[3:]:
        if mask is not None and _head_axis(mask, heads) is None:
            return "whether its mask differs by head is not known before run time"
    return None


def _is_split_or_join(reshape: ir.Node, heads: int, width: int) -> bool:
    """Whether it makes ``[B, S, H, d]`` of ``[B, S, H * d]``, or the reverse."""
    tensor = constant_value(reshape.inputs[1])
    if tensor is None:
        return False
    tail = [int(size) for size in tensor.numpy()][2:]
    size = width // heads
    return tail in ([heads, size], [-1, size], [heads, -1], [width], [-1])


def _with_heads(
    builder: GraphBuilder, path: Sequence[ir.Node], count: int, kept: Sequence[int]
) -> ir.Value:
    """The path again, with these of its ``count`` heads."""
    dense = path[0]
    width = weight_sizes(dense)[1]
    features = _features(kept, width // count)
    value = _again(
        builder, dense, [dense.inputs[0], _taken(builder, dense.inputs[1], features, -1)]
    )
    previous = dense.outputs[0]
    for node in path[1:]:
        operands: list[ir.Value | None] = [
            value if item is previous else _channels(builder, item, width, features)
            for item in node.inputs
        ]
        if is_op(node, "Reshape"):
            operands[1] = _sizes(builder, node.inputs[1], count, len(kept), width)
        value = _again(builder, node, operands)
        if is_op(node, "RotaryEmbedding") and "num_heads" in node.attributes:
            maker = value.producer()
            assert maker is not None  # made just now
            maker.attributes["num_heads"] = ir.AttrInt64("num_heads", len(kept))
        previous = node.outputs[0]
    return value


def _sizes(
    builder: GraphBuilder, value: ir.Value | None, heads: int, kept: int, width: int
) -> ir.Value:
    tensor = constant_value(value)
    assert tensor is not None  # the path has been checked
    sizes = tensor.numpy().copy()
    tail = sizes[2:]
    replaced = {heads: kept} if len(tail) == 2 else {width: width // heads * kept}
    if len(tail):
        tail[0] = replaced.get(int(tail[0]), int(tail[0]))
    return builder.constant(sizes, "sizes")


def _mask(
    builder: GraphBuilder, mask: ir.Value | None, heads: int, kept: Sequence[int]
) -> ir.Value | None:
    axis = None if mask is None else _head_axis(mask, heads)
    if axis is None or axis < 0:
        return mask
    indices = builder.constant(np.array(kept, np.int64), "heads")
    return builder.op("Gather", [mask, indices], {"axis": axis})


def _head_axis(mask: ir.Value, heads: int) -> int | None:
    """The axis along which a mask differs by head; -1 if there is none, None if not known."""
    if mask.shape is None:
        return None
    axis = len(mask.shape) - 3
    size = static_dim(mask.shape[axis]) if axis >= 0 else 1
    if size == 1:
        return -1
    return axis if size == heads else None


def _channels(
    builder: GraphBuilder, value: ir.Value | None, width: int, kept: Sequence[int]
) -> ir.Value | None:
    """A constant with the kept features, if it has one element for each; else as it is."""
    tensor = constant_value(value)
    if tensor is None or not tensor.shape or sizes_of(tensor)[-1] != width or width == 1:
        return value
    return _taken(builder, value, kept, -1)


def _taken(
    builder: GraphBuilder, value: ir.Value | None, kept: Sequence[int], axis: int
) -> ir.Value:
    """A constant with the kept rows or columns only."""
    tensor = constant_value(value)
    assert tensor is not None  # the caller has seen it
    assert value is not None
    array = np.take(tensor.numpy(), kept, axis=axis)
    return builder.tensor(ir.tensor(array, dtype=tensor.dtype), f"{value.name}_kept")


def _again(builder: GraphBuilder, node: ir.Node, operands: Sequence[ir.Value | None]) -> ir.Value:
    attributes = {a.name: a.value for a in node.attributes.values()}
    return builder.op(node.op_type, operands, attributes, domain=node.domain)
