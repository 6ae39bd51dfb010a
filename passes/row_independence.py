"""Whether what a packed model gives for a row is the same in every batch that holds the row."""

from __future__ import annotations

import onnx_ir as ir

from dechaff.ir import DOMAIN, RULE_KEY, Module, shape_expressions

from .exits.row_flow import RowFlow
from .matching import integer_attribute, is_op, is_packed_attention, permutation, rank
from .padding.token_rules import ELEMENTWISE
from .skip_unread_rows import PACKED_RULE

_PACKING_RULES = frozenset(["run-packed", "token-layout", "unpack", PACKED_RULE])
"""What ``remove-padding`` writes, which packs what is computed token by token or row by row, and
what ``skip-unread-rows`` makes of packed tokens. Of padded ones it may move what works along the
batch."""
_OF_PACKED_TOKENS = frozenset(
    [
        "BiasGelu",
        "BiasSkipLayerNormalization",
        "Pack",
        "SkipLayerNormalization",
        "SkipRMSNormalization",
        "TokenLayout",
        "Unpack",
    ]
)
_ALONG_OTHER_AXES = frozenset(
    [
        "ArgMax",
        "ArgMin",
        "Attention",
        "Concat",
        "CumSum",
        "Expand",
        "LayerNormalization",
        "LogSoftmax",
        "RMSNormalization",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "Slice",
        "Softmax",
        "Split",
        "Squeeze",
        "Unsqueeze",
    ]
)
"""Unless :meth:`RowFlow.mixes_rows` says that they work along the batch."""
_OF_SIZES = frozenset(
    [
        "Add",
        "Cast",
        "Concat",
        "Div",
        "Gather",
        "Mul",
        "Shape",
        "Slice",
        "Squeeze",
        "Sub",
        "Unsqueeze",
    ]
)
_SHAPE_OPERANDS = frozenset([("Expand", 1), ("Reshape", 1)])


def rows_are_independent(module: Module) -> bool:
    """Whether a batch may be run in parts: every input and output has a part for each row.

    False wherever the graph does not show it: for operators not known here, for values that hold
    rows along an axis other than the first, and where the number of rows is computed with.

    Args:
        module: a module after ``remove-padding``, its packed attention not lowered yet.
    """
    graph, rows = module.graph, _Rows(module)
    if not any(is_packed_attention(node) for node in graph):
        return False
    if any(value.is_initializer() for value in graph.inputs):
        return False
    ends = [*graph.inputs, *graph.outputs]
    return all(rows.are_parts(value) for value in ends) and all(map(rows.stay_apart, graph))


class _Rows:
    """Where rows are in the values of a graph."""

    def __init__(self, module: Module) -> None:
        self._flow = RowFlow(module)
        layouts = [node for node in module.graph if node.op_type == "TokenLayout"]
        tokens = [shape_expressions(node.outputs[0]) for node in layouts]
        self._counts = {str(sizes[0]) for sizes in tokens if sizes}
        if self._flow.batch is not None:
            self._counts.add(self._flow.batch)

    def are_parts(self, value: ir.Value) -> bool:
        """Whether axis 0, and no other, holds the rows or their packed tokens."""
        sizes = shape_expressions(value)
        if not sizes or str(sizes[0]) not in self._counts:
            return False
        return not any(str(name) in self._counts for s in sizes[1:] for name in s.free_symbols)

    def stay_apart(self, node: ir.Node) -> bool:
        """Whether no result for a row depends on another row."""
        if node.metadata_props.get(RULE_KEY) in _PACKING_RULES:
            return True
        if all(self._flow.is_free(value) for value in node.outputs):
            return True
        if node.domain == DOMAIN and node.op_type == "Int4Gather":
            return all(v is not None and self._flow.is_free(v) for v in node.inputs[:2])
        if node.domain == DOMAIN:
            return is_packed_attention(node) or node.op_type in _OF_PACKED_TOKENS
        if node.domain != "" or self._flow.mixes_rows(node) is not None:
            return False
        if self._gives_sizes(node):
            return all(self._reads_a_size(*use) for use in node.outputs[0].uses())
        return self._works_row_by_row(node) and all(map(self.are_parts, node.outputs))

    def _works_row_by_row(self, node: ir.Node) -> bool:
        free = [value is None or self._flow.is_free(value) for value in node.inputs]
        match node.op_type:
            case "MatMul":
                return free[1] or all((rank(value) or 0) >= 3 for value in node.inputs)
            case "Gemm":
                return all(free[1:]) and not integer_attribute(node, "transA", 0)
            case "Gather":
                return free[0] or (free[1] and integer_attribute(node, "axis", 0) != 0)
            case "Reshape":
                before, after = map(shape_expressions, (node.inputs[0], node.outputs[0]))
                return before is not None and after is not None and before[:1] == after[:1] != ()
            case "Transpose":
                return (permutation(node) or (None,))[0] == 0
            case "QuantizeLinear" | "DequantizeLinear":
                return self._has_no_scale_for_a_row(node, all(free[1:]))
        return node.op_type in ELEMENTWISE or node.op_type in _ALONG_OTHER_AXES

    def _has_no_scale_for_a_row(self, node: ir.Node, is_constant: bool) -> bool:
        """Whether a scale serves all rows, or comes with the row from a table."""
        x, scale = node.inputs[:2]
        if is_constant and rank(scale) == 0:
            return True
        is_along_rows = integer_attribute(node, "axis", 1) % (rank(x) or 1) == 0
        comes_along = (
            "block_size" in node.attributes and scale is not None and self.are_parts(scale)
        )
        return not is_along_rows and (is_constant or comes_along)

    def _gives_sizes(self, node: ir.Node | None) -> bool:
        """Whether the result consists of sizes, the number of rows among them."""
        if not is_op(node, *_OF_SIZES) or node is None:
            return False
        result = node.outputs[0]
        if result.dtype is not ir.DataType.INT64 or (rank(result) or 0) > 1:
            return False
        if node.op_type == "Shape":
            return True
        return not self.are_parts(result) and all(
            value is None or self._flow.is_free(value) or self._gives_sizes(value.producer())
            for value in node.inputs
        )

    def _reads_a_size(self, user: ir.Node, position: int) -> bool:
        if user.metadata_props.get(RULE_KEY) in _PACKING_RULES:
            return True
        return (user.op_type, position) in _SHAPE_OPERANDS or self._gives_sizes(user)
