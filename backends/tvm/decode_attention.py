"""Attention of one new query per sequence, by the kernels that split the work over the keys."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from tvm import relax, te, tirx

from .emission import Emission, Expr, attribute
from .kernels.decode_attention import decode_attention
from .kernels.decode_work import DecodeAttentionShape
from .scheduled_calls import call_scheduled, is_half

_MULTIPROCESSORS = {"sm_80": 108, "sm_86": 84, "sm_89": 128, "sm_90": 132}
"""Of the largest GPU of each architecture; twice as many thread blocks share the work."""


def provide_decode_attention(emission: Emission, node: ir.Node) -> list[Expr] | None:
    """``Attention`` with one query per sequence, on keys and values of four axes.

    Declined for several queries, for masks that are added or that differ between heads, for a past
    that is an operand of its own, and where the kernels do not serve the sizes.
    """
    inputs = [*node.inputs, None, None, None, None][:7]
    q, k, v = (emission.tensor(value) for value in inputs[:3])
    shape = _kernel_shape(emission, node, q, k, v)
    asks_more = any(output.uses() or output.is_graph_output() for output in node.outputs[1:])
    if shape is None or asks_more or any(value is not None for value in inputs[4:]):
        return None
    batch, longest = emission.shape(q)[0], emission.shape(k)[2]
    allowed = _allowed(emission, inputs[3], batch, longest)
    if allowed is None:
        return None
    tokens = emission.sizes.simplify(batch)
    k = emission.match(k, [tokens, *emission.shape(k)[1:]])
    v = emission.match(v, [tokens, emission.shape(v)[1], longest, emission.shape(v)[3]])
    width = tirx.IntImm("int64", shape.num_heads * shape.head_size)
    rows = emission.emit(relax.op.reshape(q, [batch, width]))
    lengths = _lengths(emission, inputs[3], allowed)
    attend, combine = decode_attention(shape)
    context = ((batch, width), shape.dtype)
    partial = ((shape.partial_rows, shape.head_size + 2), "float32")
    args = [rows, k, v, lengths, allowed]
    parts = call_scheduled(emission, attend, "decode_attention", args, [context, partial])
    whole, rest = (emission.emit(relax.TupleGetItem(parts, place)) for place in range(2))
    joined = call_scheduled(
        emission, combine, "combine_attention", [lengths, whole, rest], [context], sizes=[longest]
    )
    return [emission.emit(relax.op.reshape(joined, emission.shape(q)))]


def _kernel_shape(
    emission: Emission, node: ir.Node, q: Expr, k: Expr, v: Expr
) -> DecodeAttentionShape | None:
    """What the kernels are made for, or None if they do not serve the operands."""
    sizes = [emission.shape(item) for item in (q, k, v)]
    if any(len(item) != 4 for item in sizes) or not is_half(emission, q):
        return None
    fixed = [*sizes[0][1:], sizes[1][1], sizes[1][3], sizes[2][3]]
    if not all(isinstance(size, tirx.IntImm) for size in fixed):
        return None
    heads, queries, size, kv_heads, key_size, value_size = (int(item) for item in fixed)
    # Without a past, a causal mask leaves the one query the first key.
    if queries != 1 or attribute(node, "is_causal", 0) or attribute(node, "softcap", 0.0):
        return None
    if size % 16 or size > 256 or heads > 16 * kv_heads or {key_size, value_size} != {size}:
        return None
    if int(emission.arch.removeprefix("sm_")) < 80:
        return None
    return DecodeAttentionShape(
        heads,
        kv_heads,
        size,
        emission.dtype(q),
        scale=attribute(node, "scale", None) or 1 / math.sqrt(size),
        blocks=2 * _MULTIPROCESSORS.get(emission.arch, 132),
    )


def _allowed(emission: Emission, mask: ir.Value | None, batch: Any, longest: Any) -> Expr | None:
    """The mask as bool[B, S], shared by all layers; None if it is of another kind."""
    key = ("allowed keys", mask, str(batch), str(longest))
    if key in emission.shared:
        return emission.shared[key]
    if mask is None:
        allowed = emission.emit(relax.op.ones([batch, longest], "bool"))
    else:
        given = emission.tensor(mask)
        shape = emission.shape(given)
        if emission.dtype(given) != "bool" or any(not _is_one(size) for size in shape[-3:-1]):
            return None
        if _is_one(shape[-1]) and not _is_one(longest):
            return None
        first = shape[0] if len(shape) == 4 else tirx.IntImm("int64", 1)
        flat = emission.emit(relax.op.reshape(given, [first, shape[-1]]))
        if not _is_one(first):
            flat = emission.match(flat, [batch, shape[-1]])
        flat = emission.match(flat, [emission.shape(flat)[0], longest])
        allowed = emission.emit(relax.op.broadcast_to(flat, [batch, longest]))
    emission.shared[key] = allowed
    return allowed


def _is_one(size: Any) -> bool:
    return isinstance(size, tirx.IntImm) and int(size) == 1


def _lengths(emission: Emission, mask: ir.Value | None, allowed: Expr) -> Expr:
    """int64[B]: one more than the last allowed key, so that padding behind it is not read."""
    key = ("lengths of caches", mask, str(emission.shape(allowed)))
    if key not in emission.shared:

        def compute(given: Any) -> Any:
            batch, longest = given.shape
            place = te.reduce_axis((0, longest), name="place")
            return te.compute(
                (batch,),
                lambda row: te.max(
                    tirx.if_then_else(given(row, place), place + 1, tirx.IntImm("int64", 0)),
                    axis=place,
                ),
                name="lengths",
            )

        emission.shared[key] = emission.emit_te(compute, allowed, name="cache_lengths")
    return emission.shared[key]
