"""Attention: packed by the kernels of ``varlen_kernels``, dense by two products and a softmax."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import onnx_ir as ir
from tvm import relax, te, tirx

from .emission import Emission, Expr, LoweringError, attribute
from .product_emitters import product
from .varlen_kernels import varlen_attention


def emit_varlen_attention(emission: Emission, node: ir.Node) -> Expr:
    """``VarlenAttention``."""
    q, k, v, *layout = emission.tensors(node)
    q_heads, kv_heads = attribute(node, "q_num_heads", 1), attribute(node, "kv_num_heads", 1)
    size = int(emission.shape(q)[1]) // q_heads
    v_size = int(emission.shape(v)[1]) // kv_heads
    tokens = emission.shape(k)[0]
    v = emission.match(v, [tokens, emission.shape(v)[1]])
    bounds = emission.shape(layout[0])
    layout[2] = emission.match(layout[2], bounds)
    kernel = varlen_attention(
        emission.dtype(q),
        q_heads,
        kv_heads,
        size,
        v_size,
        attribute(node, "scale", 1 / math.sqrt(size)),
        bool(attribute(node, "is_causal", 0)),
    )
    output = ((emission.shape(q)[0], q_heads * v_size), emission.dtype(q))
    return emission.call_kernel(kernel, "varlen_attention", [q, k, v, *layout], [output])


def emit_attention(emission: Emission, node: ir.Node) -> list[Expr]:
    """``Attention``: scores in float32, one masked softmax, context; a hidden row gives zero."""
    inputs = [*node.inputs, None, None, None, None][:7]
    flat = len(emission.shape(emission.tensor(inputs[0]))) == 3
    q, k, v = (
        _heads(emission, emission.tensor(value), attribute(node, heads, None))
        for value, heads in zip(
            inputs, ("q_num_heads", "kv_num_heads", "kv_num_heads"), strict=False
        )
    )
    if len(node.outputs) > 3 and node.outputs[3].uses():
        raise LoweringError("the matrix of scores is not given as an output")
    past = emission.tensor(inputs[4]) if inputs[4] is not None else None
    if past is not None:
        k = _joined(emission, past, k)
        v = _joined(emission, emission.tensor(inputs[5]), v)
    offset = 0 if past is None else emission.shape(past)[2]
    v = emission.match(v, [*emission.shape(k)[:3], emission.shape(v)[3]])
    weights = _weights(emission, node, q, k, inputs, offset)
    context = _context(emission, weights, v)
    if flat:
        batch, heads, queries, size = emission.shape(context)
        swapped = emission.emit(relax.op.permute_dims(context, [0, 2, 1, 3]))
        context = emission.emit(relax.op.reshape(swapped, [batch, queries, heads * size]))
    return [context, k, v][: len(node.outputs)]


def _heads(emission: Emission, x: Expr, heads: int | None) -> Expr:
    """[B, S, H * d] as [B, H, S, d]; four axes are that already."""
    if len(emission.shape(x)) == 4:
        return x
    batch, sequence, width = emission.shape(x)
    if heads is None or not isinstance(width, tirx.IntImm):
        raise LoweringError("the number of heads, or the width, is not known")
    split = emission.emit(relax.op.reshape(x, [batch, sequence, heads, int(width) // heads]))
    return emission.emit(relax.op.permute_dims(split, [0, 2, 1, 3]))


def _joined(emission: Emission, past: Expr, new: Expr) -> Expr:
    """Past keys or values before the new ones."""
    shape = emission.shape(new)
    past = emission.match(past, [*shape[:2], emission.shape(past)[2], shape[3]])
    return emission.emit(relax.op.concat([past, new], 2))


def _grouped(emission: Emission, x: Expr, kv_heads: Any) -> Expr:
    """[B, H, S, d] as [B, Hkv, H / Hkv * S, d]: the queries that share a head of keys."""
    batch, heads, rows, width = emission.shape(x)
    if emission.sizes.equal(heads, kv_heads):
        return x
    group = int(heads) // int(kv_heads)
    return emission.emit(relax.op.reshape(x, [batch, kv_heads, group * rows, width]))


def _weights(
    emission: Emission,
    node: ir.Node,
    q: Expr,
    k: Expr,
    inputs: list[ir.Value | None],
    offset: Any,
) -> Expr:
    batch, heads, rows, size = emission.shape(q)
    kv_heads, columns = emission.shape(k)[1:3]
    k = emission.match(k, [batch, kv_heads, columns, size])
    swapped = emission.emit(relax.op.permute_dims(k, [0, 1, 3, 2]))
    grouped = _grouped(emission, q, kv_heads)
    wide = {"out_dtype": "float32"} if emission.dtype(q) != "float64" else {}
    scores = emission.emit(relax.op.matmul(grouped, swapped, **wide))
    scores = emission.emit(relax.op.reshape(scores, [batch, heads, rows, columns]))
    mask = None
    if inputs[3] is not None:
        mask = _aligned_mask(emission, emission.tensor(inputs[3]), [batch, heads, rows, columns])
    lengths = emission.tensor(inputs[6]) if inputs[6] is not None else None
    default = 1 / math.sqrt(int(size))
    given = [item for item in (mask, lengths) if item is not None]
    softmax = _MaskedSoftmax(
        scale=attribute(node, "scale", None) or default,
        softcap=attribute(node, "softcap", 0.0),
        causal=bool(attribute(node, "is_causal", 0)),
        has_mask=mask is not None,
        dtype=emission.dtype(q),
    )
    return emission.emit_te(softmax.compute, scores, given, offset, name="attention_weights")


def _aligned_mask(emission: Emission, mask: Expr, shape: list[Any]) -> Expr:
    """The mask with the sizes that the scores have, but for axes of size 1."""
    own = emission.shape(mask)
    wanted = shape[len(shape) - len(own) :]
    both_known = isinstance(own[-1], tirx.IntImm) and isinstance(wanted[-1], tirx.IntImm)
    if both_known and int(own[-1]) != int(wanted[-1]):
        wanted = [*wanted[:-1], own[-1]]  # shorter: what it does not reach is hidden
    kept = [
        size if isinstance(size, tirx.IntImm) and int(size) == 1 else asked
        for size, asked in zip(own, wanted, strict=True)
    ]
    return emission.match(mask, kept)


@dataclasses.dataclass(frozen=True)
class _MaskedSoftmax:
    """Softmax over the last axis of scaled scores [B, H, S, Sk] under a mask of any kind.

    A row without a score above the lowest number is hidden, and its weights are zero: exporters
    write that number where they mean minus infinity, and ONNX Runtime reads it so.
    """

    scale: float
    softcap: float
    causal: bool
    has_mask: bool
    dtype: str

    def compute(self, scores: Any, given: Any, offset: Any) -> Any:
        """The weights; ``given`` holds the mask and the lengths, where there are such."""
        batch, heads, rows, columns = scores.shape
        mask = given[0] if self.has_mask else None
        lengths = given[-1] if len(given) > int(self.has_mask) else None
        lowest = tirx.min_value(str(scores.dtype))

        def masked(b: Any, h: Any, i: Any, j: Any) -> Any:
            score = scores(b, h, i, j) * tirx.const(self.scale, scores.dtype)
            if self.softcap:
                cap = tirx.const(self.softcap, scores.dtype)
                score = tirx.tanh(score / cap) * cap
            allowed = []
            if mask is not None:
                term = _mask_term(mask, (b, h, i, j), columns)
                if str(mask.dtype) == "bool":
                    allowed.append(term)
                else:
                    score = score + term.astype(scores.dtype)
            if self.causal:
                frontier = offset if lengths is None else lengths(b).astype("int64") - rows
                allowed.append(j <= i + frontier)
            if lengths is not None:
                allowed.append(j < lengths(b).astype("int64"))
            hidden = tirx.const(float("-inf"), scores.dtype)
            return tirx.Select(tirx.all(*allowed), score, hidden) if allowed else score

        key = te.reduce_axis((0, columns), name="key")
        largest = te.compute(
            (batch, heads, rows),
            lambda b, h, i: te.max(masked(b, h, i, key), axis=key),
            name="largest",
        )

        def power(b: Any, h: Any, i: Any, j: Any) -> Any:
            return tirx.exp(masked(b, h, i, j) - tirx.max(largest(b, h, i), lowest))

        again = te.reduce_axis((0, columns), name="key")
        total = te.compute(
            (batch, heads, rows),
            lambda b, h, i: te.sum(power(b, h, i, again), axis=again),
            name="total",
        )
        zero = tirx.const(0, scores.dtype)
        return te.compute(
            scores.shape,
            lambda b, h, i, j: tirx.Select(
                largest(b, h, i) > lowest, power(b, h, i, j) / total(b, h, i), zero
            ).astype(self.dtype),
            name="weights",
        )


def _mask_term(mask: Any, place: tuple[Any, ...], columns: Any) -> Any:
    """The mask's element for a score; beyond its end everything is hidden."""
    own = place[len(place) - len(mask.shape) :]
    picked = [
        tirx.IntImm("int64", 0) if isinstance(size, tirx.IntImm) and int(size) == 1 else index
        for size, index in zip(mask.shape, own, strict=True)
    ]
    width = mask.shape[-1]
    short = isinstance(width, tirx.IntImm) and isinstance(columns, tirx.IntImm)
    if not short or int(width) in (1, int(columns)):
        return mask(*picked)
    boolean = str(mask.dtype) == "bool"
    hidden = tirx.const(False, "bool") if boolean else tirx.const(float("-inf"), mask.dtype)
    return tirx.if_then_else(picked[-1] < width, mask(*picked), hidden)


def _context(emission: Emission, weights: Expr, v: Expr) -> Expr:
    batch, heads, rows, _ = emission.shape(weights)
    grouped = _grouped(emission, weights, emission.shape(v)[1])
    context = product(emission, grouped, v)
    return emission.emit(relax.op.reshape(context, [batch, heads, rows, emission.shape(v)[3]]))


def emit_rotary_embedding(emission: Emission, node: ir.Node) -> Expr:
    """``RotaryEmbedding``: pairs of elements are turned by the angles in the caches."""
    x, cosine, sine = (emission.tensor(value) for value in node.inputs[:3])
    flat = len(emission.shape(x)) == 3
    heads = attribute(node, "num_heads", 0) or None
    x = _heads(emission, x, heads)
    batch, heads, sequence, size = emission.shape(x)
    positions = [emission.tensor(value) for value in node.inputs[3:4] if value is not None]
    turned = attribute(node, "rotary_embedding_dim", 0) or int(size)
    if not positions:
        angles = emission.shape(cosine)
        rows = angles[0] if isinstance(angles[0], tirx.IntImm) and int(angles[0]) == 1 else batch
        cosine, sine = (
            emission.match(item, [rows, sequence, turned // 2]) for item in (cosine, sine)
        )
    rotary = _Rotary(turned, bool(attribute(node, "interleaved", 0)))
    result = emission.emit_te(rotary.compute, x, cosine, sine, positions, name="rotary_embedding")
    if not flat:
        return result
    swapped = emission.emit(relax.op.permute_dims(result, [0, 2, 1, 3]))
    return emission.emit(relax.op.reshape(swapped, [batch, sequence, heads * size]))


@dataclasses.dataclass(frozen=True)
class _Rotary:
    """Turns the first ``size`` elements of each head; neighbours, or halves, are pairs."""

    size: int
    interleaved: bool

    def compute(self, x: Any, cosine: Any, sine: Any, positions: Any) -> Any:
        """x: [B, H, S, d]; caches: [B or 1, S, size / 2], or [P, size / 2] and positions [B, S]."""
        half = self.size // 2

        def angle(cache: Any, b: Any, s: Any, pair: Any) -> Any:
            if len(positions) == 0:
                one_row = isinstance(cache.shape[0], tirx.IntImm) and int(cache.shape[0]) == 1
                return cache(tirx.IntImm("int64", 0) if one_row else b, s, pair)
            rows = positions[0].shape[0]
            row = tirx.IntImm("int64", 0) if isinstance(rows, tirx.IntImm) and int(rows) == 1 else b
            place = positions[0](row, s).astype("int64")
            return cache(tirx.max(tirx.min(place, cache.shape[0] - 1), 0), pair)

        def element(b: Any, h: Any, s: Any, i: Any) -> Any:
            if self.interleaved:
                pair, first = tirx.floordiv(i, 2), tirx.floormod(i, 2) == 0
                mate = tirx.Select(first, i + 1, i - 1)
            else:
                pair, first = tirx.floormod(i, half), i < half
                mate = tirx.Select(first, i + half, i - half)
            pair, mate = tirx.min(pair, half - 1), tirx.max(tirx.min(mate, self.size - 1), 0)
            own = x(b, h, s, i).astype("float32")
            other = x(b, h, s, mate).astype("float32")
            across = other * angle(sine, b, s, pair).astype("float32")
            along = own * angle(cosine, b, s, pair).astype("float32")
            turned = along + tirx.Select(first, -across, across)
            return tirx.Select(i < self.size, turned, own).astype(x.dtype)

        return te.compute(x.shape, element, name="rotary")
