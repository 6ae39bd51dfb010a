"""Operators that a GPU runs by the kernels of ``kernels/``, where sizes and dtypes allow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax

from . import dense_products
from .dense_products import dense_layer
from .emission import Emission, Expr, attribute
from .kernels.activations import bias_gelu
from .kernels.attention_shape import VarlenAttentionShape
from .kernels.attention_work import attention_work, work_items
from .kernels.normalization import NormalizationShape, normalization
from .kernels.varlen_attention import varlen_attention
from .kernels.warpgroup_attention import warpgroup_attention
from .row_kernels import constant_width
from .scheduled_calls import as_rows, call_scheduled, is_half, like_rows

_TILE_ROWS = 64


def provide_varlen_attention(emission: Emission, node: ir.Node) -> Expr | None:
    """``VarlenAttention`` on tensor cores; the work items are shared by all layers."""
    q, k, v, _, key_index, _ = emission.tensors(node)
    heads, kv_heads = attribute(node, "q_num_heads", 1), attribute(node, "kv_num_heads", 1)
    width, value_width = (
        constant_width(emission.shape(q)[1:]),
        constant_width(emission.shape(v)[1:]),
    )
    if width is None or value_width is None or not is_half(emission, q):
        return None
    size = width // heads
    if size % 16 or size > 256 or value_width != size * kv_heads or not _has_mma(emission):
        return None
    fused = _fused_qkv(emission, node, (width, value_width, value_width))
    shape = VarlenAttentionShape(
        num_heads=heads,
        kv_num_heads=kv_heads,
        head_size=size,
        dtype=emission.dtype(q),
        scale=attribute(node, "scale", None) or 1 / math.sqrt(size),
        is_causal=bool(attribute(node, "is_causal", 0)),
        tile_rows=_TILE_ROWS if size <= 64 or emission.arch == "sm_90" else 64,
        fused_qkv=fused is not None,
    )
    if not _is_every_token(emission, node):
        k, v = (emission.emit(relax.op.take(item, key_index, axis=0)) for item in (k, v))
    work = _work(emission, node, shape, (emission.shape(q)[0], emission.shape(k)[0]))
    on_hopper = emission.arch == "sm_90" and size in (64, 128)
    kernel = warpgroup_attention(shape) if on_hopper else varlen_attention(shape)
    args = [fused, work] if fused is not None else [q, k, v, work]
    output = ((emission.shape(q)[0], width), emission.dtype(q))
    return call_scheduled(emission, kernel, "varlen_attention", args, [output])


def _has_mma(emission: Emission) -> bool:
    return int(emission.arch.removeprefix("sm_")) >= 80


def _fused_qkv(emission: Emission, node: ir.Node, widths: tuple[int, int, int]) -> Expr | None:
    """The one tensor that q, k and v are column ranges of, in this order, or None.

    Passes leave the bias of the queries alone, as those of keys and values go elsewhere; it then
    becomes a bias of the common product that is zero for the rest.
    """
    q = node.inputs[0]
    adder = q.producer() if q is not None else None
    bias = None
    if adder is not None and adder.op_type == "Add":
        bias = emission.array(adder.inputs[1])
        q = adder.inputs[0]
        if bias is None or bias.shape != (widths[0],):
            return None
    split = q.producer() if q is not None else None
    if split is None or split.op_type != "Split" or not _is_every_token(emission, node):
        return None
    if list(split.outputs) != [q, *node.inputs[1:3]]:
        return None
    whole = emission.tensor(split.inputs[0])
    columns = constant_width(emission.shape(whole)[1:])
    if len(emission.shape(whole)) != 2 or columns != sum(widths):
        return None
    if bias is None:
        return whole
    product = split.inputs[0].producer() if split.inputs[0] is not None else None
    if product is None or product.op_type != "MatMul":
        return None
    padded = np.concatenate([bias, np.zeros(columns - widths[0], bias.dtype)])
    return dense_layer(emission, product.inputs[0], product.inputs[1], padded, "none")


def _is_every_token(emission: Emission, node: ir.Node) -> bool:
    """Whether the keys are all tokens in their order: ``Range (0, tokens, 1)``."""
    key_index, k = node.inputs[4], emission.tensor(node.inputs[1])
    counter = key_index.producer() if key_index is not None else None
    if counter is None or counter.op_type != "Range":
        return False
    start, step = (emission.array(counter.inputs[place]) for place in (0, 2))
    (count,) = emission.shape(emission.tensor(key_index))
    from_zero = start is not None and step is not None and (int(start), int(step)) == (0, 1)
    return from_zero and emission.sizes.equal(count, emission.shape(k)[0])


def _work(
    emission: Emission, node: ir.Node, shape: VarlenAttentionShape, tokens: tuple[Any, Any]
) -> Expr:
    key = ("attention work", node.inputs[3], node.inputs[5], shape.tile_rows, shape.is_causal)
    if key not in emission.shared:
        starts_q, starts_k = emission.tensor(node.inputs[3]), emission.tensor(node.inputs[5])
        starts_k = emission.match(starts_k, emission.shape(starts_q))
        sequences = emission.shape(starts_q)[0] - 1
        items = work_items(tokens[0], sequences, shape.tile_rows)
        emission.shared[key] = call_scheduled(
            emission,
            attention_work(shape.tile_rows, shape.is_causal, emission.dtype(starts_q)),
            "query_tiles",
            [starts_q, starts_k],
            [((items, 8), "int32")],
            sizes=tokens,
        )
    return emission.shared[key]


def provide_normalization(emission: Emission, node: ir.Node) -> list[Expr] | None:
    """The skip normalizations, and LayerNormalization and RMSNormalization over the last axis."""
    skips = node.op_type.endswith(("SkipLayerNormalization", "SkipRMSNormalization"))
    is_centered = "Layer" in node.op_type
    values = list(node.inputs)
    x = emission.tensor(values[0])
    residual = values[1] if skips else None
    gamma = values[2 if skips else 1]
    place = 3 if skips else 2
    beta = values[place] if is_centered and len(values) > place else None
    bias = values[4] if node.op_type == "BiasSkipLayerNormalization" else None
    shape = emission.shape(x)
    size = constant_width(shape[-1:])
    axis = attribute(node, "axis", -1)
    if size is None or size % 8 or size > 4096 or axis not in (-1, len(shape) - 1):
        return None
    vectors = [emission.tensor(value) for value in (bias, gamma, beta) if value is not None]
    if not is_half(emission, x) or any(
        len(emission.shape(v)) != 1 or emission.dtype(v) != emission.dtype(x) for v in vectors
    ):
        return None
    gives_sum = skips and len(node.outputs) > 1 and bool(node.outputs[1].uses())
    gives_sum = gives_sum or (skips and node.outputs[1] in emission.module.graph.outputs)
    kernel = normalization(
        NormalizationShape(
            size,
            attribute(node, "epsilon", 1e-5),
            emission.dtype(x),
            has_bias=bias is not None,
            has_residual=residual is not None,
            gives_sum=gives_sum,
            is_centered=is_centered,
            has_beta=beta is not None,
        )
    )
    rows = as_rows(emission, x)
    args = [rows]
    args += [emission.tensor(bias)] if bias is not None else []
    args += [as_rows(emission, emission.tensor(residual))] if residual is not None else []
    args += [emission.tensor(gamma)]
    args += [emission.tensor(beta)] if beta is not None else []
    output = (tuple(emission.shape(rows)), emission.dtype(x))
    results = call_scheduled(
        emission, kernel, "normalization", args, [output] * (2 if gives_sum else 1)
    )
    if not gives_sum:
        return [like_rows(emission, results, shape)]
    pair = [emission.emit(relax.TupleGetItem(results, i)) for i in range(2)]
    return [like_rows(emission, item, shape) for item in pair]


def provide_gelu(emission: Emission, node: ir.Node) -> Expr | None:
    """``Gelu`` and ``BiasGelu``, in the epilogue of the product before it where there is one."""
    fused = dense_products.provide_gelu(emission, node)
    if fused is not None:
        return fused
    x = emission.tensor(node.inputs[0])
    size = constant_width(emission.shape(x)[-1:])
    if not is_half(emission, x) or size is None or size % 8:
        return None
    rows = as_rows(emission, x)
    has_bias = node.op_type == "BiasGelu"
    approximate = attribute(node, "approximate", "none") == "tanh"
    kernel = bias_gelu(size, emission.dtype(x), has_bias, approximate)
    args = [rows, emission.tensor(node.inputs[1])] if has_bias else [rows]
    output = (tuple(emission.shape(rows)), emission.dtype(x))
    result = call_scheduled(emission, kernel, "bias_gelu", args, [output])
    return like_rows(emission, result, emission.shape(x))
