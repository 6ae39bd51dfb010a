"""Sizes that packed values have."""

from __future__ import annotations

import onnx_ir as ir

from dechaff.ir import Module, static_dim
from dechaff.ir.packing_ops import packed_sizes, tokens_symbol
from dechaff.passes.matching import integer_attribute


def unused_size(module: Module) -> str:
    """A name for the number of packed tokens: the runtime takes sizes of one name for equal."""
    used = {tokens_symbol(n.attributes).name for n in module.graph if n.op_type == "TokenLayout"}
    for value in module.graph.inputs:
        used |= {str(dim.value) for dim in value.shape or () if isinstance(dim, ir.SymbolicDim)}
    return next(name for name in packed_sizes(len(used) + 1) if name not in used)


def last_size(value: ir.Value) -> int:
    """The size of the last axis; -1, to be worked out at run time, where it is not known."""
    size = static_dim(value.shape[-1]) if value.shape is not None else None
    return size or -1


def head_sizes(node: ir.Node) -> tuple[int, int, int]:
    """Query heads, key/value heads and head size of an ``Attention``."""
    query, key = node.inputs[0], node.inputs[1]
    sizes = [static_dim(dim) or 0 for dim in query.shape] if query and query.shape else []
    if len(sizes) == 4:
        kv_heads = static_dim(key.shape[1]) if key is not None and key.shape else None
        return sizes[1], kv_heads or sizes[1], sizes[3]
    heads = integer_attribute(node, "q_num_heads", 1)
    return heads, integer_attribute(node, "kv_num_heads", heads), sizes[-1] // heads
