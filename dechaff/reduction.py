"""From a model with a fault to a small one that shows it: what is right is cut off."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from dechaff.ir import DechaffError, Module

from .arrays import Array, Arrays
from .first_divergence import Probe, first_divergence, operands, probe_values
from .input_generation import InputCase
from .judges import Judge

_MARGINS = (0, 1, 2, 4, 8, 16)
"""How many values that agree are kept on each way up, tried in order."""


@dataclasses.dataclass(frozen=True)
class Reduced:
    """Two small models that differ.

    Attributes:
        before: the one that is right.
        after: the other.
        inputs: their inputs.
        problem: how they differ; None if they do not, by themselves, and the whole is needed.
    """

    before: Module
    after: Module
    inputs: Arrays
    problem: str | None


def reduce_fault(before: Module, after: Module, case: InputCase, judge: Judge) -> Reduced:
    """Cut two models down to where they part.

    The first value that differs becomes the only output; values that agree, nearest above it,
    become inputs, with the numbers they have on the given case. If that no longer shows the fault,
    more is kept.

    Args:
        before: the model that is right.
        after: the model one rewrite later.
        case: inputs on which they differ.
        judge: decides whether a pair still shows the fault.
    """
    whole = Reduced(before, after, case.inputs, judge.judge_pair(before, after, case))
    try:
        probe = _probe(before, after, case)
    except DechaffError:
        return whole
    names = [value.name or "" for value in before.graph.outputs]
    first = first_divergence(before, after, probe, names)
    if first is None:
        return whole
    for margin in _MARGINS:
        small = _cut(before, after, probe, first.value, case, margin)
        if small is None:
            continue
        problem = judge.judge_pair(small.before, small.after, InputCase("repro", small.inputs))
        if problem is not None:
            return dataclasses.replace(small, problem=problem)
    return whole


def _probe(before: Module, after: Module, case: InputCase) -> Probe:
    """Values of one name are one value: the two models are a single rewrite apart."""
    names = {value.name or "" for node in after.graph for value in node.outputs}
    shared = {
        value.name: value.name
        for node in before.graph
        for value in node.outputs
        if value.name and value.name in names
    }
    return probe_values(before, after, shared, case.inputs, case.inputs, _mask(after, case))


def _mask(after: Module, case: InputCase) -> Array | None:
    for item in after.valid_positions:
        mask = case.inputs.get(item.mask)
        if mask is not None:
            return item.kept(mask)
    return None


def _cut(
    before: Module, after: Module, probe: Probe, output: str, case: InputCase, margin: int
) -> Reduced | None:
    """Both models between the values that agree and one output."""
    edges = _edges(before, probe, output, margin) | _edges(after, probe, output, margin)
    for item in after.valid_positions:
        if item.output == output and probe.agrees(item.mask):
            edges.add(item.mask)
    parts = [_extract(module, edges, output) for module in (before, after)]
    used = {value.name or "" for part in parts for value in part.graph.inputs if value.uses()}
    used |= {item.mask for item in parts[1].valid_positions}
    inputs = {name: array for name, array in (case.inputs | probe.first).items() if name in used}
    for part in parts:
        kept = [value for value in part.graph.inputs if value.name in used]
        part.graph.inputs.clear()
        part.graph.inputs.extend(kept)
    if not inputs:
        return None
    return Reduced(parts[0], parts[1], inputs, None)


def _edges(module: Module, probe: Probe, output: str, margin: int) -> set[str]:
    """Values that agree, met on the ways up from the output after ``margin`` others."""
    edges: set[str] = set()
    values = {value.name: value for node in module.graph for value in node.outputs}
    pending = [(values[output], 0)]
    fewest: dict[ir.Value, int] = {}
    while pending:
        value, passed = pending.pop()
        if fewest.get(value, margin + 1) <= passed:
            continue
        fewest[value] = passed
        if probe.agrees(value.name or ""):
            if passed >= margin:
                edges.add(value.name or "")
                continue
            passed += 1
        node = value.producer()
        pending += [(operand, passed) for operand in operands(node)] if node is not None else []
    return edges


def _extract(module: Module, edges: set[str], output: str) -> Module:
    part = module.clone()
    graph = part.graph
    made = {value.name: value for node in graph for value in node.outputs}
    graph.outputs.clear()
    graph.outputs.append(made[output])
    for name in sorted(edges & made.keys()):
        old = made[name]
        given = ir.Value(name=name, type=old.type, shape=old.shape)
        old.name = f"{name}_before_cut"
        old.replace_all_uses_with(given)
        graph.inputs.append(given)
    common_passes.RemoveUnusedNodesPass()(part.model)
    common_passes.RemoveUnusedFunctionsPass()(part.model)  # type: ignore[no-untyped-call]
    inputs = {value.name for value in graph.inputs}
    part.valid_positions = [
        item for item in part.valid_positions if item.output == output and item.mask in inputs
    ]
    part.calling_convention = None
    return part
