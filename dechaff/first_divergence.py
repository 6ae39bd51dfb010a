"""Where two models part: the first value that differs on the way to a wrong output."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from dechaff.ir import Module, node_text
from dechaff.passes import Numerics

from .arrays import Array, Arrays
from .comparison import compare_arrays
from .probing import fetch_values


@dataclasses.dataclass(frozen=True)
class Divergence:
    """The first value that differs.

    Attributes:
        value: its name in the first model.
        other: its name in the second model.
        node: the operation that makes it in the first model, in text form.
        other_node: the operation that makes it in the second model.
        problem: how the two differ.
    """

    value: str
    other: str
    node: str
    other_node: str
    problem: str

    def __str__(self) -> str:
        name = self.value if self.value == self.other else f"{self.value} / {self.other}"
        return f"first diverging value {name}: {self.problem}, in {self.node}"


@dataclasses.dataclass(frozen=True)
class Probe:
    """Values that two models share, on one case.

    Attributes:
        matches: names in the second model by names in the first, in the first's order.
        first: arrays of the first model, by its names.
        second: arrays of the second model, by the first's names.
        problems: how a value differs, by the first's names; values that agree are not in it.
    """

    matches: Mapping[str, str]
    first: Arrays
    second: Arrays
    problems: Mapping[str, str]

    def agrees(self, name: str) -> bool:
        """Whether the two models were seen to have the same numbers there."""
        return name in self.first and name not in self.problems


def probe_values(
    first: Module,
    second: Module,
    matches: Mapping[str, str],
    inputs: Mapping[str, Array],
    other_inputs: Mapping[str, Array],
    mask: Array | None,
) -> Probe:
    """Run both models and compare the values they share.

    Args:
        first: a module.
        second: another one.
        matches: names in the second by names in the first.
        inputs: the first's inputs.
        other_inputs: the second's inputs.
        mask: [B, S], not zero where positions are meaningful; values whose leading axes have
            that shape are compared there. None: all are.

    Raises:
        DechaffError: one of them cannot be run with further outputs.
    """
    left = fetch_values(first, matches, inputs)
    found = fetch_values(second, matches.values(), other_inputs)
    right = {ours: found[theirs] for ours, theirs in matches.items() if theirs in found}
    shared = {
        name: theirs
        for name, theirs in matches.items()
        # Packed tokens have the name of the padded ones, but are others.
        if name in left and name in right and left[name].shape == right[name].shape
    }
    problems = {name: _problem(left[name], right[name], mask) for name in shared}
    return Probe(
        shared,
        {name: left[name] for name in shared},
        {name: right[name] for name in shared},
        {name: problem for name, problem in problems.items() if problem is not None},
    )


def _problem(reference: Array, actual: Array, mask: Array | None) -> str | None:
    if mask is not None and mask.ndim == 2 and reference.shape[:2] == mask.shape:
        keep = mask != 0
        reference, actual = reference[keep], actual[keep]
    return compare_arrays(reference, actual, None, Numerics.REASSOCIATES).problem


def first_divergence(
    first: Module, second: Module, probe: Probe, outputs: Sequence[str]
) -> Divergence | None:
    """The first value that differs, among those that reach the wrong outputs.

    A difference from which only values follow that agree again means nothing: the search goes
    from the outputs upwards and stops where the models agree.

    Args:
        first: the first model.
        second: the second one.
        probe: the values they share.
        outputs: graph outputs of the first that differ.
    """
    wrong = _differing(first, probe, outputs)
    name = next((name for name in probe.matches if name in wrong), None)
    if name is None:
        return None
    other = probe.matches[name]
    return Divergence(
        name, other, _maker_text(first, name), _maker_text(second, other), probe.problems[name]
    )


def _differing(first: Module, probe: Probe, outputs: Sequence[str]) -> set[str]:
    found: set[str] = set()
    seen: set[ir.Value] = set()
    pending = [value for value in first.graph.outputs if value.name in outputs]
    while pending:
        value = pending.pop()
        if value in seen or probe.agrees(value.name or ""):
            continue
        seen.add(value)
        if value.name is not None and value.name in probe.problems:
            found.add(value.name)
        node = value.producer()
        pending += list(operands(node)) if node is not None else []
    return found


def operands(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, its subgraphs included."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            for inner in attribute.as_graph():
                yield from operands(inner)


def _maker_text(module: Module, name: str) -> str:
    for node in module.graph:
        if any(value.name == name for value in node.outputs):
            return node_text(node)
    return name
