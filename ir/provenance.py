"""Where a node came from: the nodes of the imported graph, the module path, the rule that made it.

Kept in ONNX's own ``metadata_props`` so that it survives saving, cloning and other people's tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import onnx_ir as ir

ORIGIN_KEY = "dechaff.origin"
RULE_KEY = "dechaff.rule"
MODULE_PATH_KEY = "dechaff.module_path"


def stamp_origins(graph: ir.Graph) -> None:
    """Give every node a unique name and record it as its own origin (done once, on import)."""
    taken = {node.name for node in graph.all_nodes() if node.name}
    seen: set[str] = set()
    for index, node in enumerate(graph.all_nodes()):
        if not node.name or node.name in seen:
            node.name = _unused_name(f"{node.op_type}_{index}", taken)
            taken.add(node.name)
        seen.add(node.name)
        node.metadata_props.setdefault(ORIGIN_KEY, json.dumps([node.name]))


def _unused_name(stem: str, taken: set[str]) -> str:
    name, suffix = stem, 0
    while name in taken:
        suffix += 1
        name = f"{stem}_{suffix}"
    return name


def origins(node: ir.Node) -> tuple[str, ...]:
    """Names of the imported nodes that this node stands for."""
    recorded = node.metadata_props.get(ORIGIN_KEY)
    return tuple(json.loads(recorded)) if recorded else ()


def module_path(node: ir.Node) -> str:
    """Path of the torch module that the node computes, such as ``encoder.layer.3.attention``."""
    return node.metadata_props.get(MODULE_PATH_KEY, "")


def inherit(new_nodes: Iterable[ir.Node], old_nodes: Iterable[ir.Node], rule: str) -> None:
    """Record on new nodes that ``rule`` made them from ``old_nodes``."""
    old = list(old_nodes)
    names = list(dict.fromkeys(name for node in old for name in origins(node)))
    path = _common_path([module_path(node) for node in old])
    for node in new_nodes:
        node.metadata_props[RULE_KEY] = rule
        node.metadata_props.setdefault(ORIGIN_KEY, json.dumps(names))
        if path:
            node.metadata_props.setdefault(MODULE_PATH_KEY, path)


def _common_path(paths: list[str]) -> str:
    known = [path.split(".") for path in paths if path]
    if not known:
        return ""
    shared: list[str] = []
    for parts in zip(*known, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
