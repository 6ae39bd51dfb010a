"""Which values of two modules are the same computation: a key for every value of a graph."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

import onnx_ir as ir

from dechaff.ir import Module

Key = str


class ValueKeys:
    """Keys of values: equal keys mean equal numbers on equal inputs.

    A node's key is made of its operator, its attributes and the keys of what it reads. A weight is
    known by identity, since copies of a module share their weights; weights are kept alive, so
    that no other one takes an identity over. A weight that was not registered, such as one cut
    for a single trial, equals nothing but itself.
    """

    def __init__(self) -> None:
        self._weights: dict[int, ir.TensorProtocol] = {}
        self._fresh = itertools.count()

    def register(self, module: Module) -> None:
        """Let the weights of a module be known."""
        for value in module.graph.initializers.values():
            if value.const_value is not None:
                self._weights.setdefault(id(value.const_value), value.const_value)

    def of(self, module: Module) -> dict[ir.Value, Key]:
        """The key of every value of the main graph."""
        keys: dict[ir.Value, Key] = {}
        for value in module.graph.initializers.values():
            keys[value] = self._weight_key(value)
        for value in module.graph.inputs:  # one with a default is as good as a weight
            keys.setdefault(value, f"input {value.name}")
        for node in module.graph:
            key = self._node_key(node, keys)
            for number, output in enumerate(node.outputs):
                keys[output] = f"{key} {number}"
        return keys

    def _weight_key(self, value: ir.Value) -> Key:
        known = self._weights.get(id(value.const_value))
        return f"weight {id(known)}" if known is not None else self._unique()

    def _node_key(self, node: ir.Node, keys: dict[ir.Value, Key]) -> Key:
        attributes = list(_attribute_texts(node))
        if any(text is None for text in attributes):
            return self._unique()
        parts = [node.domain, node.op_type, *sorted(filter(None, attributes))]
        parts += ["" if value is None else keys.get(value, self._unique()) for value in node.inputs]
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()

    def _unique(self) -> Key:
        return f"unique {next(self._fresh)}"


def _attribute_texts(node: ir.Node) -> Iterator[str | None]:
    """Attributes as text; None for one that text does not tell, as a subgraph."""
    for name, attribute in node.attributes.items():
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            yield None
        elif attribute.type is ir.AttributeType.TENSOR:
            yield f"{name}={attribute.as_tensor().tobytes().hex()}"
        else:
            yield f"{name}={attribute.value!r}"
