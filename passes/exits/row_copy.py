"""Copies of computations: for some rows of the batch, or from another state."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from dechaff.ir import DOMAIN
from dechaff.passes.rewriter import GraphBuilder

from .row_flow import RowFlow

Standing = Callable[[ir.Value], ir.Value | None]
"""What stands for a value of the main graph as it is; None if its node must be copied."""


class RowCopy:
    """Copies values of the main graph into a place where other values stand for some of them."""

    def __init__(
        self, builder: GraphBuilder, replaced: Mapping[ir.Value, ir.Value], standing: Standing
    ) -> None:
        self.builder = builder
        self._known = dict(replaced)
        self._standing = standing

    def from_state(self, state: ir.Value, now: ir.Value) -> RowCopy:
        """The same copies, with ``now`` in the place of one more value."""
        return RowCopy(self.builder, {**self._known, state: now}, self._standing)

    def copy(self, target: ir.Value) -> ir.Value:
        """What stands here for a value of the main graph; its nodes are copied once."""
        pending = [target]
        while pending:
            value = pending[-1]
            if self._look_up(value):
                pending.pop()
                continue
            node = value.producer()
            if node is None:
                raise ValueError(f"nothing computes {value.name!r}, and nothing stands for it")
            missing = [v for v in node.inputs if v is not None and not self._look_up(v)]
            if missing:
                pending += missing
                continue
            self._copy_node(node)
            pending.pop()
        return self._known[target]

    def _look_up(self, value: ir.Value) -> bool:
        if value in self._known:
            return True
        standing = self._standing(value)
        if standing is not None:
            self._known[value] = standing
        return standing is not None

    def _copy_node(self, node: ir.Node) -> None:
        self.builder.op(
            node.op_type,
            [None if read is None else self._known[read] for read in node.inputs],
            dict(node.attributes),
            domain=node.domain,
            num_outputs=len(node.outputs),
            name=node.name,
        )
        copy = self.builder.nodes[-1]
        copy.metadata_props.update(node.metadata_props)
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.type = old.type if new.type is None else new.type
            self._known[old] = new


def for_rows(flow: RowFlow, builder: GraphBuilder, rows: ir.Value) -> Standing:
    """For some rows of the batch: what has a part for each row is computed from the inputs' parts.

    Args:
        flow: of the main graph.
        builder: where the copies go.
        rows: int64[n], the rows, ascending.
    """

    def standing(value: ir.Value) -> ir.Value | None:
        if flow.is_free(value):
            return value
        layout = flow.gathered.get(value)
        if layout is not None:
            places = builder.op("RowTokens", [rows, *layout], domain=DOMAIN)
            return builder.op("Gather", [value, places], {"axis": 0})
        if value.producer() is None or value in flow.gathered:
            return builder.op("Gather", [value, rows], {"axis": flow.batch_axis(value) or 0})
        return None

    return standing


def from_other_state(flow: RowFlow, state: ir.Value) -> Standing:
    """For the whole batch: all that does not depend on the state stands as it is."""
    behind = flow.behind(state)
    return lambda value: None if value in behind else value
