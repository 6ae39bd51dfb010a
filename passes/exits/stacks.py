"""Stacks of layers, found by analysis: where one layer's state is all that the next one reads.

A boundary is a value through which every path from a stack's first attention to its end runs: a
dominator. Paths run along the query side of an attention and along residual connections, not along
keys and values, so that a decoder that attends to an encoder is a stack of its own.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

import networkx
import onnx_ir as ir

from dechaff.ir import module_path, value_type_text
from dechaff.passes.matching import ancestors, is_op, is_packed_attention, values_read
from dechaff.passes.rewriter import Rewriter

_LAYER_FOLDERS = frozenset(["layer", "layers", "block", "blocks", "h", "encoder_layers"])


@dataclasses.dataclass(frozen=True)
class Stack:
    """Layers of one kind, one after the other.

    Attributes:
        name: of the torch module that holds the layers, such as ``encoder``; empty if it is not
            known. No two stacks of a model have the same.
        attentions: its attentions, in order; a layer may have more than one.
        boundaries: the state after each layer, float[B, S, D] or packed float[T, D].
        entry: the state before the first layer; None if it is not found.
    """

    name: str
    attentions: tuple[ir.Node, ...]
    boundaries: tuple[ir.Value, ...]
    entry: ir.Value | None

    @property
    def packed(self) -> bool:
        """Whether its states are packed."""
        return is_packed_attention(self.attentions[0])


def find_stacks(graph: ir.Graph, rewriter: Rewriter) -> list[Stack]:
    """All stacks of at least two layers, in order of their first attention."""
    attentions = [node for node in graph if is_op(node, "Attention") or is_packed_attention(node)]
    if not attentions:
        rewriter.note("early-exit: the model has no attention that is known as such")
        return []
    flow = _QueryFlow(graph)
    stacks: list[Stack] = []
    taken: set[ir.Node] = set()
    for first in attentions:
        if first in taken:
            continue
        members = [first, *(node for node in attentions if flow.leads(first, node))]
        taken.update(members)
        boundaries = flow.boundaries(members)
        if boundaries is None:
            reason = "the end of the last layer is not found: nothing after it is made alike"
            rewriter.miss("early-exit", members[-1], reason)
        elif boundaries:
            entry = _entry(graph, first, boundaries[0])
            stacks.append(Stack(_stack_name(first), tuple(members), tuple(boundaries), entry))
    return _with_own_names(stacks)


class _QueryFlow:
    """Values by number, with an edge to each value computed from them; keys and values left out.

    Numbers, since values of some frontends answer ``==`` with a value of their own.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._edges: networkx.DiGraph[int] = networkx.DiGraph()
        self._values: list[ir.Value] = []
        self._numbers: dict[ir.Value, int] = {}
        self._needed = {node for output in graph.outputs for node in ancestors(output)}
        for node in graph:
            attends = is_op(node, "Attention") or is_packed_attention(node)
            read = node.inputs[:1] if attends else values_read(node)
            for result in node.outputs[:1] if attends else node.outputs:
                number = self._number(result)
                self._edges.add_node(number)
                self._edges.add_edges_from((self._number(v), number) for v in read if v is not None)

    def _number(self, value: ir.Value) -> int:
        if value not in self._numbers:
            self._numbers[value] = len(self._values)
            self._values.append(value)
        return self._numbers[value]

    def leads(self, first: ir.Node, other: ir.Node) -> bool:
        """Whether the query of an attention is computed from another attention."""
        start, end = self._number(first.outputs[0]), self._number(other.outputs[0])
        return start != end and networkx.has_path(self._edges, start, end)

    def boundaries(self, members: Sequence[ir.Node]) -> list[ir.Value] | None:
        """The states after each layer: none for a single layer, None if the last is not found."""
        first = self._number(members[0].outputs[0])
        inside = self._edges.subgraph({first, *networkx.descendants(self._edges, first)}).copy()
        end = len(self._values)
        inside.add_edges_from((number, end) for number in self._ends(inside, members[-1]))
        parents = networkx.immediate_dominators(inside, first)
        chain = list(_up(end, parents))[::-1]
        place = {number: index for index, number in enumerate(chain)}
        starts: set[int] = set()
        for attention in members[1:]:
            key = attention.inputs[1]
            if key is not None and self._number(key) in inside:  # of its own stack: a layer begins
                number = self._number(attention.outputs[0])
                starts.add(next(place[above] for above in _up(number, parents) if above in place))
        states = [self._values[number] for number in chain[1:-1]]
        before = [states[index - 1] for index in sorted(starts) if index > 0]
        if not before:
            return []
        last = _last_state(states, before)
        return None if last is None else [*before, last]

    def _ends(self, inside: networkx.DiGraph[int], attention: ir.Node) -> list[int]:
        """Where a stack ends: outputs behind its last attention, else what others' keys are."""
        last = self._number(attention.outputs[0])
        behind = [last, *networkx.descendants(inside, last)]
        outputs = [number for number in behind if self._values[number].is_graph_output()]
        return outputs or [
            number
            for number in behind
            if not inside.out_degree(number)
            and any(user in self._needed for user, _ in self._values[number].uses())
        ]


def _up(number: int, parents: Mapping[int, int | None]) -> Iterator[int]:
    """A value and its dominators, nearest first."""
    above: int | None = number
    while above is not None:
        yield above
        following = parents.get(above)
        above = None if following == above else following


def _last_state(states: Sequence[ir.Value], before: Sequence[ir.Value]) -> ir.Value | None:
    """The state after the last layer: made like those before it, as many steps on as they are."""
    kind = _kind(before[-1])
    alike = [value for value in states if _kind(value) == kind]
    places = [index for index, value in enumerate(alike) if any(value is b for b in before)]
    behind = alike[places[-1] + 1 :]
    if len(places) > 1:
        behind = behind[: places[-1] - places[-2]]
    return behind[-1] if behind else None


def _entry(graph: ir.Graph, first: ir.Node, after: ir.Value) -> ir.Value | None:
    """The state before the first layer: what its first attention is added to."""
    reached = {first.outputs[0]}
    for node in graph:
        read = [value for value in node.inputs if value is not None]
        if not any(value in reached for value in read):
            continue
        for value in read:
            if value not in reached and value_type_text(value) == value_type_text(after):
                return value
        reached.update(node.outputs)
    return None


def _kind(value: ir.Value) -> tuple[str, str]:
    node = value.producer()
    op_type = "" if node is None else node.op_type
    made_by = "Normalization" if op_type.endswith("Normalization") else op_type
    return f"{made_by}:{value.index()}", value_type_text(value)


def _stack_name(attention: ir.Node) -> str:
    """The module that holds the layers: ``encoder`` of ``bert.encoder.layer.0.attention.self``."""
    path = re.split(r"\.\d+(?:\.|$)", module_path(attention))[0]
    parts = [part for part in path.split(".") if part not in _LAYER_FOLDERS]
    return re.sub(r"\W", "_", parts[-1]) if parts else ""


def _with_own_names(stacks: list[Stack]) -> list[Stack]:
    """No two of the same name: a module that runs twice has two stacks."""
    names = [stack.name for stack in stacks]
    return [
        stack
        if names.count(stack.name) == 1
        else dataclasses.replace(
            stack, name=f"{stack.name or 'stack'}_{names[: index + 1].count(stack.name)}"
        )
        for index, stack in enumerate(stacks)
    ]
