"""The rules a module keeps between passes, checked; a breach names the op in text form."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx.defs
import onnx_ir as ir

from .dialect import DOMAIN, dialect_op
from .errors import ModelRejectedError
from .module import Module
from .text import node_text


def verify(module: Module) -> None:
    """Check that the module is well formed.

    Raises:
        ModelRejectedError: lists every breach found, each with its op in text form.
    """
    breaches = list(find_breaches(module))
    if breaches:
        raise ModelRejectedError(
            f"{module.source}: the graph breaks {len(breaches)} rule(s):\n" + "\n".join(breaches)
        )


def find_breaches(module: Module) -> Iterator[str]:
    """All breaches, a line each."""
    graph = module.graph
    available: set[ir.Value] = set(graph.inputs) | set(graph.initializers.values())
    yield from _check_nodes(graph, available, module)
    for value in graph.outputs:
        if value not in available:
            yield f"graph output {value.name!r}: nothing computes it"
    names = [value.name for value in graph.outputs]
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        yield f"graph output {name!r}: the name is used twice"


def _check_nodes(graph: ir.Graph, available: set[ir.Value], module: Module) -> Iterator[str]:
    for node in graph:
        for position, value in enumerate(node.inputs):
            if value is not None and value not in available:
                yield (
                    f"input {position} ({value.name!r}) is used before it is computed, in\n"
                    f"    {node_text(node)}"
                )
        yield from _check_arity(node, module)
        for attribute in node.attributes.values():
            for subgraph in _subgraphs(attribute):
                inside = available | set(subgraph.inputs) | set(subgraph.initializers.values())
                yield from _check_nodes(subgraph, inside, module)
        available.update(node.outputs)


def _subgraphs(attribute: ir.Attr) -> tuple[ir.Graph, ...]:
    if attribute.type is ir.AttributeType.GRAPH:
        return (attribute.as_graph(),)
    if attribute.type is ir.AttributeType.GRAPHS:
        return tuple(attribute.as_graphs())
    return ()


def _check_arity(node: ir.Node, module: Module) -> Iterator[str]:
    if node.domain == DOMAIN:
        yield from _check_dialect(node)
        return
    if node.domain != "" or not onnx.defs.has(node.op_type):
        return  # foreign operators pass through untouched
    try:
        schema = onnx.defs.get_schema(node.op_type, module.opset, "")
    except onnx.defs.SchemaError:
        return
    given = len(node.inputs)
    if not schema.min_input <= given <= schema.max_input:
        yield (
            f"expected {schema.min_input} to {schema.max_input} inputs, got {given}, in\n"
            f"    {node_text(node)}"
        )


def _check_dialect(node: ir.Node) -> Iterator[str]:
    op = dialect_op(node.op_type)
    if op is None:
        yield f"the dialect has no operator {node.op_type!r}, in\n    {node_text(node)}"
        return
    fewest, most = op.num_inputs
    if not fewest <= len(node.inputs) <= most:
        given = len(node.inputs)
        yield f"expected {fewest} to {most} inputs, got {given}, in\n    {node_text(node)}"
    for name in op.attributes:
        if name not in node.attributes:
            yield f"attribute {name!r} is missing, in\n    {node_text(node)}"
