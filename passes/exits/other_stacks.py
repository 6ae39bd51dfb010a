"""What a stack reads of others: a decoder reads the encoders' last states in every layer."""

from __future__ import annotations

import onnx_ir as ir

from dechaff.ir import DOMAIN, node_text
from dechaff.passes.matching import is_op, is_packed_attention, values_read

from .row_flow import RowFlow, TokenLayout
from .stacks import Stack


def gather_from_other_stacks(flow: RowFlow, graph: ir.Graph, stack: Stack) -> str | None:
    """Mark what a stack reads of others: its parts for some rows are picked, not computed anew.

    Others are all attentions beside the stack, and branches: what was a stack may have exits by
    now. A value that one operator reads, such as the keys of one layer, is computed from the parts
    of what it is made of; one that more read is picked itself.

    Returns:
        Why that cannot be done, or None.
    """
    own = flow.behind(stack.attentions[0].outputs[0])
    layouts = _layouts(graph)
    for value in _computed_beside(graph, own):
        node = value.producer()
        if node is None or flow.is_free(value) or _counts_tokens(node):
            continue
        if not is_costly(node) and len(list(value.uses())) < 2:
            continue
        layout = layouts.get(_first_size(value))
        if flow.batch_axis(value) == 0:
            flow.gathered[value] = None
        elif layout is not None:
            flow.gathered[value] = layout
        elif is_costly(node) and _is_read_by(value, own):
            return f"rows of what it reads cannot be told apart: {node_text(node)}"
    return None


def _computed_beside(graph: ir.Graph, own: set[ir.Value]) -> list[ir.Value]:
    """What is computed from other attentions, and not from the stack's own, in order."""
    found: dict[ir.Value, None] = {}
    for node in graph:
        if node.outputs[0] in own:
            continue
        if is_costly(node) or any(value in found for value in values_read(node)):
            found.update(dict.fromkeys(node.outputs))
    return list(found)


def is_costly(node: ir.Node) -> bool:
    """Whether a node must not run once more for some rows: attention, and what has branches."""
    has_branches = any(a.type is ir.AttributeType.GRAPH for a in node.attributes.values())
    return has_branches or is_op(node, "Attention") or is_packed_attention(node)


def _counts_tokens(node: ir.Node) -> bool:
    """Whether it tells where tokens lie: some rows' tokens are counted anew, from their mask."""
    return (node.domain, node.op_type) == (DOMAIN, "TokenLayout")


def _is_read_by(value: ir.Value, own: set[ir.Value]) -> bool:
    return any(result in own for user, _ in value.uses() for result in user.outputs)


def _layouts(graph: ir.Graph) -> dict[str, TokenLayout]:
    """Where packed tokens lie, by the name of their number."""
    return {
        _first_size(node.outputs[0]): (node.outputs[0], node.inputs[0])
        for node in graph
        if _counts_tokens(node) and node.inputs[0] is not None
    }


def _first_size(value: ir.Value) -> str:
    return str(value.shape[0]) if value.shape else ""
