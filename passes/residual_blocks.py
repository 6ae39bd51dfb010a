"""The residual blocks of a Transformer: attention and feed-forward, where each is added back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir

from dechaff.ir import Module, constant_value

from .matching import is_op, only_consumer, rank, same_dim, sizes_of

_CHANNELWISE = frozenset(["Add", "Mul", "Cast", "LayerNormalization", "RMSNormalization"])
"""What may stand between a block's last product and the addition, with constants beside it."""
_ACTIVATIONS = frozenset(
    (
        *("Add", "Clip", "Div", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu"),
        *("Mish", "Mul", "Neg", "Pow", "Relu", "Sigmoid", "Softplus", "Sub", "Swish", "Tanh"),
    )
)
"""Operators that treat each inner feature by itself."""


@dataclasses.dataclass(frozen=True)
class ResidualBlock:
    """A branch ``f`` of ``x + f(x)``.

    Attributes:
        name: ``attention.3`` or ``ffn.3``, counted from 0 in the order of the graph.
        last: the product that ends the branch: the output projection, or the second dense layer.
        addition: the Add that joins the branch with the rest.
        skip: what the sum is without the branch.
    """

    name: str
    last: ir.Node
    addition: ir.Node
    skip: ir.Value


@dataclasses.dataclass(frozen=True)
class AttentionBlock(ResidualBlock):
    """An attention block; ``attention`` is its ``Attention`` node."""

    attention: ir.Node

    @property
    def num_heads(self) -> int:
        """Heads of queries."""
        return self.attention.attributes["q_num_heads"].as_int()

    @property
    def num_groups(self) -> int:
        """Heads of keys and values; each serves as many heads of queries."""
        return self.attention.attributes["kv_num_heads"].as_int()


@dataclasses.dataclass(frozen=True)
class FeedForwardBlock(ResidualBlock):
    """A feed-forward block, gated or not.

    Attributes:
        first: the products that make the inner features; two where one gates the other.
        inner: the nodes between them and ``last``, which treat each feature by itself.
        width: number of inner features.
    """

    first: tuple[ir.Node, ...]
    inner: tuple[ir.Node, ...]
    width: int


def residual_blocks(module: Module) -> list[ResidualBlock]:
    """All blocks of the main graph, in its order.

    An attention with a key-value cache, whose keys are an output of the graph, is none: removing
    it would not remove its work.
    """
    return [*_attention_blocks(module.graph), *_feed_forward_blocks(module.graph)]


def _attention_blocks(graph: ir.Graph) -> Iterator[AttentionBlock]:
    number = 0
    for node in graph:
        if not is_op(node, "Attention") or not {"q_num_heads", "kv_num_heads"} <= set(
            node.attributes
        ):
            continue
        number += 1
        if len(node.outputs) > 1 or len(node.inputs) > 4:
            continue
        last = only_consumer(node.outputs[0])
        if last is None or not is_dense(last) or last.inputs[0] is not node.outputs[0]:
            continue
        joined = _joined(last)
        if joined is not None:
            yield AttentionBlock(f"attention.{number - 1}", last, *joined, node)


def _feed_forward_blocks(graph: ir.Graph) -> Iterator[FeedForwardBlock]:
    number = 0
    for node in graph:
        inside = _inside(node) if is_dense(node) else None
        joined = _joined(node) if inside is not None else None
        if inside is None or joined is None:
            continue
        first, inner = inside
        width = weight_sizes(node)[0]
        yield FeedForwardBlock(f"ffn.{number}", node, *joined, first, inner, width)
        number += 1


def is_dense(node: ir.Node) -> bool:
    """Whether the node multiplies by a constant matrix from the right."""
    if not is_op(node, "MatMul"):
        return False
    tensor = constant_value(node.inputs[1])
    return tensor is not None and len(sizes_of(tensor)) == 2


def weight_sizes(node: ir.Node) -> tuple[int, ...]:
    """Rows and columns of a dense node's matrix."""
    tensor = constant_value(node.inputs[1])
    assert tensor is not None  # is_dense has seen it
    return sizes_of(tensor)


def _joined(last: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """The Add that joins the branch ending in ``last`` with the rest, and that rest."""
    value = last.outputs[0]
    while (user := only_consumer(value)) is not None and user.domain == "":
        others = [operand for operand in user.inputs if operand is not None]
        others.remove(value)
        computed = [operand for operand in others if constant_value(operand) is None]
        if user.op_type == "Add" and len(computed) == 1:
            skip = computed[0]
            return (user, skip) if skip is not value and _same_shape(value, skip) else None
        if user.op_type not in _CHANNELWISE or computed or user.inputs[0] is None:
            return None
        value = user.outputs[0]
    return None


def _same_shape(left: ir.Value, right: ir.Value) -> bool:
    if left.shape is None or right.shape is None or rank(left) != rank(right):
        return False
    return all(same_dim(a, b) for a, b in zip(left.shape, right.shape, strict=True))


def _inside(last: ir.Node) -> tuple[tuple[ir.Node, ...], tuple[ir.Node, ...]] | None:
    """First products and nodes between of the feed-forward block that ``last`` ends."""
    width = weight_sizes(last)[0]
    first: dict[ir.Node, None] = {}
    inner: dict[ir.Node, None] = {}
    pending = [last.inputs[0]]
    while pending:
        value = pending.pop()
        node = None if value is None else value.producer()
        if node in first or node in inner:
            continue
        if node is None:
            return None
        if is_dense(node):
            if weight_sizes(node)[1] != width:
                return None
            first[node] = None
        elif node.domain == "" and node.op_type in _ACTIVATIONS:
            inner[node] = None
            pending += [item for item in node.inputs if constant_value(item) is None]
        else:
            return None
    own = {*inner, last}
    private = all(
        user in own and not value.is_graph_output()
        for node in (*first, *inner)
        for value in node.outputs
        for user, _ in value.uses()
    )
    one_source = len({node.inputs[0] for node in first}) == 1
    if not inner or not private or not one_source or len(first) > 2:
        return None
    ordered = sorted(first, key=lambda node: node.name or "")
    return tuple(ordered), tuple(inner)
