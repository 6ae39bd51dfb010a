"""Token rules of operations that combine entries at the same place."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dechaff.ir import static_dim
from dechaff.passes.matching import rank

from .layouts import Layout, NotTokenWise, same_size
from .token_rule import Layouts, Operands, TokenRule, repeat


class Elementwise(TokenRule):
    """Each result entry depends on the operands' entries at the same place, after broadcasting."""

    def layout(self, node: ir.Node, layouts: Layouts, mask: ir.Value) -> Layout:
        """All operands with tokens must have them on the same axes."""
        ranks = [rank(value) for value in node.inputs if value is not None]
        if None in ranks:
            raise NotTokenWise("the rank of an operand is not known")
        width = max(size or 0 for size in ranks)
        found = {
            layouts[value].broadcast_to(width)
            for value in node.inputs
            if value is not None and value in layouts
        }
        if len(found) != 1:
            raise NotTokenWise("the operands hold their tokens on different axes")
        layout = found.pop()
        for value in node.inputs:
            if value is not None and value not in layouts:
                check_broadcast(value, layout, mask)
        return layout

    def emit(self, node: ir.Node, operands: Operands) -> list[ir.Value]:
        """The same operator; operands without tokens lose their token axes."""
        layout = self.layout(node, operands.layouts, operands.mask)
        inputs: list[ir.Value | None] = []
        for value in node.inputs:
            if value is None:
                inputs.append(None)
            elif value in operands.layouts:
                inputs.append(_widened(value, layout, operands))
            else:
                inputs.append(operands.broadcast(value, layout))
        return repeat(node, inputs, operands.builder)


def check_broadcast(value: ir.Value, layout: Layout, mask: ir.Value) -> None:
    """An operand without tokens must be constant along the token axes, or as long as they are."""
    if value.shape is None:
        raise NotTokenWise(f"the shape of operand {value.name!r} is not known")
    shift = layout.rank - len(value.shape)
    for axis, size in ((layout.batch_axis, 0), (layout.sequence_axis, 1)):
        own = axis - shift
        if own < 0 or static_dim(value.shape[own]) == 1:
            continue
        if layout.merged or mask.shape is None:
            raise NotTokenWise(f"operand {value.name!r} varies along the merged token axis")
        if not same_size(value.shape[own], mask.shape[size]):
            raise NotTokenWise(f"operand {value.name!r} has another size along a token axis")


def _widened(value: ir.Value, layout: Layout, operands: Operands) -> ir.Value:
    """A packed operand of lower rank, with the axes that broadcasting would add in between."""
    packed = operands.packed(value)
    missing = layout.rank - operands.layouts[value].rank
    if missing == 0:
        return packed
    axes = np.arange(1, 1 + missing, dtype=np.int64)
    return operands.builder.op("Unsqueeze", [packed, operands.builder.constant(axes, "axes")])
