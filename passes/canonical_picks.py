"""Rules of ``canonicalize`` for one of several parts that lie side by side; exact to the bit.

A product that holds query, key and value is often viewed as ``[B, S, 3, H, d]``, of which each is
one index of the third axis. In the canonical form it is a range of the product's columns.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir

from dechaff.ir import constant_value, shape_expressions, static_dim

from .matching import axes_from, integer_attribute, made_by, permutation, rank, scalar
from .replacement import Replacement
from .rewriter import GraphBuilder, Rewriter


@dataclasses.dataclass(frozen=True)
class _Pick:
    """``value`` at one index of an axis, which the result no longer has."""

    value: ir.Value
    axis: int
    index: int
    nodes: tuple[ir.Node, ...]


def pick_before_reshape(node: ir.Node, _: Rewriter) -> Replacement | None:
    """One index of an axis that a ``Reshape`` split off the last one: a ``Slice`` of that."""
    pick = _pick(node)
    view = made_by(pick.value, "Reshape") if pick is not None else None
    x = view.inputs[0] if view is not None else None
    if pick is None or view is None or x is None or not _splits_last_axis(x, pick):
        return None
    assert pick.value.shape is not None
    rest = [static_dim(dim) for dim in pick.value.shape[pick.axis + 1 :]]
    if not rest or None in rest:
        return None
    width = math.prod(size or 0 for size in rest)
    target = np.array([0] * pick.axis + rest, np.int64)

    def build(builder: GraphBuilder) -> ir.Value:
        bounds = [pick.index * width, (pick.index + 1) * width, pick.axis]
        vectors = [builder.constant(np.array([bound], np.int64), "bound") for bound in bounds]
        part = builder.op("Slice", [x, *vectors])
        return builder.op("Reshape", [part, builder.constant(target, "sizes")])

    return Replacement("pick-before-reshape", [view, *pick.nodes], build)


def pick_before_transpose(node: ir.Node, _: Rewriter) -> Replacement | None:
    """One index of an axis of a ``Transpose``: it is picked first, and the rest transposed."""
    pick = _pick(node)
    transpose = made_by(pick.value, "Transpose") if pick is not None else None
    perm = permutation(transpose) if transpose is not None else None
    x = transpose.inputs[0] if transpose is not None else None
    if pick is None or transpose is None or perm is None or x is None:
        return None
    if made_by(x, "Reshape") is None:
        return None  # nothing to be gained: the copy would be made in parts
    axis = perm[pick.axis]
    kept = [place - (place > axis) for place in perm if place != axis]

    def build(builder: GraphBuilder) -> ir.Value:
        index = builder.constant(np.array(pick.index, np.int64), "index")
        part = builder.op("Gather", [x, index], {"axis": axis})
        return builder.op("Transpose", [part], {"perm": kept})

    return Replacement("pick-before-transpose", [transpose, *pick.nodes], build)


def _pick(node: ir.Node) -> _Pick | None:
    """What a ``Gather`` of one index picks, or a ``Squeeze`` of a part that is one wide."""
    if node.op_type == "Gather":
        return _of_gather(node)
    part = made_by(node.inputs[0], "Slice", "Split")
    wide = rank(node.inputs[0])
    if part is None or len(node.inputs) < 2 or part.inputs[0] is None:
        return None
    axes = axes_from(node.inputs[1], wide)
    if axes is None or len(axes) != 1:
        return None
    index = _index_of_slice(part, axes[0])
    if part.op_type == "Split":
        index = _index_of_split(part, axes[0], part.outputs.index(node.inputs[0]))
    return None if index is None else _Pick(part.inputs[0], axes[0], index, (part, node))


def _of_gather(node: ir.Node) -> _Pick | None:
    x, tensor = node.inputs[0], constant_value(node.inputs[1])
    index, of_rank = scalar(node.inputs[1]), rank(x)
    if x is None or tensor is None or len(tensor.shape) or index is None or of_rank is None:
        return None
    axis = integer_attribute(node, "axis", 0) % of_rank
    size = static_dim(x.shape[axis]) if x.shape is not None else None
    return None if size is None else _Pick(x, axis, int(index) % size, (node,))


def _index_of_slice(part: ir.Node, axis: int) -> int | None:
    """The start of a ``Slice`` of one index along the axis and no other."""
    x, bounds = part.inputs[0], [scalar(value) for value in part.inputs[1:]]
    if part.op_type != "Slice" or len(bounds) < 3 or None in bounds or x is None:
        return None
    start, end, along, *step = (int(bound or 0) for bound in bounds)
    if step not in ([], [1]) or x.shape is None or along % len(x.shape) != axis:
        return None
    size = static_dim(x.shape[axis])
    if size is None:
        return None
    first, last = (bound + size if bound < 0 else min(bound, size) for bound in (start, end))
    return first if last == first + 1 else None


def _index_of_split(part: ir.Node, axis: int, position: int) -> int | None:
    """Which index an output of a ``Split`` is, where all outputs are one wide."""
    of_rank = rank(part.inputs[0])
    if of_rank is None or integer_attribute(part, "axis", 0) % of_rank != axis:
        return None
    widths = [
        static_dim(out.shape[axis]) if out.shape is not None else None for out in part.outputs
    ]
    return position if set(widths) == {1} else None


def _splits_last_axis(x: ir.Value, pick: _Pick) -> bool:
    """Whether the picked axis and those behind it together are the last axis of ``x``."""
    narrow, wide = shape_expressions(x), shape_expressions(pick.value)
    if narrow is None or wide is None or None in narrow[:-1]:
        return False
    return len(narrow) == pick.axis + 1 and narrow[:-1] == wide[: pick.axis]
