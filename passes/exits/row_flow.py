"""Which values of a graph hold something for each row of the batch, and what may mix rows."""

from __future__ import annotations

import onnx_ir as ir

from dechaff.ir import DOMAIN, constant_value, to_expression
from dechaff.ir.module import Module
from dechaff.passes.matching import (
    axes_from,
    integer_attribute,
    is_op,
    is_packed_attention,
    rank,
    values_read,
)

_REDUCTIONS = frozenset(
    [
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
    ]
)
_ALONG_ONE_AXIS = {
    "ArgMax": 0,
    "ArgMin": 0,
    "Concat": 0,
    "Hardmax": -1,
    "LogSoftmax": -1,
    "Softmax": -1,
    "Split": 0,
    "TopK": -1,
}
"""Operators that work along one axis, with the default of the attribute."""


TokenLayout = tuple[ir.Value, ir.Value]
"""Places of packed tokens, int64[T], and the mask that tells which travel, bool[B, S]."""


class RowFlow:
    """Tells values that are the same for all batches from those that have a part for each row.

    Attributes:
        batch: name of the batch's size; None if the graph has no input of open batch size.
        gathered: values that cost much to compute, and have a part for each row on axis 0; for
            packed ones, the tokens' places and the mask that tell the rows' parts.
    """

    def __init__(self, module: Module) -> None:
        self.batch = _batch_name(module.graph)
        self.gathered: dict[ir.Value, TokenLayout | None] = {}
        self._graph = module.graph
        self._free: set[ir.Value] = set()
        for node in module.graph:
            if self._gives_row_free(node):
                self._free.update(node.outputs)

    def is_free(self, value: ir.Value) -> bool:
        """Whether the value is the same whatever rows are in the batch."""
        if value.producer() is None:
            return not value.is_graph_input() or self.batch_axis(value) is None
        return value in self._free

    def batch_axis(self, value: ir.Value) -> int | None:
        """The axis whose size is that of the batch, if the shape shows it."""
        if value.shape is None:
            return None
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, ir.SymbolicDim) and dim.value == self.batch:
                return axis
        return None

    def behind(self, value: ir.Value) -> set[ir.Value]:
        """The value and all that is computed from it in the main graph."""
        found = {value}
        for node in self._graph:
            if any(read in found for read in values_read(node)):
                found.update(node.outputs)
        return found

    def _gives_row_free(self, node: ir.Node) -> bool:
        if node.op_type == "Shape" and node.domain == "" and node.inputs[0] is not None:
            axis = self.batch_axis(node.inputs[0])
            return axis == 0 and integer_attribute(node, "start", 0) > 0
        return all(self.is_free(value) for value in values_read(node))

    def mixes_rows(self, node: ir.Node) -> str | None:
        """Why a node's result for a row may depend on other rows; None if it does not.

        For nodes that work on states, dense or packed: what ``remove-padding`` built to count and
        place tokens is right as it stands.
        """
        if node.domain not in ("", DOMAIN, "com.microsoft"):
            return f"the operator is of the domain {node.domain!r}, which is not known"
        if (node.domain, node.op_type) == (DOMAIN, "QuantizePerTensor"):
            return "it has one scale for all rows: quantize with a scale for each token"
        if node.domain == DOMAIN or is_packed_attention(node) or is_op(node, "Attention"):
            return None
        if any(a.type is ir.AttributeType.GRAPH for a in node.attributes.values()):
            return "it has a branch or a loop of its own"
        source = node.inputs[0] if node.inputs else None
        axis = None if source is None else self._row_axis(source)
        if source is None or axis is None or self.is_free(source):
            return None
        return f"it works along axis {axis}, the batch" if _works_along(node, axis) else None

    def _row_axis(self, value: ir.Value) -> int | None:
        """The axis that holds rows: that of the batch, or axis 0 of packed or merged tokens."""
        axis = self.batch_axis(value)
        if axis is not None or not rank(value) or value.shape is None:
            return axis
        size = to_expression(value.shape[0])
        return None if size is not None and size.is_Integer else 0


def _works_along(node: ir.Node, axis: int) -> bool:
    size = rank(node.inputs[0]) or 1
    if node.op_type in _REDUCTIONS:
        axes = axes_from(node.inputs[1], size) if len(node.inputs) > 1 else None
        return axes is None or axis in axes
    if node.op_type in _ALONG_ONE_AXIS:
        return integer_attribute(node, "axis", _ALONG_ONE_AXIS[node.op_type]) % size == axis
    if node.op_type in ("LayerNormalization", "RMSNormalization"):
        return integer_attribute(node, "axis", -1) % size <= axis
    if node.op_type == "CumSum":
        along = constant_value(node.inputs[1])
        return along is None or int(along.numpy().reshape(-1)[0]) % size == axis
    if node.op_type == "Slice":
        axes = axes_from(node.inputs[3], size) if len(node.inputs) > 3 else tuple(range(size))
        return axes is None or axis in axes
    return False


def _batch_name(graph: ir.Graph) -> str | None:
    for value in graph.inputs:
        if value.is_initializer() or not value.shape:
            continue
        first = value.shape[0]
        if isinstance(first, ir.SymbolicDim) and first.value is not None:
            return first.value
    return None
