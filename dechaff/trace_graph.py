"""A graph as plain data: what a trace keeps of it, without the weights."""

from __future__ import annotations

import re
from typing import Any

import onnx_ir as ir

from dechaff.ir import (
    RULE_KEY,
    DechaffError,
    Module,
    attribute_text,
    module_path,
    node_cost,
    origins,
    value_type_text,
)

from .trace_weights import weight_data

GraphData = dict[str, Any]
"""``inputs``, ``outputs``, ``order``, ``nodes`` by id and ``weights`` by name."""

_LONGEST_ATTRIBUTE = 2000
_STACK_TRACE = "pkg.torch.onnx.stack_trace"
_STACK_LINE = re.compile(r'File "([^"\n]*)", line (\d+), in (\w+)')


class GraphRecorder:
    """Turns modules into :data:`GraphData`; what repeats between snapshots is computed once."""

    def __init__(self) -> None:
        self._costs: dict[tuple[Any, ...], tuple[str, str]] = {}
        self._weights: dict[int, tuple[ir.TensorProtocol, dict[str, Any]]] = {}

    def record(self, module: Module) -> GraphData:
        """The main graph of a module with the bodies of its control flow."""
        nodes: dict[str, Any] = {}
        self._add_nodes(module.graph, "", nodes)
        return {
            "inputs": _typed(module.graph.inputs),
            "outputs": _typed(module.graph.outputs),
            "order": list(nodes),
            "nodes": nodes,
            "weights": {
                name: self._weight(value)
                for graph in module.model.graphs()
                for name, value in graph.initializers.items()
                if value.const_value is not None
            },
        }

    def _add_nodes(self, graph: ir.Graph, body: str, nodes: dict[str, Any]) -> None:
        for node in graph:
            name = _unused(node.name or node.op_type, nodes)
            nodes[name] = self._node(node, body)
            for attribute in node.attributes.values():
                if attribute.is_ref() or attribute.type is not ir.AttributeType.GRAPH:
                    continue
                inside = ".".join(filter(None, [body, f"{name} {attribute.name}"]))
                self._add_nodes(attribute.as_graph(), inside, nodes)

    def _node(self, node: ir.Node, body: str) -> dict[str, Any]:
        attributes = {
            name: attribute_text(attribute)[:_LONGEST_ATTRIBUTE]
            for name, attribute in node.attributes.items()
        }
        outputs = _typed(node.outputs)
        flops, moved = self._cost(node, attributes, outputs)
        data = {
            "op": node.op_type,
            "domain": node.domain,
            "inputs": [(value.name or "") if value is not None else "" for value in node.inputs],
            "outputs": outputs,
            "attributes": attributes,
            "path": module_path(node),
            "origins": list(origins(node)),
            "rule": node.metadata_props.get(RULE_KEY, ""),
            "flops": flops,
            "bytes": moved,
            "source": _source_line(node.metadata_props.get(_STACK_TRACE, "")),
            "body": body,
        }
        return {key: value for key, value in data.items() if value}

    def _cost(
        self, node: ir.Node, attributes: dict[str, str], outputs: list[list[str]]
    ) -> tuple[str, str]:
        """FLOPs and bytes as formulas; empty where they are zero or not known."""
        types = tuple(
            value_type_text(value) if value is not None else None for value in node.inputs
        )
        made = tuple(text for _, text in outputs)
        key = (node.domain, node.op_type, types, made, tuple(attributes.items()))
        if key not in self._costs:
            self._costs[key] = _cost_texts(node)
        return self._costs[key]

    def _weight(self, value: ir.Value) -> dict[str, Any]:
        tensor = value.const_value
        assert tensor is not None  # the caller asks for such values only
        known = self._weights.get(id(tensor))
        if known is None:
            # The tensor is kept beside its description so that its id stays its own.
            known = (tensor, weight_data(value, tensor))
            self._weights[id(tensor)] = known
        return known[1]


def _typed(values: Any) -> list[list[str]]:
    return [[value.name or "", value_type_text(value)] for value in values]


def _unused(name: str, taken: dict[str, Any]) -> str:
    """Names are unique after an import; bodies of a foreign file may repeat them."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}#{number}"
    return candidate


def _cost_texts(node: ir.Node) -> tuple[str, str]:
    try:
        cost = node_cost(node)
    except (DechaffError, ValueError, IndexError, AttributeError, TypeError):
        return "", ""  # a graph that is only looked at need not obey the operators' rules
    texts = (str(cost.flops), str(cost.bytes_moved))
    return "" if texts[0] == "0" else texts[0], "" if texts[1] == "0" else texts[1]


def _source_line(stack_trace: str) -> str:
    """The innermost frame, ``modeling_bert.py:192 in forward``; folders are left out."""
    frames = _STACK_LINE.findall(stack_trace)
    if not frames:
        return ""
    path, line, function = frames[-1]
    name = path.replace("\\", "/").rpartition("/")[2]
    return f"{name}:{line} in {function}"
