"""Lowering of an ``Attention`` with soft-capped scores to primitive operators.

ONNX Runtime's kernel computes ``softcap * tanh(scores / softcap)`` element by element: measured on
one core, with a cap it takes 2.2 to 7.6 times as long as without (heads of 16 to 128, 88 to 256
tokens), primitive operators, whose ``Tanh`` is vectorized, 1.03 to 1.26 times.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from dechaff.passes import Rewriter
from dechaff.passes.matching import float_attribute, integer_attribute, rank
from dechaff.passes.rewriter import GraphBuilder

_RULE = "spell-out-softcap"
_READ = frozenset({"kv_num_heads", "q_num_heads", "scale", "softcap"})
"""Attributes that the primitive operators keep; under others the node stays."""
_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
_HEADS_BEFORE_TOKENS = (0, 2, 1, 3)
_KEYS_TRANSPOSED = (0, 1, 3, 2)


def lower_softcapped_attention(node: ir.Node, rewriter: Rewriter) -> bool:
    """Replace an attention with a cap, without past keys; others stay as they are."""
    softcap, sizes = float_attribute(node, "softcap"), _head_sizes(node)
    query, key, value = node.inputs[:3]
    if not softcap or sizes is None or not _is_plain(node):
        return False
    if query is None or key is None or value is None or query.dtype not in _TYPES:
        return False
    dtype = query.dtype.numpy()
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    query_heads, key_heads, size = sizes
    scale = float_attribute(node, "scale") or size**-0.5
    with rewriter.rewrite(_RULE, [node]) as builder:
        q = _apart(builder, query, query_heads)
        k = _for_each_query(builder, _apart(builder, key, key_heads), query_heads // key_heads)
        v = _for_each_query(builder, _apart(builder, value, key_heads), query_heads // key_heads)
        small = builder.op("Mul", [q, builder.constant(np.array(scale / softcap, dtype))])
        transposed = builder.op("Transpose", [k], {"perm": _KEYS_TRANSPOSED})
        bent = builder.op("Tanh", [builder.op("MatMul", [small, transposed])])
        scores = builder.op("Mul", [bent, builder.constant(np.array(softcap, dtype))])
        probabilities = _probabilities(builder, scores, mask, dtype)
        context = builder.op("MatMul", [probabilities, v])
        if rank(query) == 3:
            tokens = builder.op("Transpose", [context], {"perm": _HEADS_BEFORE_TOKENS})
            context = builder.op("Reshape", [tokens, builder.constant(np.array([0, 0, -1]))])
        builder.replace(node.outputs[0], context)
    return True


def _is_plain(node: ir.Node) -> bool:
    others = [value for value in node.inputs[4:] if value is not None]
    read = any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
    more = {n for n, given in node.attributes.items() if n not in _READ and given.value != 0}
    return not (others or read or more)


def _head_sizes(node: ir.Node) -> tuple[int, int, int] | None:
    """Heads of queries, heads of keys, and the size of a query's head; None if not known."""
    query, key = node.inputs[:2]
    if query is None or key is None or query.shape is None or key.shape is None:
        return None
    if len(query.shape) == 4:
        known = query.shape[1], key.shape[1], query.shape[3]
    else:
        query_heads = integer_attribute(node, "q_num_heads", 0)
        key_heads, width = integer_attribute(node, "kv_num_heads", 0), query.shape[2]
        if not query_heads or not isinstance(width, int):
            return None
        known = query_heads, key_heads, width // query_heads
    found = tuple(size for size in known if isinstance(size, int) and size > 0)
    return (found[0], found[1], found[2]) if len(found) == 3 else None


def _apart(builder: GraphBuilder, value: ir.Value, heads: int) -> ir.Value:
    """``[B, S, N * H]`` as ``[B, N, S, H]``; what has four axes already stays."""
    if rank(value) == 4:
        return value
    split = builder.op("Reshape", [value, builder.constant(np.array([0, 0, heads, -1]))])
    return builder.op("Transpose", [split], {"perm": _HEADS_BEFORE_TOKENS})


def _for_each_query(builder: GraphBuilder, value: ir.Value, times: int) -> ir.Value:
    """Each head of keys or values as often as queries share it: ``[B, N * times, S, H]``."""
    if times == 1:
        return value
    one_more = builder.op("Unsqueeze", [value, builder.constant(np.array([2]))])
    repeats = builder.constant(np.array([1, 1, times, 1, 1]))
    repeated = builder.op("Expand", [one_more, repeats])
    sizes = builder.op("Shape", [value])
    factors = builder.constant(np.array([1, times, 1, 1]))
    return builder.op("Reshape", [repeated, builder.op("Mul", [sizes, factors])])


def _probabilities(
    builder: GraphBuilder, scores: ir.Value, mask: ir.Value | None, dtype: np.dtype[Any]
) -> ir.Value:
    if mask is not None and mask.dtype is not ir.DataType.BOOL:
        scores = builder.op("Add", [scores, mask])
    if mask is None or mask.dtype is not ir.DataType.BOOL:
        return builder.op("Softmax", [scores], {"axis": -1})
    least, nothing = (builder.constant(np.array(x, dtype)) for x in (np.finfo(dtype).min, 0))
    hidden = builder.op("Where", [mask, scores, least])
    probabilities = builder.op("Softmax", [hidden], {"axis": -1})
    # As in the runtime's kernel, a query that sees no key gets zeros, not the mean of all values.
    return builder.op("Where", [mask, probabilities, nothing])
