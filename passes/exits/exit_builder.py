"""Builds the exits of one stack: tests, branches, and the rows that go on."""

from __future__ import annotations

import dataclasses
import numpy as np
import onnx_ir as ir

from dechaff.ir import DOMAIN
from dechaff.passes.rewriter import GraphBuilder, Rewriter

from .criteria import RowState, decide
from .row_copy import RowCopy, for_rows, from_other_state
from .row_flow import RowFlow
from .stacks import Stack


@dataclasses.dataclass(frozen=True)
class ExitPlan:
    """What to build for a stack.

    Attributes:
        stack: the stack.
        layers: after which layers rows may leave, counted from 1, ascending.
        criterion: the exit test.
        thresholds: float[number of exits], a graph input.
        keep_mask: bool[B, S] or what broadcasts to it.
        token_index: for packed states, int64[T]; else None.
        logits: the graph output that the test looks at, if it does.
    """

    stack: Stack
    layers: tuple[int, ...]
    criterion: str
    thresholds: ir.Value
    keep_mask: ir.Value
    token_index: ir.Value | None
    logits: ir.Value | None


@dataclasses.dataclass(frozen=True)
class _Carried:
    """What runs from one branch to the next.

    Attributes:
        h: the state of all rows; of those that left, the state with which they left.
        rows: int64[n], the rows that go on, ascending.
        memory: what the exit test remembers of these rows.
    """

    h: ir.Value
    rows: ir.Value
    memory: tuple[ir.Value, ...] = ()

    @property
    def values(self) -> tuple[ir.Value, ...]:
        return self.h, self.rows, *self.memory


class ExitBuilder:
    """Writes the exits of a stack into the main graph."""

    def __init__(self, plan: ExitPlan, flow: RowFlow, rewriter: Rewriter) -> None:
        self._plan = plan
        self._flow = flow
        self._rewriter = rewriter

    def run(self, builder: GraphBuilder) -> ir.Value:
        """Build all exits.

        Returns:
            What stands for the state after the last layer.
        """
        plan = self._plan
        ends = [*plan.layers[1:], len(plan.stack.boundaries)]
        carried = self._first_exit(builder)
        for exit_index, (start, end) in enumerate(zip(plan.layers, ends, strict=True)):
            carried = self._segment(builder, carried, exit_index, start, end)
        return carried.h

    def _first_exit(self, builder: GraphBuilder) -> _Carried:
        """The layers before the first exit run for all rows, where they stand."""
        plan = self._plan
        layer = plan.layers[0]
        h = self._boundary(layer)
        state = RowState(
            h,
            self._boundary(layer - 1),
            lambda: self._answer(builder, h),
            plan.token_index,
            plan.keep_mask,
        )
        stay, memory = self._test(builder, state, 0)
        return _Carried(h, stay, memory)

    def _test(
        self, builder: GraphBuilder, state: RowState, exit_index: int
    ) -> tuple[ir.Value, tuple[ir.Value, ...]]:
        """Which of the rows stay, int64[m], and what is remembered of them."""
        place = builder.constant(np.array(exit_index, np.int64), "exit_index")
        threshold = builder.op("Gather", [self._plan.thresholds, place], {"axis": 0})
        decision = decide(self._plan.criterion, builder, state, threshold)
        going_on = builder.op("Not", [decision.leaves])
        found = builder.op("NonZero", [going_on])
        stay = builder.op("Reshape", [found, builder.constant(np.array([-1], np.int64), "flat")])
        stay.shape = ir.Shape([self._open_size("rows", self._plan.layers[exit_index])])
        return stay, tuple(builder.op("Gather", [m, stay], {"axis": 0}) for m in decision.memory)

    def _answer(self, builder: GraphBuilder, h: ir.Value) -> ir.Value:
        last = self._plan.stack.boundaries[-1]
        copies = RowCopy(builder, {last: h}, from_other_state(self._flow, last))
        return copies.copy(self._logits())

    def _boundary(self, layer: int) -> ir.Value:
        """The state after a layer, counted from 1; that before the first is layer 0."""
        stack = self._plan.stack
        return stack.boundaries[layer - 1] if layer else stack.entry or stack.boundaries[0]

    def _segment(
        self, builder: GraphBuilder, carried: _Carried, exit_index: int, start: int, end: int
    ) -> _Carried:
        """The layers after ``start`` up to ``end``, for the rows that go on, if there are any."""
        is_last = end == len(self._plan.stack.boundaries)
        name = f"{self._plan.stack.name}_after_{start}"
        rows_go_on, then = self._branch(f"{name}_rows_go_on")
        results = self._layers(then, carried, exit_index, start, end)
        wanted = results.values[:1] if is_last else results.values
        no_row_left, otherwise = self._branch(f"{name}_no_row_left")
        memory = carried.memory if carried.memory or is_last else ()
        unchanged = _Carried(carried.h, carried.rows, memory).values[: len(wanted)]
        copies = [otherwise.op("Identity", [value]) for value in unchanged]
        rows_go_on.outputs.extend(wanted)
        no_row_left.outputs.extend(copies)
        builder.nodes += [*then.nodes, *otherwise.nodes]
        count = builder.op("Size", [carried.rows])
        zero = builder.constant(np.array(0, np.int64), "zero")
        anyone = builder.op("Greater", [count, zero])
        first = builder.op(
            "If",
            [anyone],
            {"then_branch": rows_go_on, "else_branch": no_row_left},
            num_outputs=len(wanted),
            name=f"{name}_if",
        )
        node = first.producer()
        assert node is not None
        for output, value in zip(node.outputs, unchanged, strict=True):
            output.type, output.shape = value.type, value.shape
            if value is not carried.h and value.shape is not None:
                output.shape = ir.Shape([self._open_size("rows", end), *value.shape[1:]])
        h, *others = node.outputs
        return _Carried(h, others[0], tuple(others[1:])) if others else _Carried(h, carried.rows)

    def _branch(self, name: str) -> tuple[ir.Graph, GraphBuilder]:
        graph = ir.Graph((), (), nodes=(), name=self._rewriter.fresh_name(name))
        return graph, GraphBuilder(self._rewriter, graph, None)

    def _layers(
        self, then: GraphBuilder, carried: _Carried, exit_index: int, start: int, end: int
    ) -> _Carried:
        """The body of a branch."""
        plan = self._plan
        places = self._places(then, carried.rows, start)
        own = then.op("Gather", [carried.h, places], {"axis": 0})
        standing = for_rows(self._flow, then, carried.rows)
        copies = RowCopy(then, {self._boundary(start): own}, standing)
        h = copies.copy(self._boundary(end))
        axes = then.constant(np.array([1], np.int64), "axes")
        column = then.op("Unsqueeze", [places, axes])
        merged = then.op("ScatterND", [carried.h, column, h])
        if end == len(plan.stack.boundaries):
            return _Carried(merged, carried.rows)
        state = RowState(
            h,
            copies.copy(self._boundary(end - 1)),
            lambda: copies.from_state(plan.stack.boundaries[-1], h).copy(self._logits()),
            None if plan.token_index is None else copies.copy(plan.token_index),
            copies.copy(plan.keep_mask),
            carried.memory,
        )
        stay, memory = self._test(then, state, exit_index + 1)
        rows = then.op("Gather", [carried.rows, stay], {"axis": 0})
        return _Carried(merged, rows, memory)

    def _logits(self) -> ir.Value:
        assert self._plan.logits is not None
        return self._plan.logits

    def _open_size(self, what: str, layer: int) -> ir.SymbolicDim:
        """A size that is known at run time only; no other has its name."""
        return ir.SymbolicDim(f"{self._plan.stack.name}_{what}_after_{layer}")

    def _places(self, builder: GraphBuilder, rows: ir.Value, start: int) -> ir.Value:
        """Where the state of some rows lies on axis 0 of the state of all."""
        if self._plan.token_index is None:
            return rows
        operands = [rows, self._plan.token_index, self._plan.keep_mask]
        tokens = builder.op("RowTokens", operands, domain=DOMAIN)
        tokens.shape = ir.Shape([self._open_size("tokens", start)])
        return tokens

