"""Where a vocabulary is in a graph: the table that token ids index, and the logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from dechaff.ir import DOMAIN, Module, UsageError, constant_value

from .matching import integer_attribute, is_op, permutation, sizes_of
from .rewriter import Rewriter

_RULE = "trim-vocabulary"
_NOT_TOKENS = ("position", "type")
_ELEMENTWISE = ("Add", "Cast", "Div", "Identity", "Mul", "Sub", "Tanh")
_OVER_TOKENS = ("ArgMax", "Hardmax", "LogSoftmax", "Softmax", "TopK")


@dataclasses.dataclass(frozen=True)
class Table:
    """The embedding of the tokens.

    Attributes:
        value: the constant, ``[V, D]``.
        size: V.
        gathers: the nodes that look ids up in it.
    """

    value: ir.Value
    size: int
    gathers: tuple[ir.Node, ...]

    def constant_ids(self) -> set[int]:
        """Ids that the graph itself looks up."""
        tensors = [constant_value(gather.inputs[1]) for gather in self.gathers]
        ids = [tensor.numpy() for tensor in tensors if tensor is not None]
        return {int(token) % self.size for array in ids for token in np.unique(array)}

    def computed_ids(self) -> list[ir.Value]:
        """What the other nodes look up."""
        values = [gather.inputs[1] for gather in self.gathers]
        return list(dict.fromkeys(v for v in values if v is not None and constant_value(v) is None))

    def inputs(self) -> tuple[str, ...]:
        """Names of the graph inputs that hold token ids."""
        sources = [_source(value) for value in self.computed_ids()]
        return tuple(dict.fromkeys(v.name or "" for v in sources if v is not None))


@dataclasses.dataclass(frozen=True)
class Projection:
    """From hidden states to an output with an element for each token.

    Attributes:
        path: the product and what follows it, in order.
        axes: constants with an element for each token, and on which axis.
        output: the graph output.
    """

    path: tuple[ir.Node, ...]
    axes: Mapping[ir.Value, int]
    output: ir.Value


def find_table(module: Module, name: str, rewriter: Rewriter) -> Table | None:
    """The table with most rows of those that a graph input indexes, or the one of that name.

    Raises:
        UsageError: there is no table of that name.
    """
    readers: dict[ir.Value, list[ir.Node]] = {}
    for node in module.graph:
        value = node.inputs[0] if is_op(node, "Gather") else None
        if value is not None and _is_table(node, value):
            readers.setdefault(value, []).append(node)
    tables = [value for value, nodes in readers.items() if any(map(_is_indexed_by_tokens, nodes))]
    if name:
        tables = [value for value in tables if value.name == name]
    if not tables and name:
        raise UsageError(f"pass {_RULE}: there is no table {name!r} that token ids index")
    if not tables:
        rewriter.note(f"{_RULE}: no constant table is indexed by token ids that are an input")
        return None
    size = max(_rows(value) for value in tables)
    largest = [value for value in tables if _rows(value) == size]
    gathers = readers[largest[0]]
    if len(largest) > 1:
        names = ", ".join(str(value.name) for value in largest)
        rewriter.miss(_RULE, gathers[0], f"several tables have {size} rows ({names}): say table=")
        return None
    return Table(largest[0], size, tuple(gathers))


def find_projections(module: Module, table: Table, rewriter: Rewriter) -> list[Projection] | None:
    """Products with a column for each token; None where one cannot be trimmed, and why is told."""
    found: list[Projection] = []
    for node in module.graph:
        start = _start(node, table)
        if start is None:
            continue
        is_tied = table.value in {value for each in start[0] for value in each.inputs}
        reason = _follow(*start, table.size, found)
        if reason is not None and (is_tied or reason[1]):
            rewriter.miss(_RULE, node, reason[0])
            return None
    inside = {*table.gathers, *(node for item in found for node in item.path)}
    for node, _ in table.value.uses():  # in subgraphs too
        if node not in inside:
            rewriter.miss(_RULE, node, f"it reads the table {table.value.name!r} as a whole")
            return None
    return found


def _start(node: ir.Node, table: Table) -> tuple[list[ir.Node], dict[ir.Value, int]] | None:
    """A product with a column for each token: its nodes, and its weights with their axis."""
    if not is_op(node, "MatMul", "Gemm"):
        return None
    weight = node.inputs[1]
    assert weight is not None  # the operator requires it
    maker = weight.producer()
    if maker is not None and is_op(maker, "Transpose") and maker.inputs[0] is table.value:
        is_last = permutation(maker) == (1, 0) and not _is_transposed(node)
        return ([maker, node], {table.value: 0}) if is_last else None
    tensor = constant_value(weight)
    axis = 0 if _is_transposed(node) else 1
    if tensor is None or len(tensor.shape) != 2 or sizes_of(tensor)[axis] != table.size:
        return None
    return [node], {weight: axis}


def _follow(
    path: list[ir.Node], axes: dict[ir.Value, int], size: int, found: list[Projection]
) -> tuple[str, bool] | None:
    """From the product to a graph output.

    Returns:
        Why that cannot be, and whether what is computed must be logits; None if it can.
    """
    node = path[-1]
    constants = list(node.inputs[2:]) if is_op(node, "Gemm") else []
    while True:
        for value in constants:
            tensor = constant_value(value)
            if value is None or tensor is None:
                return f"{node.op_type} combines the logits with what is computed", False
            if tensor.shape and sizes_of(tensor)[-1] == size:
                axes[value] = len(tensor.shape) - 1
            elif tensor.shape and sizes_of(tensor)[-1] != 1:
                return f"{node.op_type} combines the logits with a constant of another size", False
        value, users = node.outputs[0], [user for user, _ in node.outputs[0].uses()]
        over = next((user for user in users if is_op(user, *_OVER_TOKENS)), None)
        if over is not None:
            return f"{over.op_type} over all tokens reads its logits", True
        if value.is_graph_output() and not users:
            found.append(Projection(tuple(path), axes, value))
            return None
        if value.is_graph_output() or len(users) != 1 or not _keeps_columns(users[0], value):
            return "its logits are not an output, or are not only that", False
        node = users[0]
        is_packing = node.domain == DOMAIN
        constants = [] if is_packing else [item for item in node.inputs if item is not value]
        path.append(node)


def _keeps_columns(node: ir.Node, value: ir.Value) -> bool:
    """Whether each column of the result comes from the same column of the operand."""
    if node.domain == DOMAIN:
        return node.op_type == "Unpack" and node.inputs[0] is value
    return is_op(node, *_ELEMENTWISE)


def _is_table(node: ir.Node, value: ir.Value) -> bool:
    tensor = constant_value(value)
    return (
        tensor is not None
        and len(tensor.shape) == 2
        and tensor.dtype.is_floating_point()
        and integer_attribute(node, "axis", 0) in (0, -2)
    )


def _is_indexed_by_tokens(gather: ir.Node) -> bool:
    source = _source(gather.inputs[1])
    return source is not None and not any(text in (source.name or "") for text in _NOT_TOKENS)


def _source(value: ir.Value | None) -> ir.Value | None:
    """The graph input that comes, by first operands, to be these ids."""
    while value is not None and not value.is_graph_input():
        node = value.producer()
        value = None if node is None or not node.inputs else node.inputs[0]
    return value


def _rows(value: ir.Value) -> int:
    tensor = constant_value(value)
    assert tensor is not None  # only constants are tables
    return sizes_of(tensor)[0]


def _is_transposed(node: ir.Node) -> bool:
    return is_op(node, "Gemm") and integer_attribute(node, "transB", 0) == 1
