"""Limits of what a file may ask for, checked before anything is built from it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx

from dechaff.ir import ModelRejectedError

_MAX_NODES = 200_000
"""Ten times what exporters make of the largest Transformers with every operation spelled out."""
_MAX_AXES = 64
"""numpy's limit, which is above those of all runtimes."""
_MAX_SIZE_LETTERS = 256
_POWER = re.compile(r"\*\*\s*(?![2-4]\b)|\*\*.*\*\*")
"""A power that is no small number, or a tower of them: a few letters would compute for ever."""

_Owner = onnx.GraphProto | onnx.FunctionProto
_Key = tuple[str, str]


def check_limits(proto: onnx.ModelProto, calls: dict[_Key, list[_Key]], source: str) -> None:
    """Check how much there is of everything, functions taken where they are called.

    Args:
        proto: the model; the nesting of its subgraphs and functions has been checked.
        calls: the functions that each function calls, as often as it does, callees first.
        source: the model's name, for messages.

    Raises:
        ModelRejectedError: there are too many nodes, a value has too many axes, or a symbolic size
            is no formula of sizes.
    """
    sizes: dict[_Key, int] = {}
    bodies = {(function.domain, function.name): function for function in proto.functions}
    for key, called in calls.items():
        sizes[key] = _num_nodes(bodies[key]) + sum(sizes[name] for name in called)
    total = _num_nodes(proto.graph) + sum(
        sizes.get((node.domain, node.op_type), 0) for node in _nodes(proto.graph, sizes)
    )
    if total > _MAX_NODES:
        raise ModelRejectedError(
            f"{source}: {total:.3g} operations, functions expanded; at most {_MAX_NODES} are read"
        )
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        _check_sizes(value, source)


def _num_nodes(owner: _Owner) -> int:
    """Operations of a graph or function, those of subgraphs too; not every one is looked at."""
    if len(owner.node) > _MAX_NODES:
        return len(owner.node)
    inner = (graph for node in owner.node for graph in _subgraphs(node))
    return len(owner.node) + sum(_num_nodes(graph) for graph in inner)


def _nodes(owner: _Owner, functions: dict[_Key, int]) -> Iterator[onnx.NodeProto]:
    """All operations, if they can be calls at all."""
    if not functions or len(owner.node) > _MAX_NODES:
        return
    for node in owner.node:
        yield node
        for graph in _subgraphs(node):
            yield from _nodes(graph, functions)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _check_sizes(value: onnx.ValueInfoProto, source: str) -> None:
    shape = value.type.tensor_type.shape
    if len(shape.dim) > _MAX_AXES:
        raise ModelRejectedError(
            f"{source}: {value.name!r} has {len(shape.dim)} axes; at most {_MAX_AXES} are read"
        )
    for dim in shape.dim:
        name = dim.dim_param
        if not isinstance(name, str) or len(name) > _MAX_SIZE_LETTERS or _POWER.search(name):
            raise ModelRejectedError(
                f"{source}: {value.name!r} has the size {name[:40]!r}, which is no formula of sizes"
            )
