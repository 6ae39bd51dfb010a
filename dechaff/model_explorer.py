"""A trace as a collection of graphs for Model Explorer, one graph for each step that changed it.

The format is that of the data classes of ``model_explorer.graph_builder`` in the package
``ai-edge-model-explorer`` 0.1; its JSON loader reads an object of ``label`` and ``graphs``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .trace_file import apply_difference
from .trace_graph import GraphData

_MARKED = {"added": "#0b6fae", "changed": "#8a4f86"}
_INPUTS, _OUTPUTS = "graph inputs", "graph outputs"


def graph_collection(trace: dict[str, Any]) -> dict[str, Any]:
    """The graphs of a trace; operators that a step made or changed have a coloured border."""
    graphs = []
    taken: set[str] = set()
    for name, before, after in _steps(trace):
        title = name
        while title in taken:
            title += "′"
        taken.add(title)
        graphs.append({"id": title, "nodes": list(_nodes(before, after))})
    return {"label": trace["source"], "graphs": graphs}


def _steps(trace: dict[str, Any]) -> Iterator[tuple[str, GraphData, GraphData]]:
    graph = trace["initial"]
    is_run = trace["kind"] == "optimization"
    yield "imported model" if is_run else trace["source"], graph, graph
    for index, step in enumerate(trace["steps"], start=1):
        if step.get("undone") or not step.get("difference"):
            continue
        after = apply_difference(graph, step["difference"])
        yield f"{index}. {step['name']}", graph, after
        graph = after


def _nodes(before: GraphData, after: GraphData) -> Iterator[dict[str, Any]]:
    inputs = [_metadata(index, *pair) for index, pair in enumerate(after["inputs"])]
    yield {"id": _INPUTS, "label": _INPUTS, "outputsMetadata": inputs}
    made = {name: (_INPUTS, str(index)) for index, (name, _) in enumerate(after["inputs"])}
    for node_id, node in after["nodes"].items():
        for index, (name, _) in enumerate(node.get("outputs", [])):
            made[name] = (node_id, str(index))
    for node_id in after["order"]:
        yield _node(node_id, before["nodes"].get(node_id), after["nodes"][node_id], after, made)
    results = [name for name, _ in after["outputs"]]
    yield {"id": _OUTPUTS, "label": _OUTPUTS, "incomingEdges": _edges(results, made)}


def _node(
    node_id: str,
    old: dict[str, Any] | None,
    node: dict[str, Any],
    graph: GraphData,
    made: dict[str, tuple[str, str]],
) -> dict[str, Any]:
    names = node.get("inputs", [])
    place = [*node.get("path", "").split("."), node.get("body", "")]
    found = {
        "id": node_id,
        "label": node["op"],
        "namespace": "/".join(part.replace("/", "∕") for part in place if part),
        "attrs": _attributes(node),
        "incomingEdges": _edges(names, made),
        "outputsMetadata": [
            _metadata(index, *pair) for index, pair in enumerate(node.get("outputs", []))
        ],
        "inputsMetadata": [
            _metadata(index, name, graph["weights"].get(name, {}).get("type", ""))
            for index, name in enumerate(names)
        ],
    }
    if old != node:
        found["style"] = {"borderColor": _MARKED["added" if old is None else "changed"]}
    return found


def _attributes(node: dict[str, Any]) -> list[dict[str, str]]:
    about = {
        "domain": node.get("domain", ""),
        "rule": node.get("rule", ""),
        "origins": ", ".join(node.get("origins", [])),
        "source": node.get("source", ""),
        "FLOPs": node.get("flops", ""),
        "bytes": node.get("bytes", ""),
    }
    pairs = [*node.get("attributes", {}).items(), *about.items()]
    return [{"key": key, "value": value} for key, value in pairs if value]


def _edges(names: list[str], made: dict[str, tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"sourceNodeId": made[name][0], "sourceNodeOutputId": made[name][1], "targetNodeInputId": n}
        for n, name in ((str(index), name) for index, name in enumerate(names))
        if name in made
    ]


def _metadata(index: int, name: str, text: str) -> dict[str, Any]:
    pairs = {"__tensor_tag": name, "type": text}
    attributes = [{"key": key, "value": value} for key, value in pairs.items() if value]
    return {"id": str(index), "attrs": attributes}
