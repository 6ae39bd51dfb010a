"""Nodes that read one position of each sequence: the first token's state, the last's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir

from dechaff.ir import DOMAIN, Module, constant_value

from .matching import integer_attribute, is_op, rank

_FAR = 2**31 - 2


@dataclasses.dataclass(frozen=True)
class Selection:
    """A node that reads one position of each sequence.

    Attributes:
        node: ``Gather`` or ``Slice``.
        axis: the axis of its operand along which it picks: 1 of padded tokens, 0 of packed ones.
        position: which position, from the front or, if negative, from the end.
        layout: for packed tokens, their ``TokenLayout``.
    """

    node: ir.Node
    axis: int
    position: int
    layout: ir.Node | None = None

    @property
    def source(self) -> ir.Value:
        """What it picks from."""
        value = self.node.inputs[0]
        assert value is not None
        return value


def selections(module: Module) -> Iterator[Selection]:
    """All selections of one constant position, in the order of the graph, branches included."""
    for node in module.nodes():
        if is_op(node, "Gather") and integer_attribute(node, "axis", 0) == 0:
            packed = _of_packed_tokens(node)
            if packed is not None:
                yield packed
        elif is_op(node, "Gather", "Slice") and rank(node.inputs[0]) == 3:
            position = _picked_position(node)
            if position is not None:
                yield Selection(node, 1, position)


def _of_packed_tokens(node: ir.Node) -> Selection | None:
    """``Gather(packed, Gather <axis = 1> (packed_position, position))``."""
    rows = node.inputs[1].producer() if node.inputs[1] is not None else None
    if rows is None or not is_op(rows, "Gather") or rows.inputs[0] is None:
        return None
    layout = rows.inputs[0].producer()
    if layout is None or (layout.domain, layout.op_type) != (DOMAIN, "TokenLayout"):
        return None
    position = _picked_position(rows)
    return None if position is None else Selection(node, 0, position, layout)


def _picked_position(node: ir.Node) -> int | None:
    """The one constant position that a ``Gather`` or a ``Slice`` picks along axis 1."""
    if node.op_type == "Gather":
        along_positions = integer_attribute(node, "axis", 0) == 1
        return only_integer(node.inputs[1]) if along_positions else None
    if len(node.inputs) < 4 or only_integer(node.inputs[3]) != 1:
        return None
    start, end = (only_integer(value) for value in node.inputs[1:3])
    step = only_integer(node.inputs[4]) if len(node.inputs) > 4 else 1
    if start is None or end is None or step != 1:
        return None
    picks_last = start == -1 and end > _FAR
    return start if picks_last or (end == start + 1 and end != 0) else None


def only_integer(value: ir.Value | None) -> int | None:
    """The element of a constant that has one."""
    tensor = constant_value(value)
    return int(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None
