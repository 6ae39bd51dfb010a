"""What stays padded though hidden states reach it: scores of pairs of positions.

DeBERTa's attention adds, to each pair of positions, what the query says of their distance and what
the key says of it. Such values are computed padded, from unpacked states. What they hold where a
position is padding means nothing, and the attention mask hides it: it is enough to know which of
their axes count positions.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from dechaff.passes.matching import integer_attribute, permutation, rank

from .elementwise_rules import Elementwise
from .layouts import Layout
from .token_rules import TOKEN_RULES

PositionAxes = frozenset[int]
"""Axes of a value ``[B, ...]`` that index positions whose states it was computed from."""


def position_axes(
    node: ir.Node, layouts: Mapping[ir.Value, Layout], pairs: Mapping[ir.Value, PositionAxes]
) -> PositionAxes | None:
    """The position axes of a node's result, or None if it may mix positions.

    Args:
        node: an operation on hidden states or on scores made of them.
        layouts: where the tokens of hidden states lie.
        pairs: position axes of what was computed of them.
    """
    found = {
        value: axes
        for value in node.inputs
        if value is not None and (axes := _axes_of(value, layouts, pairs)) is not None
    }
    if node.domain != "" or len(node.outputs) != 1 or not found:
        return None
    if any((v in layouts or v in pairs) and v not in found for v in node.inputs if v is not None):
        return None
    rule = _RULES.get(node.op_type)
    if rule is not None:
        return rule(node, found)
    if isinstance(TOKEN_RULES.get(node.op_type), Elementwise):
        return _elementwise(node, found)
    return None


def _axes_of(
    value: ir.Value, layouts: Mapping[ir.Value, Layout], pairs: Mapping[ir.Value, PositionAxes]
) -> PositionAxes | None:
    layout = layouts.get(value)
    if layout is None:
        return pairs.get(value)
    if layout.merged or layout.batch_axis != 0:
        return None
    return frozenset([layout.sequence_axis])


_Found = Mapping[ir.Value, PositionAxes]


def _elementwise(node: ir.Node, found: _Found) -> PositionAxes | None:
    """Operands of states must be as wide as the result, so that their batch is its batch."""
    if any(rank(value) != rank(node.outputs[0]) for value in found):
        return None
    return frozenset().union(*found.values())


def _product(node: ir.Node, found: _Found) -> PositionAxes | None:
    """``[B, ..., S, d] x [.., d, K]`` of a matrix that holds no states."""
    left, right = node.inputs[:2]
    if left is None or right is None or list(found) != [left]:
        return None
    width, other = rank(left), rank(right)
    if width is None or other is None or other > width or width - 1 in found[left]:
        return None
    return found[left]


def _picked(node: ir.Node, found: _Found) -> PositionAxes | None:
    """``GatherElements`` along an axis of features: each position picks of its own."""
    data = node.inputs[0]
    if data is None or list(found) != [data]:
        return None
    axis = integer_attribute(node, "axis", 0) % (rank(data) or 1)
    return None if axis == 0 or axis in found[data] else found[data]


def _transposed(node: ir.Node, found: _Found) -> PositionAxes | None:
    perm = permutation(node)
    if perm is None or perm[0] != 0:
        return None
    (axes,) = found.values()
    return frozenset(perm.index(axis) for axis in axes)


_RULES = {
    "MatMul": _product,
    "GatherElements": _picked,
    "Transpose": _transposed,
}
