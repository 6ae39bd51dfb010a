"""A rule of ``canonicalize`` for lookups that find one row at every place; exact to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from dechaff.ir import constant_value

from .matching import as_large_as, integer_attribute, is_private, made_by, sizes_of
from .replacement import Replacement
from .rewriter import GraphBuilder, Rewriter

_KEEPS_ELEMENTS = (
    "Expand",
    "Gather",
    "GatherElements",
    "Identity",
    "Reshape",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
"""What these give holds no element that their first operand does not hold."""

_MOST_ELEMENTS = 1 << 20
_MOST_STEPS = 16


def add_one_row(node: ir.Node, _: Rewriter) -> Replacement | None:
    """``Add`` of rows of a table that is read by one index everywhere: ``Add`` of that row.

    Exporters of BERT look token types up that nobody gave, in a constant of zeros.
    """
    for x, looked_up in (node.inputs[:2], node.inputs[1::-1]):
        gather = made_by(looked_up, "Gather")
        if gather is None or x is None or integer_attribute(gather, "axis", 0) != 0:
            continue
        table, index = constant_value(gather.inputs[0]), _only_element(gather.inputs[1])
        if table is None or index is None or len(table.shape) != 2:
            continue
        count = sizes_of(table)[0]
        if not -count <= index < count:
            continue
        if not as_large_as(x, gather.outputs[0]) or not is_private(gather.outputs[0], [node]):
            continue
        return _sum(x, table.numpy()[index].copy(), gather, node)
    return None


def _sum(x: ir.Value, row: np.ndarray[Any, Any], *nodes: ir.Node) -> Replacement:
    def build(builder: GraphBuilder) -> ir.Value:
        return builder.op("Add", [x, builder.constant(row, "row")])

    return Replacement("add-one-row", nodes, build)


def _only_element(value: ir.Value | None) -> int | None:
    """The integer that all elements of a value are; None if they may differ."""
    for _ in range(_MOST_STEPS):
        constant = constant_value(value)
        if constant is not None:
            return _uniform(constant)
        step = made_by(value, *_KEEPS_ELEMENTS)
        if step is None:
            return None
        value = step.inputs[0]
    return None


def _uniform(constant: ir.TensorProtocol) -> int | None:
    if not constant.dtype.is_integer() or not 0 < constant.size <= _MOST_ELEMENTS:
        return None
    elements = constant.numpy().reshape(-1)
    return int(elements[0]) if (elements == elements[0]).all() else None
