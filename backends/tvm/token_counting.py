"""How many tokens a batch keeps, as a function of its own.

A packed model has tensors of ``T`` rows, and ``T`` is data. Read in the middle of a run it stops
the host until the GPU has come that far, and nothing that stops can be a CUDA graph. For a GPU
the count is therefore a second, short function. Its result, rounded up so that few sizes occur, is
told to ``main``, which then runs without a look at the data. Rows beyond the last token hold the
batch's first token, belong to no sequence, and are dropped where the result is unpacked.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from tvm import relax

from dechaff.ir import Module

from .emission import Emission

COUNT_TOKENS = "count_tokens"
"""The function's name: it takes the graph inputs, and gives an int64 scalar."""

ROOM_STEP = 64
"""Room for tokens is made in multiples of this."""


def room_for(tokens: int) -> int:
    """How many rows ``main`` is told to make room for; at least one step."""
    return max(-(-tokens // ROOM_STEP), 1) * ROOM_STEP


def counted_layout(module: Module) -> ir.Node | None:
    """The ``TokenLayout`` of a module that has exactly one, else None."""
    layouts = [node for node in module.graph if node.op_type == "TokenLayout"]
    return layouts[0] if len(layouts) == 1 else None


def emit_token_count(
    emission: Emission,
    module: Module,
    layout: ir.Node,
    emit_node: Callable[[Emission, ir.Node], bool],
) -> None:
    """Add the function, with the operators that the layout's mask is computed by."""
    mask_name = layout.inputs[0].name if layout.inputs[0] is not None else ""
    part = module.clone()
    values = [*part.graph.inputs, *(v for node in part.graph for v in node.outputs)]
    mask = next(value for value in values if value.name == mask_name)
    part.graph.outputs.clear()
    part.graph.outputs.append(mask)
    common_passes.RemoveUnusedNodesPass()(part.model)
    counting = Emission(part, emission.target, emission.arch, builder=emission.builder)
    parameters = [counting.parameter(value) for value in part.graph.inputs]
    with counting.builder.function(COUNT_TOKENS, parameters):
        with counting.builder.dataflow():
            for node in part.graph:
                emit_node(counting, node)
            kept = counting.emit(relax.op.astype(counting.tensor(mask), "int64"))
            output = counting.builder.emit_output(relax.op.sum(kept))
        counting.builder.emit_func_output(output)
