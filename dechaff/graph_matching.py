"""Which operators of two graphs are the same, where nobody kept a record of it."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter, defaultdict
from typing import Any

from .trace_graph import GraphData

_MARK = "′"


def align_names(before: GraphData, after: GraphData) -> GraphData:
    """The second graph, its matched nodes and values named as in the first.

    Nodes are matched by name and operator; then by what they compute, from the inputs down; then
    by the weights they read; then in order of appearance among operators of one module, where a
    wrapper around the model that one exporter names and the other does not is disregarded. Names
    that would clash get a prime.
    """
    after = _paths_as_in(before, after)
    pairs = _match(before, after)
    node_names = _renaming(list(after["nodes"]), pairs, set(before["nodes"]))
    value_pairs = _value_pairs(before, after, pairs)
    value_names = _renaming(_values(after), value_pairs, set(_values(before)))
    return {
        "inputs": [[value_names[name], text] for name, text in after["inputs"]],
        "outputs": [[value_names.get(name, name), text] for name, text in after["outputs"]],
        "order": [node_names[name] for name in after["order"]],
        "nodes": {
            node_names[name]: _renamed(node, value_names, node_names)
            for name, node in after["nodes"].items()
        },
        "weights": {value_names[name]: data for name, data in after["weights"].items()},
    }


def _match(before: GraphData, after: GraphData) -> dict[str, str]:
    """Id in the first graph by id in the second."""
    pairs = {
        name: name
        for name, node in after["nodes"].items()
        if _operator(before["nodes"].get(name, {})) == _operator(node)
    }
    _match_unique(_signatures(before), _signatures(after), pairs)
    _match_unique(_weights_read(before), _weights_read(after), pairs)
    _match_in_order(before, after, pairs)
    return pairs


def _operator(node: dict[str, Any]) -> tuple[str, str] | None:
    return (node.get("domain", ""), node["op"]) if node else None


def _match_unique(left: dict[str, str], right: dict[str, str], pairs: dict[str, str]) -> None:
    """Pair nodes that compute the same thing, where that is computed once in each graph."""
    taken = set(pairs.values())
    by_signature = {text: name for name, text in left.items() if name not in taken}
    counts = Counter(left.values())
    counts_right = Counter(right.values())
    for name, text in right.items():
        if name not in pairs and counts[text] == counts_right[text] == 1 and text in by_signature:
            pairs[name] = by_signature[text]


def _signatures(graph: GraphData) -> dict[str, str]:
    """For each node a digest of its operator, its attributes and all that leads to it."""
    known = {name: f"input {name}" for name, _ in graph["inputs"]}
    for name, weight in graph["weights"].items():
        known[name] = f"weight {weight.get('digest', name)} {weight['type']}"
    found: dict[str, str] = {}
    for name in graph["order"]:
        node = graph["nodes"][name]
        parts = [*map(str, _operator(node) or ()), str(sorted(node.get("attributes", {}).items()))]
        parts += [known.get(operand, "") for operand in node.get("inputs", [])]
        digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=12)
        found[name] = digest.hexdigest()
        for index, (output, _) in enumerate(node.get("outputs", [])):
            known[output] = f"{found[name]} {index}"
    return found


def _weights_read(graph: GraphData) -> dict[str, str]:
    """For each node that reads large weights, its operator with the digests of these."""
    found: dict[str, str] = {}
    for name, node in graph["nodes"].items():
        operands = (graph["weights"].get(operand, {}) for operand in node.get("inputs", []))
        digests = [w["digest"] for w in operands if "digest" in w and "values" not in w]
        if digests:
            found[name] = " ".join([*map(str, _operator(node) or ()), *digests])
    return found


def _paths_as_in(before: GraphData, after: GraphData) -> GraphData:
    """The second graph with module paths as in the first, where a wrapper's name sets them apart.

    A name in front of every path is taken off, or put there, if more paths agree then.
    """
    known, paths = _paths(before), _paths(after)
    ours, theirs = _outermost(known), _outermost(paths)
    ways = [{path: path for path in paths}]
    if theirs is not None:
        ways.append({path: path.partition(".")[2] for path in paths})
    if ours is not None:
        ways.append({path: f"{ours}.{path}" for path in paths})
    best = max(ways, key=lambda way: len(known.intersection(way.values())))
    nodes = {
        name: node | {"path": best[node["path"]]} if node.get("path") else node
        for name, node in after["nodes"].items()
    }
    return after | {"nodes": nodes}


def _paths(graph: GraphData) -> set[str]:
    return {node["path"] for node in graph["nodes"].values() if node.get("path")}


def _outermost(paths: set[str]) -> str | None:
    """The first segment of every module path, if it is one and the same."""
    first = {path.partition(".")[0] for path in paths}
    return next(iter(first)) if len(first) == 1 else None


def _match_in_order(before: GraphData, after: GraphData, pairs: dict[str, str]) -> None:
    """Pair what is left by the longest common sequence of operators within each module."""
    taken = set(pairs.values())
    left = _by_module(before, lambda name: name not in taken)
    right = _by_module(after, lambda name: name not in pairs)
    for path, names in right.items():
        others = left.get(path, [])
        matcher = difflib.SequenceMatcher(
            None,
            [_operator(before["nodes"][name]) for name in others],
            [_operator(after["nodes"][name]) for name in names],
            autojunk=False,
        )
        for start, new_start, size in matcher.get_matching_blocks():
            for offset in range(size):
                pairs[names[new_start + offset]] = others[start + offset]


def _by_module(graph: GraphData, wanted: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name in graph["order"]:
        if wanted(name):
            found[graph["nodes"][name].get("path", "")].append(name)
    return found


def _values(graph: GraphData) -> list[str]:
    """Names of all values; an output that is left out has none."""
    made = [name for node in graph["nodes"].values() for name, _ in node.get("outputs", [])]
    return [*(name for name, _ in graph["inputs"]), *graph["weights"], *filter(None, made)]


def _value_pairs(before: GraphData, after: GraphData, pairs: dict[str, str]) -> dict[str, str]:
    """Value of the first graph by value of the second: of matched nodes, and equal names."""
    found: dict[str, str] = {}
    names = {name for name, _ in before["inputs"]} | set(before["weights"])
    for name in [*(name for name, _ in after["inputs"]), *after["weights"]]:
        if name in names:
            found[name] = name
    for name, other in pairs.items():
        node, match = after["nodes"][name], before["nodes"][other]
        made = zip(node.get("outputs", []), match.get("outputs", []), strict=False)
        for (value, _), (known, _) in made:
            found[value] = known
    weights, taken = after["weights"], set(found.values())
    for name, other in pairs.items():
        operands = after["nodes"][name].get("inputs", [])
        for value, known in zip(operands, before["nodes"][other].get("inputs", []), strict=False):
            fits = value in weights and known in before["weights"]
            if fits and value not in found and known not in taken:
                found[value] = known
                taken.add(known)
    return found


def _renaming(names: list[str], pairs: dict[str, str], taken: set[str]) -> dict[str, str]:
    renamed = {name: pairs[name] for name in names if name in pairs}
    used = set(renamed.values()) | taken
    for name in names:
        if name in renamed:
            continue
        fresh = name
        while fresh in used:
            fresh += _MARK
        used.add(fresh)
        renamed[name] = fresh
    return renamed


def _renamed(node: dict[str, Any], values: dict[str, str], nodes: dict[str, str]) -> dict[str, Any]:
    changed = dict(node)
    if "inputs" in node:
        changed["inputs"] = [values.get(name, name) for name in node["inputs"]]
    if "outputs" in node:
        changed["outputs"] = [[values.get(name, ""), text] for name, text in node["outputs"]]
    if "origins" in node:
        changed["origins"] = [nodes.get(name, name) for name in node["origins"]]
    return changed
