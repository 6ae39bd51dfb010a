"""Operations that pick constant positions of the sequence: the first token's state, the last's."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from dechaff.ir import constant_value, static_dim
from dechaff.passes.matching import integer_attribute

from .layouts import Layout

_MAX_SELECTED = 4


def selected_positions(node: ir.Node, layouts: Mapping[ir.Value, Layout]) -> list[int] | None:
    """Constant positions that a ``Gather`` or a short ``Slice`` picks from the sequence axis."""
    source = node.inputs[0] if node.inputs else None
    layout = layouts.get(source) if source is not None else None
    if node.domain != "" or layout is None or layout.merged:
        return None
    if node.op_type == "Gather":
        indices = constant_value(node.inputs[1])
        axis = integer_attribute(node, "axis", 0) % layout.rank
        if indices is None or axis != layout.sequence_axis or indices.size > _MAX_SELECTED:
            return None
        return [int(index) for index in indices.numpy().reshape(-1)]
    if node.op_type != "Slice" or len(node.inputs) < 4:
        return None
    return _sliced_positions(node, layout)


def _sliced_positions(node: ir.Node, layout: Layout) -> list[int] | None:
    bounds = [constant_value(value) for value in node.inputs[1:4]]
    steps = constant_value(node.inputs[4]) if len(node.inputs) > 4 else None
    if any(bound is None or bound.size != 1 for bound in bounds):
        return None
    if len(node.inputs) > 4 and (steps is None or int(steps.numpy().reshape(-1)[0]) != 1):
        return None
    start, end, axis = (int(b.numpy().reshape(-1)[0]) for b in bounds if b is not None)
    if axis % layout.rank != layout.sequence_axis:
        return None
    if start == -1 and (end == 0 or end > 2**31 - 2):
        return [-1]
    if 0 <= start < end <= start + _MAX_SELECTED:
        size = node.outputs[0].shape
        known = static_dim(size[layout.sequence_axis]) if size is not None else None
        return list(range(start, end)) if known == end - start else None
    return None
