"""How many tokens a batch keeps, as a function of its own.

A packed model has tensors of ``T`` rows, and ``T`` is data. Read in the middle of a run it stops
the host until the GPU has come that far, and nothing that stops can be a CUDA graph. For a GPU
the counts (one for each layout of tokens) are therefore a second, short function. Its results,
rounded up so that few sizes occur, are told to ``main``, which then runs without a look at the
data. Rows beyond the last token hold the
batch's first token, belong to no sequence, and are dropped where the result is unpacked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from tvm import relax

from dechaff.ir import Module

from .emission import Emission, Expr

COUNT_TOKENS = "count_tokens"
"""The function's name: it takes the graph inputs, and gives int64[layouts]."""

ROOM_STEP = 64
"""Room for tokens is made in multiples of this."""


def room_for(tokens: int) -> int:
    """How many rows ``main`` is told to make room for; at least one step."""
    return max(-(-int(tokens) // ROOM_STEP), 1) * ROOM_STEP


def counted_layouts(module: Module) -> list[ir.Node]:
    """The module's ``TokenLayout``s, if all of their masks are known before any token is packed."""
    layouts = [node for node in module.graph if node.op_type == "TokenLayout"]
    known = all(not _depends_on(layout.inputs[0], "TokenLayout") for layout in layouts)
    return layouts if known else []


def token_bounds(emission: Emission, layouts: Sequence[ir.Node]) -> dict[str, int]:
    """The most rows that are made room for, by size, where batch and sequence are numbers.

    TVM plans memory beforehand for sizes with a bound, and lets tensors share it.
    """
    bounds = {}
    for layout in layouts:
        mask = layout.inputs[0]
        dims = () if mask is None or mask.shape is None else tuple(mask.shape)
        sizes = [dim for dim in dims if isinstance(dim, int)]
        if dims and len(sizes) == len(dims):
            (tokens,) = emission.output_shape(layout)
            bounds[tokens.name] = room_for(math.prod(sizes))
    return bounds


def _depends_on(value: ir.Value | None, op_type: str) -> bool:
    waiting, seen = [value], set()
    while waiting:
        current = waiting.pop()
        node = None if current is None else current.producer()
        if node is None or node in seen:
            continue
        if node.op_type == op_type:
            return True
        seen.add(node)
        waiting += node.inputs
    return False


def emit_token_counts(
    emission: Emission,
    module: Module,
    layouts: Sequence[ir.Node],
    emit_node: Callable[[Emission, ir.Node], bool],
) -> None:
    """Add the function, with the operators that the layouts' masks are computed by."""
    names = [layout.inputs[0].name if layout.inputs[0] is not None else "" for layout in layouts]
    part = module.clone()
    values = [*part.graph.inputs, *(v for node in part.graph for v in node.outputs)]
    by_name = {value.name: value for value in values}
    masks = [by_name[name] for name in names]
    part.graph.outputs.clear()
    part.graph.outputs.extend(dict.fromkeys(masks))
    common_passes.RemoveUnusedNodesPass()(part.model)
    counting = Emission(part, emission.target, emission.arch, builder=emission.builder)
    parameters = [counting.parameter(value) for value in part.graph.inputs]
    with counting.builder.function(COUNT_TOKENS, parameters):
        with counting.builder.dataflow():
            for node in part.graph:
                emit_node(counting, node)
            counts = [_count(counting, mask) for mask in masks]
            output = counting.builder.emit_output(relax.op.concat(counts, 0))
        counting.builder.emit_func_output(output)


def _count(counting: Emission, mask: ir.Value) -> Expr:
    """int64[1]: how many elements are true."""
    kept = counting.emit(relax.op.astype(counting.tensor(mask), "int64"))
    total = counting.emit(relax.op.sum(kept))
    return counting.emit(relax.op.reshape(total, [1]))
