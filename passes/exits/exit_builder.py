"""Builds the exits of one stack: tests, branches, and the rows that go on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dechaff.ir import DOMAIN
from dechaff.passes.rewriter import GraphBuilder, Rewriter

from .criteria import RowState, decide, score
from .exit_plan import ExitPlan
from .row_copy import RowCopy, for_rows, from_other_state
from .row_flow import RowFlow
from .side_results import SideResults


@dataclasses.dataclass(frozen=True)
class _Carried:
    """What runs from one branch to the next.

    Attributes:
        h: the state of all rows; of those that left, the state with which they left. After the last
            layer what the model reads of it.
        rows: int64[n], the rows that go on, ascending.
        answers: with light heads, float[B, C], the logits of all rows so far.
        memory: what the exit test remembers of these rows.
    """

    h: ir.Value
    rows: ir.Value
    answers: tuple[ir.Value, ...] = ()
    memory: tuple[ir.Value, ...] = ()

    @property
    def values(self) -> tuple[ir.Value, ...]:
        return self.h, *self.answers, self.rows, *self.memory

    def renamed(self, values: Sequence[ir.Value]) -> _Carried:
        """The same things under the names they have outside."""
        h, *others = values
        answers = tuple(others[: len(self.answers)])
        rows, *memory = others[len(answers) :]
        return _Carried(h, rows, answers, tuple(memory))


class ExitBuilder:
    """Writes the exits of a stack into the main graph."""

    def __init__(self, plan: ExitPlan, flow: RowFlow, rewriter: Rewriter) -> None:
        self._plan = plan
        self._flow = flow
        self._rewriter = rewriter
        graph = rewriter.module.graph
        self._side_results = SideResults(graph, flow, plan.stack, plan.layers[0])
        self._beside: list[tuple[ir.Value, ir.Value]] = []

    def run(self, builder: GraphBuilder) -> None:
        """Build all exits, and let what reads the state after the last layer read theirs."""
        plan = self._plan
        count = len(plan.stack.boundaries)
        carried = self._first_exit(builder)
        for index, (start, end) in enumerate(zip(plan.layers, plan.layers[1:], strict=False)):
            carried = self._segment(builder, carried, index, start, end)
        merged = self._segment(builder, carried, len(plan.layers) - 1, plan.layers[-1], count)
        for old, new in self._beside:
            builder.replace(old, new)
        builder.replace(plan.read, merged.h)
        if carried.answers:
            self._answer_from_heads(builder, carried)

    def probe(self, builder: GraphBuilder) -> list[tuple[ir.Value, ir.Value]]:
        """For each exit what its test compares with the threshold, and the answer there.

        Nothing of the model changes; what the test of ``patience`` compares follows from the
        answers, which stand in its place.
        """
        plan = self._plan
        copies = RowCopy(builder, {}, from_other_state(self._flow, plan.stack.boundaries[-1]))
        found: list[tuple[ir.Value, ir.Value]] = []
        for layer in plan.layers:
            h, before = self._boundary(layer), self._boundary(layer - 1)
            state = self._row_state(copies, layer, h, before, plan.token_index, plan.keep_mask)
            found.append((score(plan.criterion, builder, state), state.logits()))
        return found

    def _answer_from_heads(self, builder: GraphBuilder, carried: _Carried) -> None:
        """Rows that left have the answer of the head where they left; the others the model's."""
        logits = self._logits()
        axes = builder.constant(np.array([1], np.int64), "axes")
        column = builder.op("Unsqueeze", [carried.rows, axes])
        to_the_end = builder.op("Gather", [logits, carried.rows], {"axis": 0})
        reader = builder.nodes[-1]
        builder.replace(logits, builder.op("ScatterND", [*carried.answers, column, to_the_end]))
        reader.replace_input_with(0, logits)

    def _first_exit(self, builder: GraphBuilder) -> _Carried:
        """The layers before the first exit run for all rows, where they stand."""
        plan = self._plan
        layer = plan.layers[0]
        h, before = self._boundary(layer), self._boundary(layer - 1)
        copies = RowCopy(builder, {}, from_other_state(self._flow, plan.stack.boundaries[-1]))
        state = self._row_state(copies, layer, h, before, plan.token_index, plan.keep_mask)
        return self._test(builder, state, 0, _Carried(h, h))

    def _row_state(
        self,
        copies: RowCopy,
        layer: int,
        h: ir.Value,
        before: ir.Value,
        token_index: ir.Value | None,
        keep_mask: ir.Value,
        memory: tuple[ir.Value, ...] = (),
    ) -> RowState:
        """What the exit test after a layer may look at."""
        last = self._plan.stack.boundaries[-1]
        logits: list[ir.Value] = []

        def answer() -> ir.Value:
            if not logits and self._plan.heads is not None:
                logits.append(self._plan.heads[layer].build(copies.builder, state))
            elif not logits:
                logits.append(copies.from_state(last, h).copy(self._logits()))
            return logits[0]

        state = RowState(h, before, answer, token_index, keep_mask, memory)
        return state

    def _test(
        self, builder: GraphBuilder, state: RowState, exit_index: int, carried: _Carried
    ) -> _Carried:
        """Which of the rows stay, and what is remembered of them.

        ``carried.rows`` numbers the rows of ``state``, and is ``carried.h`` where it is all rows.
        """
        place = builder.constant(np.array(exit_index, np.int64), "exit_index")
        threshold = builder.op("Gather", [self._plan.thresholds, place], {"axis": 0})
        decision = decide(self._plan.criterion, builder, state, threshold)
        answers = self._answers(builder, state, carried)
        going_on = builder.op("Not", [decision.leaves])
        found = builder.op("NonZero", [going_on])
        stay = builder.op("Reshape", [found, builder.constant(np.array([-1], np.int64), "flat")])
        memory = tuple(builder.op("Gather", [m, stay], {"axis": 0}) for m in decision.memory)
        if carried.rows is not carried.h:
            stay = builder.op("Gather", [carried.rows, stay], {"axis": 0})
        stay.shape = ir.Shape([self._open_size("rows", self._plan.layers[exit_index])])
        return _Carried(carried.h, stay, answers, memory)

    def _answers(
        self, builder: GraphBuilder, state: RowState, carried: _Carried
    ) -> tuple[ir.Value, ...]:
        """With light heads: the answers of all rows, those of ``state`` brought up to date."""
        if self._plan.heads is None:
            return ()
        if not carried.answers:
            return (state.logits(),)
        axes = builder.constant(np.array([1], np.int64), "axes")
        column = builder.op("Unsqueeze", [carried.rows, axes])
        return (builder.op("ScatterND", [*carried.answers, column, state.logits()]),)

    def _boundary(self, layer: int) -> ir.Value:
        """The state after a layer, counted from 1; that before the first is layer 0."""
        stack = self._plan.stack
        return stack.boundaries[layer - 1] if layer else stack.entry or stack.boundaries[0]

    def _segment(
        self, builder: GraphBuilder, carried: _Carried, exit_index: int, start: int, end: int
    ) -> _Carried:
        """The layers after ``start`` up to ``end``, for the rows that go on, if there are any."""
        name = self._named(f"after_{start}")
        rows_go_on, then = self._branch(f"{name}_rows_go_on")
        side_results = self._side_results.of_layers(start, end)
        is_last = end == len(self._plan.stack.boundaries)
        kept = self._read_of(builder, carried.h) if is_last else carried.h
        results, beside = self._layers(then, carried, kept, exit_index, start, end)
        wanted = results.values[:1] if is_last else results.values
        no_row_left, otherwise = self._branch(f"{name}_no_row_left")
        unchanged = (kept, *carried.values[1:])[: len(wanted)]
        skipped = self._side_results.without_layers(otherwise, carried.h, side_results)
        rows_go_on.outputs.extend([*wanted, *beside])
        as_before = [otherwise.op("Identity", [value]) for value in (*unchanged, *skipped)]
        no_row_left.outputs.extend(as_before)
        builder.nodes += [*then.nodes, *otherwise.nodes]
        zero = builder.constant(np.array(0, np.int64), "zero")
        anyone = builder.op("Greater", [builder.op("Size", [carried.rows]), zero])
        branches = {"then_branch": rows_go_on, "else_branch": no_row_left}
        count = len(as_before)
        first = builder.op("If", [anyone], branches, num_outputs=count, name=f"{name}_if")
        node = first.producer()
        assert node is not None
        for output, value in zip(node.outputs, (*unchanged, *side_results), strict=True):
            output.type, output.shape = value.type, value.shape
        self._beside += zip(side_results, node.outputs[len(unchanged) :], strict=True)
        if is_last:
            return _Carried(first, carried.rows)
        outside = carried.renamed(node.outputs[: len(unchanged)])
        for value in (outside.rows, *outside.memory):
            if value.shape is not None:
                value.shape = ir.Shape([self._open_size("rows", end), *value.shape[1:]])
        return outside

    def _branch(self, name: str) -> tuple[ir.Graph, GraphBuilder]:
        graph = ir.Graph((), (), nodes=(), name=self._rewriter.fresh_name(name))
        return graph, GraphBuilder(self._rewriter, graph, None)

    def _read_of(self, builder: GraphBuilder, h: ir.Value) -> ir.Value:
        """What the model reads of a state of all rows."""
        last = self._plan.stack.boundaries[-1]
        return RowCopy(builder, {last: h}, from_other_state(self._flow, last)).copy(self._plan.read)

    def _layers(
        self,
        then: GraphBuilder,
        carried: _Carried,
        kept: ir.Value,
        exit_index: int,
        start: int,
        end: int,
    ) -> tuple[_Carried, list[ir.Value]]:
        """The body of a branch; gives also what else is read of its layers, for all rows.

        ``kept`` is what rows that left have in the place of what is computed here.
        """
        plan = self._plan
        places = self._places(then, carried.rows, start)
        own = then.op("Gather", [carried.h, places], {"axis": 0})
        standing = for_rows(self._flow, then, carried.rows)
        copies = RowCopy(then, {self._boundary(start): own}, standing)
        is_last = end == len(plan.stack.boundaries)
        h = copies.copy(plan.read if is_last else self._boundary(end))
        axes = then.constant(np.array([1], np.int64), "axes")
        one_token_each = is_last and plan.read is not self._boundary(end)
        column = then.op("Unsqueeze", [carried.rows if one_token_each else places, axes])
        merged = then.op("ScatterND", [kept, column, h])
        now = _Carried(merged, carried.rows, carried.answers)
        values = self._side_results.of_layers(start, end)
        beside = self._side_results.merged(then, copies, carried.h, carried.rows, values)
        if is_last:
            return now, beside
        state = self._row_state(
            copies,
            end,
            h,
            copies.copy(self._boundary(end - 1)),
            None if plan.token_index is None else copies.copy(plan.token_index),
            copies.copy(plan.keep_mask),
            carried.memory,
        )
        return self._test(then, state, exit_index + 1, now), beside

    def _logits(self) -> ir.Value:
        assert self._plan.logits is not None
        return self._plan.logits

    def _named(self, what: str) -> str:
        return "_".join(filter(None, (self._plan.stack.name, what)))

    def _open_size(self, what: str, layer: int) -> ir.SymbolicDim:
        """A size that is known at run time only, under a name of its own.

        The runtime may give values whose sizes have the same names one buffer.
        """
        return ir.SymbolicDim(self._named(f"{what}_after_{layer}"))

    def _places(self, builder: GraphBuilder, rows: ir.Value, start: int) -> ir.Value:
        """Where the state of some rows lies on axis 0 of the state of all."""
        if self._plan.token_index is None:
            return rows
        operands = [rows, self._plan.token_index, self._plan.keep_mask]
        tokens = builder.op("RowTokens", operands, domain=DOMAIN)
        tokens.shape = ir.Shape([self._open_size("tokens", start)])
        return tokens
