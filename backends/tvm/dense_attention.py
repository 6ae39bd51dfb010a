"""Dense attention without a mask, seen as packed attention over sequences of one length.

A GPU's fused kernel for packed sequences then serves it too: no matrix of scores in memory.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from dechaff.ir import DOMAIN, Module, constant_value, static_dim
from dechaff.passes import GraphBuilder, Rewriter

from .emission import attribute

_SWAP = {"perm": [0, 2, 1, 3]}


def pack_dense_attention(module: Module) -> None:
    """Replace each ``Attention`` without mask, past and cap by ``VarlenAttention``, in place.

    A mask that is true everywhere counts as none.

    Before::

        before (float[B,4,S,16] q, float[B,4,S,16] k, float[B,4,S,16] v) => (float[B,4,S,16] y)
        {
            y = Attention (q, k, v)
        }

    Afterwards ``q``, ``k`` and ``v`` are [B * S, 64], the offsets are multiples of ``S``, every
    token is a key, and the result takes its four axes again.
    """
    rewriter = Rewriter(module)
    for node in list(module.graph):
        if node.op_type == "Attention" and node.domain == "" and _is_plain(node):
            _pack(node, rewriter)
    common_passes.CommonSubexpressionEliminationPass()(module.model)
    common_passes.RemoveUnusedNodesPass()(module.model)


def _is_plain(node: ir.Node) -> bool:
    mask, *others = [*node.inputs[3:], None]
    if (
        not _reaches_every_key(mask, node.inputs[1])
        or not _hides_nothing(mask)
        or any(value is not None for value in others)
    ):
        return False
    if attribute(node, "softcap", 0.0):
        return False
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return False
    sizes = [_sizes(node, index) for index in range(3)]
    if any(size is None for size in sizes):
        return False
    q, k = node.inputs[0], node.inputs[1]
    if static_dim(_sequence(q)) == 1 and static_dim(_sequence(k)) != 1:
        return False  # a decode step, which has kernels of its own
    causal = attribute(node, "is_causal", 0)
    return not causal or _sequence(q) == _sequence(k)


def _reaches_every_key(mask: ir.Value | None, k: ir.Value | None) -> bool:
    """Whether a mask, if any, is as long as the keys: a shorter one hides the rest."""
    if mask is None:
        return True
    if mask.shape is None or not len(mask.shape):
        return False
    return mask.shape[-1] == 1 or mask.shape[-1] == _sequence(k)


def _hides_nothing(mask: ir.Value | None) -> bool:
    """Whether a mask is true everywhere; exporters make such of sequences without padding."""
    if mask is None:
        return True
    maker = mask.producer()
    if maker is not None and (maker.domain, maker.op_type) == ("", "Expand"):
        return _hides_nothing(maker.inputs[0])
    known = constant_value(mask)
    return known is not None and known.dtype is ir.DataType.BOOL and bool(known.numpy().all())


def _sizes(node: ir.Node, index: int) -> tuple[int, int] | None:
    """Heads and size of a head of an operand, if both are known."""
    value = node.inputs[index]
    if value is None or value.shape is None:
        return None
    if len(value.shape) == 4:
        heads, size = static_dim(value.shape[1]), static_dim(value.shape[3])
    else:
        heads = attribute(node, "q_num_heads" if index == 0 else "kv_num_heads", None)
        width = static_dim(value.shape[2])
        size = width // heads if heads and width is not None else None
    return None if heads is None or size is None else (heads, size)


def _sequence(value: ir.Value | None) -> int | ir.SymbolicDim:
    assert value is not None
    assert value.shape is not None
    return value.shape[2 if len(value.shape) == 4 else 1]


def _pack(node: ir.Node, rewriter: Rewriter) -> None:
    q, k, v = node.inputs[:3]
    heads, size = _sizes(node, 0) or (1, 1)
    kv_heads, _ = _sizes(node, 1) or (1, 1)
    _, v_size = _sizes(node, 2) or (1, 1)
    with rewriter.rewrite("pack-dense-attention", [node]) as builder:
        batch, q_length, k_length = _size(builder, q, 0), _length(builder, q), _length(builder, k)
        one = builder.constant(np.array([1], np.int64), "one")
        rows = _range(builder, builder.op("Add", [batch, one]))
        attributes = {
            "q_num_heads": heads,
            "kv_num_heads": kv_heads,
            "scale": float(attribute(node, "scale", None) or 1 / math.sqrt(size)),
            "is_causal": int(attribute(node, "is_causal", 0)),
        }
        operands = [
            _tokens(builder, q, heads * size),
            _tokens(builder, k, kv_heads * size),
            _tokens(builder, v, kv_heads * v_size),
            builder.op("Mul", [rows, q_length]),
            _range(builder, builder.op("Mul", [batch, k_length])),
            builder.op("Mul", [rows, k_length]),
        ]
        context = builder.op("VarlenAttention", operands, attributes, domain=DOMAIN)
        tail = [heads, v_size] if _has_heads(q) else [heads * v_size]
        shape = [batch, q_length, builder.constant(np.array(tail, np.int64), "tail")]
        padded = builder.op("Reshape", [context, builder.op("Concat", shape, {"axis": 0})])
        result = builder.op("Transpose", [padded], _SWAP) if _has_heads(q) else padded
        builder.replace(node.outputs[0], result)


def _has_heads(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and len(value.shape) == 4


def _size(builder: GraphBuilder, value: ir.Value | None, axis: int) -> ir.Value:
    return builder.op("Shape", [value], {"start": axis, "end": axis + 1})


def _length(builder: GraphBuilder, value: ir.Value | None) -> ir.Value:
    return _size(builder, value, 2 if _has_heads(value) else 1)


def _range(builder: GraphBuilder, count: ir.Value) -> ir.Value:
    """``0 .. count - 1``, where count is int64[1]."""
    zero = builder.constant(np.array(0, np.int64), "zero")
    step = builder.constant(np.array(1, np.int64), "step")
    return builder.op("Range", [zero, builder.op("Squeeze", [count]), step])


def _tokens(builder: GraphBuilder, value: ir.Value | None, width: int) -> ir.Value:
    """[B, H, S, d] or [B, S, H * d] as [B * S, H * d]."""
    assert value is not None
    if _has_heads(value):
        value = _unswapped(value) or builder.op("Transpose", [value], _SWAP)
    target = builder.constant(np.array([-1, width], np.int64), "tokens")
    return builder.op("Reshape", [value, target])


def _unswapped(value: ir.Value) -> ir.Value | None:
    """What a value was before its sequence and its heads changed places, if that is so."""
    node = value.producer()
    if node is None or node.op_type != "Transpose" or node.domain != "":
        return None
    return node.inputs[0] if list(attribute(node, "perm", ())) == _SWAP["perm"] else None
