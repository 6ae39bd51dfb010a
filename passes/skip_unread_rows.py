"""The pass ``skip-unread-rows``: what is read at one position is computed at that position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeGuard

import numpy as np
import onnx_ir as ir

from dechaff.ir import Module, static_dim

from .matching import (
    integer_attribute,
    is_op,
    is_packed_attention,
    only_consumer,
    rank,
    same_dim,
)
from .pass_base import Numerics, Pass
from .position_selection import Selection, only_integer, selections
from .rewriter import GraphBuilder, Rewriter
from .row_wise import RowOperands, row_operands

_RULE = "skip-unread-rows"
PACKED_RULE = "skip-unread-tokens"
"""The rule on packed tokens, which leaves a part for each row of the batch on axis 0."""


class SkipUnreadRows(Pass):
    """Compute the one position of each sequence that a head reads, and not the others.

    Classifiers and poolers read the last layer at one position: ``[CLS]``, or a decoder's last
    token. Then the feed-forward network of that layer, its projections of query and context and
    its normalizations need that row alone, and only keys and values need all. The other rows are a
    fifteenth of BERT-base's products, and a seventh of MiniLM-L6's. The selection moves up, through
    operations that make each row from the same row of their operands, and through attention to its
    query; it stops at a value of which more is read. Works on ``[B, S, D]`` and, behind
    ``remove-padding``, on ``[T, D]``.

    The rewrite is the one that databases call selection pushdown.

    Before::

        before (float[B,S,4] x) => (float[B,4] y)
            <float[4,4] wq = {...}, float[4,4] wo = {...}, float[4] g = {1, 2, 3, 4},
             int64 first = {0}>
        {
            q = MatMul (x, wq)
            c = Attention <q_num_heads = 2, kv_num_heads = 2> (q, x, x)
            o = MatMul (c, wo)
            r = Add (o, x)
            h = LayerNormalization (r, g)
            picked = Gather <axis = 1> (h, first)
            y = Tanh (picked)
        }

    After::

        after (float[B,S,4] x) => (float[B,4] y)
            <float[4,4] wq = {...}, float[4,4] wo = {...}, float[4] g = {1, 2, 3, 4},
             int64[1] first = {0}, int64[1] axes = {1}>
        {
            x_first = Gather <axis = 1> (x, first)
            q = MatMul (x_first, wq)
            c = Attention <q_num_heads = 2, kv_num_heads = 2> (q, x, x)
            o = MatMul (c, wo)
            r = Add (o, x_first)
            h = LayerNormalization (r, g)
            picked = Squeeze (h, axes)
            y = Tanh (picked)
        }
    """

    name = "skip-unread-rows"
    numerics = Numerics.REASSOCIATES
    after = ("fuse-attention", "remove-padding", "fold-attention-bias")
    runs_last = True

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Start from each selection of a position, the last first."""
        for selection in reversed(list(selections(module))):
            moved = _rows_alone(selection, rewriter)
            if moved:
                _rewrite(selection, moved, rewriter)
                rewriter.note(f"{self.name}: {len(moved)} ops run on one token of each sequence")


def read_alone(module: Module) -> dict[ir.Node, int]:
    """Nodes of which one position of each sequence is read alone, with that position.

    They are those that the pass would move, where tokens are padded: ``[B, S, D]``.
    """
    trial = Rewriter(module)  # it is told of near misses, and edits nothing
    return {
        node: selection.position
        for selection in selections(module)
        if selection.layout is None
        for node in _rows_alone(selection, trial)
    }


_Moved = dict[ir.Node, RowOperands]
"""Nodes that are computed for selected rows alone, first to last, and their operands with rows."""


def _rows_alone(selection: Selection, rewriter: Rewriter) -> _Moved:
    """The nodes of which nothing but the selected rows is read."""
    moved: _Moved = {}
    readers = {(selection.node, 0)}
    for node in _backwards(selection.node):
        reads = {(use.node, use.idx) for output in node.outputs for use in output.uses()}
        if not reads or not reads <= readers or any(v.is_graph_output() for v in node.outputs):
            continue
        operands = _operands(node, selection)
        if isinstance(operands, str):
            rewriter.miss(_RULE, node, operands)
        elif operands is not None:
            moved[node] = operands
            readers |= {(node, place) for place, axis in operands.items() if axis == selection.axis}
    if not moved and selection.source.producer() is not None and len(selection.source.uses()) > 1:
        reason = f"{selection.source.name} is read at other positions than {selection.position} too"
        rewriter.miss(_RULE, selection.node, reason)
    return dict(reversed(moved.items()))


def _backwards(last: ir.Node) -> Iterator[ir.Node]:
    """The nodes of a graph in front of one, the nearest first."""
    nodes = list(last.graph or ())
    return reversed(nodes[: nodes.index(last)])


def _operands(node: ir.Node, selection: Selection) -> RowOperands | str | None:
    """The operands with rows; None or the reason why rows of a node do not stand alone."""
    if is_packed_attention(node):
        return _query_of_packed(node, selection)
    if is_op(node, "Attention"):
        return _query_and_mask(node, selection)
    return row_operands(node, selection.axis)


def _query_of_packed(attention: ir.Node, selection: Selection) -> RowOperands | str:
    if attention.op_type != "VarlenAttention":
        return "what a query sees depends on its place, which it would lose"
    if selection.layout is None or attention.inputs[3] is not selection.layout.outputs[1]:
        return "its queries are not the tokens among which one is selected"
    if integer_attribute(attention, "is_causal", 0) and selection.position != -1:
        return f"it is causal, and the query at {selection.position} does not see all keys"
    return {0: 0}


def _query_and_mask(attention: ir.Node, selection: Selection) -> RowOperands | str:
    query, key = attention.inputs[:2]
    if selection.axis != 1 or query is None or key is None or rank(query) != 3:
        return "its heads are split before it: query must be [B, S, H * d]"
    if any(value is not None for value in attention.inputs[4:]) or len(attention.outputs) > 1:
        return "it has a cache of keys and values, or more than one output"
    queries, keys = (None if value.shape is None else value.shape[1] for value in (query, key))
    if queries is None or keys is None:
        return "the number of its queries and keys is not known"
    is_last = selection.position == -1 and same_dim(queries, keys)
    if integer_attribute(attention, "is_causal", 0) and not is_last:
        return f"it is causal, and the query at {selection.position} does not see all keys"
    mask = attention.inputs[3] if len(attention.inputs) > 3 else None
    if mask is None:
        return {0: 1}
    if mask.shape is None or len(mask.shape) < 2:
        return "the shape of its mask is not known"
    if static_dim(mask.shape[-2]) == 1:
        return {0: 1}
    if not same_dim(mask.shape[-2], queries):
        return "its mask is not known to have a row for each query"
    return {0: 1, 3: len(mask.shape) - 2}


def _rewrite(selection: Selection, moved: _Moved, rewriter: Rewriter) -> None:
    rule = _RULE if selection.layout is None else PACKED_RULE
    with rewriter.rewrite(rule, [*moved, selection.node], before=selection.node) as builder:
        rows = _SelectedRows(selection, builder)
        for node, operands in moved.items():
            rows.compute(node, operands)
        rows.replace_selection()


class _SelectedRows:
    """Computes values for the selected rows alone."""

    def __init__(self, selection: Selection, builder: GraphBuilder) -> None:
        self._selection = selection
        self._builder = builder
        self._found: dict[tuple[ir.Value, int], ir.Value] = {}
        position = builder.constant(np.array([selection.position], np.int64), "position")
        self._rows = position if selection.layout is None else self._packed_rows()

    def _packed_rows(self) -> ir.Value:
        """int64[B]: the packed row of each sequence."""
        rows = self._selection.node.inputs[1]
        assert rows is not None
        if rank(rows) == 1:
            return rows
        return self._builder.op("Squeeze", [rows, self._integers([1], "axes")])

    def compute(self, node: ir.Node, operands: RowOperands) -> None:
        """The node's results of the selected rows."""
        inputs = list(node.inputs)
        for place, axis in operands.items():
            inputs[place] = self._of(inputs[place], axis)
        attributes = dict(node.attributes)
        if is_packed_attention(node):
            inputs[3] = self._one_query_each(node.inputs[3])
            attributes["is_causal"] = ir.AttrInt64("is_causal", 0)
        elif is_op(node, "Attention"):
            attributes.pop("is_causal", None)
        count = len(node.outputs)
        first = self._builder.op(
            node.op_type, inputs, attributes, domain=node.domain, num_outputs=count, name=node.name
        )
        made = first.producer()
        assert made is not None
        for old, new in zip(node.outputs, made.outputs, strict=True):
            self._found[old, self._selection.axis] = new

    def _of(self, value: ir.Value | None, axis: int) -> ir.Value:
        assert value is not None
        if (value, axis) not in self._found:
            gathered = self._builder.op("Gather", [value, self._rows], {"axis": axis})
            self._found[value, axis] = gathered
        return self._found[value, axis]

    def _one_query_each(self, starts: ir.Value | None) -> ir.Value:
        """``0, 1, .., B``: where each sequence's one query begins."""
        zero, one = (self._builder.constant(np.array(n, np.int64)) for n in (0, 1))
        count = self._builder.op("Size", [starts])
        return self._builder.op("Range", [zero, count, one], name="cu_seqlens_q")

    def replace_selection(self) -> None:
        """Let readers of the selection read the rows, in the shape that it had."""
        node, axis = self._selection.node, self._selection.axis
        found = self._found[self._selection.source, axis]
        old, wanted = node.outputs[0], rank(node.outputs[0])
        reader = only_consumer(old)
        if axis == 1 and wanted == 2:
            found = self._builder.op("Squeeze", [found, self._integers([1], "axes")])
        elif axis == 0 and wanted != rank(found) and _is_squeeze_of_axis_1(reader):
            old = reader.outputs[0]
        elif axis == 0 and wanted != rank(found):
            found = self._builder.op("Unsqueeze", [found, self._integers([1], "axes")])
        self._builder.replace(old, found)

    def _integers(self, values: Sequence[int], name: str) -> ir.Value:
        return self._builder.constant(np.array(values, np.int64), name)


def _is_squeeze_of_axis_1(node: ir.Node | None) -> TypeGuard[ir.Node]:
    return node is not None and is_op(node, "Squeeze") and only_integer(node.inputs[1]) == 1
