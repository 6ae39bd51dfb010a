"""What is read of a layer beside its state: keys and values for a cache, states as outputs.

A row that has left has them too: each skipped layer makes them with its own weights from the state
with which the row left, as if the layers between had changed nothing (CALM, NeurIPS 2022, section
3.2, does so for the cache; copying another layer's keys and values would be wrong).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dechaff.passes.matching import ancestors, values_read
from dechaff.passes.rewriter import GraphBuilder

from .row_copy import RowCopy, for_rows, from_other_state
from .row_flow import RowFlow
from .stacks import Stack


class SideResults:
    """Values of the layers behind a stack's first exit that something beside the stack reads."""

    def __init__(self, graph: ir.Graph, flow: RowFlow, stack: Stack, first_exit: int) -> None:
        self._flow = flow
        self._stack = stack
        self._first = stack.boundaries[first_exit - 1]
        self._by_layer: dict[int, list[ir.Value]] = {}
        for value in _read_beside(graph, flow, stack, first_exit):
            self._by_layer.setdefault(_layer_of(value, stack), []).append(value)

    def of_layers(self, start: int, end: int) -> list[ir.Value]:
        """Those of the layers after ``start`` up to ``end``."""
        layers = range(start + 1, end + 1)
        return [value for layer in layers for value in self._by_layer.get(layer, ())]

    @property
    def all(self) -> list[ir.Value]:
        """All of them."""
        return [value for values in self._by_layer.values() for value in values]

    def without_layers(
        self, builder: GraphBuilder, h: ir.Value, values: list[ir.Value]
    ) -> list[ir.Value]:
        """The values where all rows have left with the state ``h``."""
        replaced = dict.fromkeys(self._stack.boundaries, h)
        copies = RowCopy(builder, replaced, from_other_state(self._flow, self._first))
        return [copies.copy(value) for value in values]

    def merged(
        self,
        builder: GraphBuilder,
        copies: RowCopy,
        h: ir.Value,
        rows: ir.Value,
        values: list[ir.Value],
    ) -> list[ir.Value]:
        """The values of the rows that go on, from ``copies``, beside those of the rows that left.

        Args:
            builder: where the nodes go.
            copies: of the rows that go on.
            h: the state of all rows, float[B, S, D].
            rows: int64[n], the rows that go on.
            values: what to make.
        """
        if not values:
            return []
        gone = self._rows_that_left(builder, h, rows)
        state = builder.op("Gather", [h, gone], {"axis": 0})
        replaced = dict.fromkeys(self._stack.boundaries, state)
        without = RowCopy(builder, replaced, for_rows(self._flow, builder, gone))
        order = builder.op("Concat", [rows, gone], {"axis": 0})
        back = self._inverse(builder, order)
        found = []
        for value in values:
            parts = [copies.copy(value), without.copy(value)]
            together = builder.op("Concat", parts, {"axis": 0})
            found.append(builder.op("Gather", [together, back], {"axis": 0}))
        return found

    def _rows_that_left(self, builder: GraphBuilder, h: ir.Value, rows: ir.Value) -> ir.Value:
        batch = builder.op("Shape", [h], {"start": 0, "end": 1})
        everyone = builder.op(
            "ConstantOfShape", [batch], {"value": ir.tensor(np.array([1], np.int64))}
        )
        nobody = builder.op(
            "ConstantOfShape",
            [builder.op("Shape", [rows])],
            {"value": ir.tensor(np.array([0], np.int64))},
        )
        left = builder.op("ScatterElements", [everyone, rows, nobody], {"axis": 0})
        flat = builder.constant(np.array([-1], np.int64), "flat")
        return builder.op("Reshape", [builder.op("NonZero", [left]), flat])

    def _inverse(self, builder: GraphBuilder, order: ir.Value) -> ir.Value:
        """The permutation that undoes one, int64[B]."""
        zero = builder.constant(np.array(0, np.int64), "zero")
        one = builder.constant(np.array(1, np.int64), "one")
        places = builder.op("Range", [zero, builder.op("Size", [order]), one])
        return builder.op("ScatterElements", [places, order, places], {"axis": 0})


def reason_against_side_results(
    graph: ir.Graph, flow: RowFlow, stack: Stack, first_exit: int
) -> tuple[ir.Node, str] | None:
    """A value of a layer that is read elsewhere, and cannot be put together from its rows."""
    for value in _read_beside(graph, flow, stack, first_exit):
        node = value.producer()
        if node is not None and (stack.packed or flow.batch_axis(value) != 0):
            return node, "its result is read beside the stack, and rows are not its first axis"
    return None


def _read_beside(graph: ir.Graph, flow: RowFlow, stack: Stack, first_exit: int) -> list[ir.Value]:
    first, last = stack.boundaries[first_exit - 1], stack.boundaries[-1]
    behind = flow.behind(first)
    computing = ancestors(last)
    needed = {node for output in graph.outputs for node in ancestors(output)}
    inside = [
        node
        for node in graph
        if node in computing and any(value in behind for value in values_read(node))
    ]
    members = set(inside)
    return [
        value
        for node in inside
        for value in node.outputs
        if value is not last
        and (
            value.is_graph_output()
            or any(user not in members and user in needed for user, _ in value.uses())
        )
    ]


def _layer_of(value: ir.Value, stack: Stack) -> int:
    """The layer that computes a value, counted from 1."""
    node = value.producer()
    for layer, boundary in enumerate(stack.boundaries, start=1):
        if node in ancestors(boundary):
            return layer
    raise ValueError(f"{value.name!r} is computed by no layer")
