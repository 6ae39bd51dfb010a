"""What a model reads of a stack's last state: all of it, or one token of each row."""

from __future__ import annotations

import onnx_ir as ir

from dechaff.ir import Module
from dechaff.passes.matching import ancestors
from dechaff.passes.position_selection import selections

from .other_stacks import is_costly
from .row_flow import RowFlow


def what_is_read(state: ir.Value, module: Module, flow: RowFlow) -> ir.Value:
    """The selection of a position through which alone the state is read; the state if none is.

    A position that is selected behind further attentions, as of a decoder's that reads the state of
    an encoder, is no part of the stack.

    Args:
        state: the state after a stack's last layer.
        module: the module.
        flow: of rows through it.

    Returns:
        float[B, D] or float[B, 1, D], the result of the selection, or ``state``.
    """
    behind = flow.behind(state)
    for selection in selections(module):
        if selection.source not in behind or selection.node.graph is not module.graph:
            continue
        computing = {*ancestors(selection.source), selection.node}
        picked = selection.node.outputs[0]
        through = {state, *(v for v in behind if v.producer() in computing)} - {picked}
        nodes = {use.node for value in through for use in value.uses()}
        read_elsewhere = any(value.is_graph_output() for value in through) or nodes - computing
        mixed = any(is_costly(node) or flow.mixes_rows(node) for node in nodes)
        if not read_elsewhere and not mixed and flow.batch_axis(picked) == 0:
            return picked
    return state
