"""Questions that rules ask of a graph while they match."""

from __future__ import annotations

from collections.abc import Container

import onnx_ir as ir

from dechaff.ir import DOMAIN, constant_value
from dechaff.ir.attention_ops import PACKED_ATTENTIONS


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether the node is one of the standard operators named."""
    return node is not None and node.domain == "" and node.op_type in op_types


def is_packed_attention(node: ir.Node) -> bool:
    """Whether the node is one of the dialect's attentions over packed sequences."""
    return node.domain == DOMAIN and node.op_type in PACKED_ATTENTIONS


def made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that computes the value, if it is one of the standard operators named."""
    node = None if value is None else value.producer()
    return node if is_op(node, *op_types) else None


def scalar(value: ir.Value | None) -> float | None:
    """The one element of a constant as a float; None for all else."""
    tensor = constant_value(value)
    if tensor is None or tensor.size != 1 or tensor.dtype is ir.DataType.STRING:
        return None
    return float(tensor.numpy().reshape(-1)[0])


def other_operand(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The operand of a binary operator that is not ``value`` (``value`` itself in ``x * x``)."""
    left, right = node.inputs[:2]
    return right if left is value else left


def is_private(value: ir.Value, nodes: Container[ir.Node]) -> bool:
    """Whether nothing outside ``nodes`` reads the value."""
    if value.is_graph_output():
        return False
    return all(user in nodes for user, _ in value.uses())


def has_own_weight(product: ir.Node) -> bool:
    """Whether no other node reads its weight: a changed one would lie beside it in the file."""
    weight = product.inputs[1]
    return weight is not None and is_private(weight, [product])


def rank(value: ir.Value | None) -> int | None:
    """Number of dimensions, if known."""
    return None if value is None or value.shape is None else len(value.shape)


def integer_attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or its default if the node does not carry it."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def axes_from(value: ir.Value | None, of_rank: int | None) -> tuple[int, ...] | None:
    """Constant axes counted from the front, ascending; None if they or the rank are unknown."""
    tensor = constant_value(value)
    if tensor is None or of_rank is None:
        return None
    return tuple(sorted(int(axis) % of_rank for axis in tensor.numpy().reshape(-1)))


def as_large_as(value: ir.Value, other: ir.Value | None) -> bool:
    """Whether a result of combining the two surely has the shape of ``value``."""
    if value.shape is None or other is None or other.shape is None:
        return False
    if len(other.shape) > len(value.shape):
        return False
    own = list(value.shape)[len(value.shape) - len(other.shape) :]
    return all(theirs in (1, mine) for mine, theirs in zip(own, other.shape, strict=True))


def scalar_operand(node: ir.Node) -> tuple[ir.Value, float] | None:
    """For a commutative operator with one scalar constant: the other operand and the number."""
    left, right = node.inputs[0], node.inputs[1]
    number = scalar(right)
    if number is not None and left is not None:
        return left, number
    number = scalar(left)
    if number is not None and right is not None:
        return right, number
    return None


def float_attribute(node: ir.Node, name: str) -> float | None:
    """A float attribute, or None where the node does not carry it."""
    attribute = node.attributes.get(name)
    return None if attribute is None else attribute.as_float()


def permutation(node: ir.Node) -> tuple[int, ...] | None:
    """The permutation of a ``Transpose``, also where it is the default reversal."""
    attribute = node.attributes.get("perm")
    if attribute is not None:
        return tuple(attribute.as_ints())
    size = rank(node.inputs[0])
    return None if size is None else tuple(reversed(range(size)))


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The one node that uses ``value``, if there is exactly one use and it is no graph output."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def ancestors(value: ir.Value) -> set[ir.Node]:
    """All nodes that ``value`` is computed from."""
    found: set[ir.Node] = set()
    pending = [value.producer()]
    while pending:
        node = pending.pop()
        if node is not None and node not in found:
            found.add(node)
            pending += [operand.producer() for operand in values_read(node)]
    return found


def values_read(node: ir.Node) -> list[ir.Value]:
    """Operands of a node and of the nodes in its subgraphs."""
    graphs = [a.as_graph() for a in node.attributes.values() if a.type is ir.AttributeType.GRAPH]
    readers = [node, *(inner for graph in graphs for inner in graph.all_nodes())]
    return [value for reader in readers for value in reader.inputs if value is not None]


def first_user(value: ir.Value, *op_types: str) -> ir.Node | None:
    """The first node that reads the value and is one of the standard operators named."""
    return next((user for user, _ in value.uses() if is_op(user, *op_types)), None)


def sizes_of(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """The shape of a constant, without reading the constant."""
    return tuple(size for size in tensor.shape if isinstance(size, int))


def same_dim(left: int | ir.SymbolicDim, right: int | ir.SymbolicDim) -> bool:
    """Whether two dimensions are surely of the same size."""
    if isinstance(left, int) or isinstance(right, int):
        return left == right
    return left.value is not None and left.value == right.value


def used_only_by(node: ir.Node, inside: set[ir.Node]) -> bool:
    """Whether something reads the results of a node, and only nodes of the set do."""
    uses = [use for output in node.outputs for use in output.uses()]
    escapes = any(output.is_graph_output() for output in node.outputs)
    return bool(uses) and not escapes and all(use.node in inside for use in uses)
