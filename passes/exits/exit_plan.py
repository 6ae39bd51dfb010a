"""What is needed to build the exits of a stack, and what speaks against it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from dechaff.ir import Module, UsageError
from dechaff.passes.matching import ancestors, same_dim
from dechaff.passes.padding.padding_mask import find_padding_mask, masked_attentions
from dechaff.passes.rewriter import GraphBuilder

from .exit_options import EarlyExitOptions
from .light_heads import LightHeads, load_heads
from .read_tokens import what_is_read
from .row_flow import RowFlow
from .side_results import reason_against_side_results
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
        heads: light heads by layer, which answer in place of the model's own; None for its own.
        read: what the model reads of the state after the last layer: it, or one token of each row.
    """

    stack: Stack
    layers: tuple[int, ...]
    criterion: str
    thresholds: ir.Value
    keep_mask: ir.Value
    token_index: ir.Value | None
    logits: ir.Value | None
    heads: LightHeads | None
    read: ir.Value


def plan_exits(
    stack: Stack,
    flow: RowFlow,
    module: Module,
    options: EarlyExitOptions,
    builder: GraphBuilder,
    fitted: LightHeads | None = None,
) -> ExitPlan:
    """The plan for a stack against which nothing speaks; adds the input of thresholds.

    Args:
        stack: the stack.
        flow: of rows through the module.
        module: the module.
        options: which exits.
        builder: adds what the tests read.
        fitted: light heads that were fitted, where the options ask for these.

    Raises:
        UsageError: the thresholds or the file of heads do not fit the exits.
    """
    layers = _layers(stack, options)
    return ExitPlan(
        stack,
        layers,
        options.criterion,
        _threshold_input(stack, options.thresholds(len(layers)), module),
        *token_layout(stack, builder),
        answer_of(module.graph, flow, stack, options.output),
        fitted if options.heads == "fit" else _heads(options, layers),
        what_is_read(stack.boundaries[-1], module, flow),
    )


def reason_against(
    stack: Stack, flow: RowFlow, module: Module, options: EarlyExitOptions
) -> tuple[ir.Node, str] | None:
    """Why a stack cannot be left early: the node that stops it, and the reason; or None."""
    first, last = stack.attentions[0], stack.attentions[-1]
    if flow.batch is None:
        return first, "the batch size is fixed: export the model with an open first dimension"
    layers = _layers(stack, options)
    if not layers:
        none = f"no exit asked for lies inside its {len(stack.boundaries)} layers"
        closed = ", ".join(map(str, sorted(_closed_layers(stack))))
        if closed:
            none += f"; after {closed} later layers read keys of a state before: freeze-tokens"
        return first, none
    refusal = reason_against_side_results(module.graph, flow, stack, layers[0])
    if refusal is not None:
        return refusal
    answer = answer_of(module.graph, flow, stack, options.output)
    own_head = options.criterion != "similarity" and options.heads == "own"
    if answer is None and (options.criterion != "similarity" or options.heads != "own"):
        names = ", ".join(value.name or "" for value in module.graph.outputs)
        return last, f"which output is the answer is not clear: name one, output=..., of {names}"
    end = answer if own_head and answer is not None else stack.boundaries[-1]
    behind = flow.behind(stack.boundaries[layers[0] - 1])
    computing = ancestors(end)
    for node in module.graph:
        if node in computing and any(value in behind for value in node.inputs if value is not None):
            reason = flow.mixes_rows(node)
            if reason is not None:
                return node, f"rows of the batch would not be independent: {reason}"
    return None


def _closed_layers(stack: Stack) -> set[int]:
    """Layers, counted from 1, after which no row may leave: keys are read of states before them.

    Where ``freeze-tokens`` lets later layers take keys from one state, a branch that begins behind
    it would need that state beside its own, for the rows that go on.
    """
    place = {boundary: index for index, boundary in enumerate(stack.boundaries, start=1)}
    closed: set[int] = set()
    for attention in stack.attentions:
        query, key = (_last_states(value, place) for value in attention.inputs[:2])
        if query and key:
            closed.update(range(min(key) + 1, max(query) + 1))
    return closed


def _last_states(value: ir.Value | None, place: Mapping[ir.Value, int]) -> set[int]:
    """The states of a stack from which a value is computed, not through other states."""
    found: set[int] = set()
    pending, seen = [value], set[ir.Value]()
    while pending:
        each = pending.pop()
        if each is None or each in seen:
            continue
        seen.add(each)
        node = each.producer()
        if each in place:
            found.add(place[each])
        elif node is not None:
            pending += node.inputs
    return found


def _heads(options: EarlyExitOptions, layers: tuple[int, ...]) -> LightHeads | None:
    if options.heads == "own":
        return None
    heads = load_heads(options.heads)
    missing = [layer for layer in layers if layer not in heads]
    if missing:
        raise UsageError(
            f"{options.heads} has heads for layers {', '.join(map(str, sorted(heads)))}, "
            f"and none for layer {missing[0]}"
        )
    return heads


def _layers(stack: Stack, options: EarlyExitOptions) -> tuple[int, ...]:
    first = 2 if options.criterion == "similarity" and stack.entry is None else 1
    closed = _closed_layers(stack)
    possible = [k for k in range(first, len(stack.boundaries)) if k not in closed]
    chosen = options.chosen_layers
    return tuple(possible if chosen is None else (k for k in chosen if k in possible))


def token_layout(stack: Stack, builder: GraphBuilder) -> tuple[ir.Value, ir.Value | None]:
    """Which tokens count, bool[B, S], and where packed ones lie, int64[T]."""
    if stack.packed:
        starts = stack.attentions[0].inputs[3]
        layout = None if starts is None else starts.producer()
        if layout is None or layout.inputs[0] is None:
            raise ValueError("packed attention without a TokenLayout")
        return layout.inputs[0], layout.outputs[0]
    own = [node for node in masked_attentions(stack.attentions) if _is_self(node)]
    found = find_padding_mask(own)
    if found is None:
        return builder.constant(np.ones((1, 1), np.bool_), "every_token"), None
    mask = found.value
    if mask.dtype is not ir.DataType.BOOL:
        mask = builder.op("Cast", [mask], {"to": int(ir.DataType.BOOL)})
    return builder.op("Not", [mask]) if found.zero_is_valid else mask, None


def _is_self(attention: ir.Node) -> bool:
    """Whether keys are as many as queries: those of another stack have a mask of their own."""
    query, key = attention.inputs[:2]
    if query is None or key is None or not query.shape or not key.shape:
        return False
    axis = 2 if len(query.shape) == 4 else 1
    return same_dim(query.shape[axis], key.shape[axis])


def _threshold_input(
    stack: Stack, defaults: np.ndarray[tuple[int], np.dtype[np.float32]], module: Module
) -> ir.Value:
    """A graph input with a default."""
    taken = {value.name for value in module.graph.inputs}
    name = "_".join(filter(None, (stack.name, "exit_thresholds")))
    while name in taken:
        name += "_again"
    value = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape([len(defaults)]),
        const_value=ir.tensor(defaults, name=name),
    )
    module.graph.register_initializer(value)
    module.graph.inputs.append(value)
    return value


def answer_of(graph: ir.Graph, flow: RowFlow, stack: Stack, name: str) -> ir.Value | None:
    """The output that answers: the one named, the only one behind the stack, or ``logits``."""
    behind = flow.behind(stack.boundaries[-1])
    outputs = [value for value in graph.outputs if value in behind]
    wanted = [value for value in outputs if value.name == (name or "logits")]
    if wanted or name:
        return wanted[0] if wanted else None
    return outputs[0] if len(outputs) == 1 else None
