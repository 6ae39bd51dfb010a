"""What a stack reads of another one: a decoder reads the encoder's last state in every layer."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from dechaff.ir import node_text
from dechaff.passes.matching import is_op, is_packed_attention

from .row_flow import RowFlow, TokenLayout
from .stacks import Stack


def gather_from_other_stacks(
    flow: RowFlow, graph: ir.Graph, stack: Stack, others: Sequence[Stack]
) -> str | None:
    """Mark what a stack reads of others: its parts for some rows are picked, not computed anew.

    A value that one operator reads, such as the keys of one layer, is computed from the parts of
    what it is made of; one that more read is picked itself.

    Returns:
        Why that cannot be done, or None.
    """
    own = flow.behind(stack.attentions[0].outputs[0])
    for other in others:
        layout = _layout(other)
        for value in flow.behind(other.attentions[0].outputs[0]) - own:
            node = value.producer()
            if node is None or flow.is_free(value):
                continue
            attends = is_op(node, "Attention") or is_packed_attention(node)
            if not attends and len(list(value.uses())) < 2:
                continue
            padded = flow.batch_axis(value) == 0
            if not padded and layout is None and _is_read_by(value, own):
                return f"rows of what it reads cannot be told apart: {node_text(node)}"
            flow.gathered[value] = None if padded else layout
    return None


def _is_read_by(value: ir.Value, own: set[ir.Value]) -> bool:
    return any(result in own for user, _ in value.uses() for result in user.outputs)


def _layout(stack: Stack) -> TokenLayout | None:
    """Where the tokens of a packed stack lie."""
    starts = stack.attentions[0].inputs[3] if stack.packed else None
    node = None if starts is None else starts.producer()
    if node is None or node.inputs[0] is None:
        return None
    return node.outputs[0], node.inputs[0]
