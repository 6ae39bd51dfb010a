"""What a token rule is: it says whether an operation works on each token alone, and packs it.

A rule says where the tokens of the result lie, or why the operation is not token-wise, and emits
the operation on packed operands.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping

import onnx_ir as ir

from dechaff.passes.rewriter import GraphBuilder

from .layouts import Layout, NotTokenWise

Layouts = Mapping[ir.Value, Layout]
"""Token layouts of the values that have one."""


class Operands(abc.ABC):
    """Gives a rule the packed form of its operands while it emits."""

    layouts: Layouts
    mask: ir.Value
    builder: GraphBuilder

    @abc.abstractmethod
    def packed(self, value: ir.Value) -> ir.Value:
        """The packed form ``[T, features...]`` of a value with a token layout."""

    @abc.abstractmethod
    def broadcast(self, value: ir.Value, layout: Layout) -> ir.Value:
        """The form of an operand without tokens that broadcasts against packed ``layout``."""


class TokenRule(abc.ABC):
    """How one family of operators treats tokens."""

    @abc.abstractmethod
    def layout(self, node: ir.Node, layouts: Layouts, mask: ir.Value) -> Layout:
        """Where the tokens of the result lie.

        Raises:
            NotTokenWise: the operation mixes positions, or cannot be shown not to.
        """

    @abc.abstractmethod
    def emit(self, node: ir.Node, operands: Operands) -> list[ir.Value]:
        """Write the operation on packed operands; gives its packed results."""


def token_operand(node: ir.Node, layouts: Layouts, position: int = 0) -> Layout:
    """The layout of an operand that must carry the tokens."""
    value = node.inputs[position]
    if value is None or value not in layouts:
        raise NotTokenWise(f"it reads hidden states, but not as its operand {position}")
    if any(v in layouts for i, v in enumerate(node.inputs) if v is not None and i != position):
        raise NotTokenWise("hidden states come in where weights are expected")
    return layouts[value]


def known(value: ir.Value | None) -> ir.Value:
    """The operand, which must be there."""
    if value is None:
        raise NotTokenWise("an operand is missing")
    return value


def repeat(
    node: ir.Node, inputs: list[ir.Value | None], builder: GraphBuilder, **changed: object
) -> list[ir.Value]:
    """The same operator with other operands and some attributes changed."""
    attributes = {**{a.name: a.value for a in node.attributes.values()}, **changed}
    first = builder.op(node.op_type, inputs, attributes, num_outputs=len(node.outputs))
    made = first.producer()
    return list(made.outputs) if made is not None else [first]
