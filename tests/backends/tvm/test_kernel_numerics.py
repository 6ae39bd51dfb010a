"""The kernels' generated CUDA source, run on the CPU thread by thread, against float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dechaff.backends.tvm.kernels.activations import bias_gelu
from dechaff.backends.tvm.kernels.attention_shape import VarlenAttentionShape
from dechaff.backends.tvm.kernels.attention_work import attention_work, work_items
from dechaff.backends.tvm.kernels.decode_attention import decode_attention
from dechaff.backends.tvm.kernels.decode_work import DecodeAttentionShape
from dechaff.backends.tvm.kernels.dense import DenseShape, dense
from dechaff.backends.tvm.kernels.gathering import gather_rows
from dechaff.backends.tvm.kernels.normalization import (
    NormalizationShape,
    normalization,
    rows_per_block,
)
from dechaff.backends.tvm.kernels.packing import pack, token_layout, unpack
from dechaff.backends.tvm.kernels.varlen_attention import varlen_attention
from dechaff.backends.tvm.kernels.warpgroup_attention import warpgroup_attention

from .cuda_emulation import EmulatedKernel, reason_it_cannot_run
from .kernel_sources import cuda_source

pytestmark = pytest.mark.skipif(
    reason_it_cannot_run() is not None, reason=reason_it_cannot_run() or ""
)

Array = npt.NDArray[Any]
POISON = np.float16(np.nan)
TOLERANCE = 1e-3
"""Relative, in the 2-norm: a few units of float16's 2 ** -11."""


def random_half(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float16)


def assert_close(found: Array, expected: Array, tolerance: float = TOLERANCE) -> None:
    difference = np.linalg.norm(found.astype(np.float64) - expected)
    assert difference <= tolerance * np.linalg.norm(expected)


def work_of(starts: Array, tokens: int, rows: int, causal: bool) -> Array:
    items = work_items(tokens, len(starts) - 1, rows)
    work = np.full((items + 1, 8), -7, np.int32)
    EmulatedKernel(cuda_source(attention_work(rows, causal)))(
        (1, 1, 1),
        (256, 1, 1),
        {
            "cu_seqlens_q": starts,
            "cu_seqlens_k": starts,
            "tokens": tokens,
            "key_tokens": tokens,
            "work": work,
            "boundaries": len(starts),
            "items": items,
        },
    )
    assert (work[-1] == -7).all(), "written beyond the end"
    return work[:-1]


def reference_attention(qkv: Array, starts: Array, shape: VarlenAttentionShape) -> Array:
    size, heads, kv_heads = shape.head_size, shape.num_heads, shape.kv_num_heads
    wide = qkv.astype(np.float64).reshape(len(qkv), heads + 2 * kv_heads, size)
    context = np.zeros((len(qkv), heads, size))
    for first, end in itertools.pairwise(starts):
        for head in range(heads):
            kv = heads + head * kv_heads // heads
            scores = wide[first:end, head] @ wide[first:end, kv].T * shape.scale
            if shape.is_causal:
                scores[np.triu_indices(end - first, 1)] = -np.inf
            weights = np.exp(scores - scores.max(-1, initial=-1e9, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            context[first:end, head] = weights @ wide[first:end, kv + kv_heads]
    return context.reshape(len(qkv), heads * size)


@pytest.mark.parametrize("make", [varlen_attention, warpgroup_attention])
@pytest.mark.parametrize(
    ("rows", "causal", "heads", "size", "lengths"),
    [
        pytest.param(64, False, 1, 64, (70, 0, 3), id="short"),
        pytest.param(128, False, 1, 64, (150, 1), id="long tiles"),
        pytest.param(64, True, 2, 64, (70, 64), id="causal, grouped heads"),
        pytest.param(64, False, 1, 128, (70,), id="wide heads"),
    ],
)
def test_packed_attention(
    make: Callable[[VarlenAttentionShape], Any],
    rows: int,
    causal: bool,
    heads: int,
    size: int,
    lengths: tuple[int, ...],
) -> None:
    shape = VarlenAttentionShape(
        heads, 1, size, scale=size**-0.5, is_causal=causal, tile_rows=rows, fused_qkv=True
    )
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = int(starts[-1])
    qkv = random_half(tokens, (heads + 2) * size)
    work = work_of(starts, tokens, rows, causal)
    context = np.full((tokens, heads * size), POISON)
    threads = rows * 2 if make is warpgroup_attention else 128
    EmulatedKernel(cuda_source(make(shape)))(
        (heads, len(work), 1),
        (threads, 1, 1),
        {"qkv": qkv, "work": work, "context": context, "tokens": tokens, "items": len(work)},
    )
    assert_close(context, reference_attention(qkv, starts, shape))


def test_work_stays_inside_the_tensors_whatever_the_offsets_say() -> None:
    starts = np.array([0, -9, 1 << 40, 3, 100, 2, 50])
    work = work_of(starts, 100, 64, causal=False)
    assert (work[:, [0, 1, 2, 3]] >= 0).all()
    assert (work[:, 0] + work[:, 1] <= 100).all()
    assert (work[:, 2] + work[:, 3] <= 100).all()


def test_long_sequences_are_started_first() -> None:
    work = work_of(np.array([0, 10, 210, 250]), 250, 64, causal=False)
    lengths = work[work[:, 1] > 0, 3]
    assert list(lengths) == sorted(lengths, reverse=True)


def test_decode_attention_joins_what_several_blocks_leave() -> None:
    """Lengths too long, zero and negative; masks with holes, without a key, over a cut."""
    shape = DecodeAttentionShape(4, 2, 64, scale=0.125, blocks=3)
    longest, lengths = 200, np.array([70, 1 << 40, 0, -3, 64])
    batch, cut = len(lengths), np.clip(lengths, 0, longest)
    q = random_half(batch, 256)
    keys, values = (random_half(batch, 2, longest, 64, seed=i) for i in (1, 2))
    for row, length in enumerate(cut):
        keys[row, :, length:] = values[row, :, length:] = POISON
    allowed = np.random.default_rng(4).random((batch, longest)) < 0.7
    allowed[4] = False
    allowed[1, :70] = False
    whole, context = (np.full((batch + 1, 256), POISON) for _ in range(2))
    partial = np.full((shape.partial_rows, 66), np.nan, np.float32)
    first, second = (EmulatedKernel(cuda_source(kernel)) for kernel in decode_attention(shape))
    arguments: dict[str, Any] = {
        "q": q,
        "k_cache": keys,
        "v_cache": values,
        "lengths": lengths,
        "allowed": allowed,
        "whole": whole,
        "context": context,
        "partial": partial,
        "batch": batch,
        "longest": longest,
    }
    first((3, 1, 1), (128, 1, 1), arguments | {"context": whole})
    second((2, batch, 1), (128, 1, 1), arguments)
    expected = np.zeros((batch, 4, 64))
    for row, length in enumerate(cut):
        for head in range(4):
            k, v = (t[row, head // 2, :length].astype(np.float64) for t in (keys, values))
            weights = np.exp(k @ q[row].reshape(4, 64)[head].astype(np.float64) * 0.125)
            weights *= allowed[row, :length]
            expected[row, head] = weights @ v / max(weights.sum(), 1e-30)
    assert_close(context[:-1], expected.reshape(batch, 256))
    assert np.isnan(context[-1]).all(), "written beyond the end"
    assert np.isnan(whole[-1]).all(), "written beyond the end"


@pytest.mark.parametrize(("size", "centered"), [(40, True), (768, False), (2048, True)])
def test_normalization_with_bias_and_residual(size: int, centered: bool) -> None:
    rows = 5
    x, residual = random_half(rows, size), random_half(rows, size, seed=1)
    bias, gamma, beta = (random_half(size, seed=i) for i in range(3))
    y, summed = np.full((2, rows + 1, size), POISON)
    kernel = normalization(
        NormalizationShape(
            size, 1e-5, has_bias=True, has_residual=True, gives_sum=True, is_centered=centered
        )
    )
    EmulatedKernel(cuda_source(kernel))(
        (-(-rows // rows_per_block(size)), 1, 1),
        (128, 1, 1),
        {
            "x": x,
            "bias": bias,
            "residual": residual,
            "gamma": gamma,
            "beta": beta,
            "y": y,
            "summed": summed,
            "tokens": rows,
        },
    )
    total = x.astype(np.float64) + bias + residual
    mean = total.mean(-1, keepdims=True) if centered else 0
    variance = ((total - mean) ** 2).mean(-1, keepdims=True)
    expected = (total - mean) / np.sqrt(variance + 1e-5) * gamma + (beta if centered else 0)
    assert_close(y[:-1], expected)
    assert_close(summed[:-1], total)
    assert np.isnan(y[-1]).all(), "written beyond the end"


def gelu(x: Array, approximate: bool) -> Array:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    gate = np.tanh(inner) if approximate else np.vectorize(math.erf)(x / math.sqrt(2))
    result: Array = 0.5 * x * (1 + gate)
    return result


@pytest.mark.parametrize("approximate", [False, True])
def test_bias_gelu(approximate: bool) -> None:
    x, bias = random_half(9, 72) * np.float16(3), random_half(72)
    x[0, :2] = 60000, -60000
    y = np.full((10, 72), POISON)
    kernel = bias_gelu(72, approximate=approximate)
    EmulatedKernel(cuda_source(kernel))(
        (1, 1, 1), (256, 1, 1), {"x": x, "bias": bias, "y": y, "tokens": 9}
    )
    expected = gelu(x.astype(np.float64) + bias, approximate)
    np.testing.assert_allclose(y[:-1], expected, rtol=1e-3, atol=3e-5)
    assert np.isnan(y[-1]).all(), "written beyond the end"


def test_dense_layer_with_gelu() -> None:
    x, weight, bias = random_half(70, 128), random_half(128, 128), random_half(128)
    y = np.full((71, 128), POISON)
    EmulatedKernel(cuda_source(dense(DenseShape(128, 128))))(
        (1, 1, 1), (256, 1, 1), {"x": x, "weight": weight, "bias": bias, "y": y, "tokens": 70}
    )
    expected = gelu(x.astype(np.float64) @ weight.astype(np.float64) + bias, False)
    assert_close(y[:-1], expected)
    assert np.isnan(y[-1]).all(), "written beyond the end"


@pytest.mark.parametrize(("batch", "sequence", "kept"), [(5, 300, 0.6), (1, 1, 1.0), (4, 10, 0.0)])
def test_packing_and_unpacking(batch: int, sequence: int, kept: float) -> None:
    mask = np.random.default_rng(3).random((batch, sequence)) < kept
    count = int(mask.sum())
    tokens = count + 3  # room for more than there are
    index, starts = np.full(tokens + 1, -9), np.full(batch + 2, -9)
    place = np.full((batch, sequence), -9)
    sizes = {"batch": batch, "sequence": sequence, "tokens": tokens, "positions": mask.size}
    EmulatedKernel(cuda_source(token_layout()))(
        (batch, 1, 1),
        (256, 1, 1),
        {
            "keep_mask": mask,
            "token_index": index,
            "cu_seqlens": starts,
            "packed_position": place,
            **sizes,
        },
    )
    assert list(index[:count]) == list(np.flatnonzero(mask))
    assert list(index[count:]) == [0, 0, 0, -9]
    assert list(starts) == [0, *np.cumsum(mask.sum(1)), -9]
    x = random_half(batch, sequence, 16)
    packed, back = np.full((tokens, 16), POISON), np.full((batch, sequence, 16), POISON)
    EmulatedKernel(cuda_source(pack(16)))(
        (-(-tokens * 2 // 256), 1, 1),
        (256, 1, 1),
        {"x": x, "token_index": index, "packed": packed, **sizes},
    )
    assert (packed[:count] == x[mask]).all()
    EmulatedKernel(cuda_source(unpack(16)))(
        (-(-sequence * 2 // 256), batch, 1),
        (256, 1, 1),
        {"packed": packed, "packed_position": place, "keep_mask": mask, "x": back, **sizes},
    )
    assert (back == np.where(mask[..., None], x, 0)).all()


def test_rows_that_the_whole_batch_shares_are_packed_and_unpacked_as_float32() -> None:
    mask = np.random.default_rng(5).random((3, 7)) < 0.5
    index = np.flatnonzero(mask)
    tokens = len(index)
    sizes = {"batch": 3, "sequence": 7, "tokens": tokens, "positions": 7}
    x, packed = random_half(7, 16), np.full((tokens, 16), POISON)
    EmulatedKernel(cuda_source(pack(16, is_shared=True)))(
        (-(-tokens * 2 // 256), 1, 1),
        (256, 1, 1),
        {"x": x, "token_index": index, "packed": packed, **sizes},
    )
    assert (packed == x[index % 7]).all()
    place = np.cumsum(mask.ravel()).reshape(mask.shape) - 1
    back = np.full((3, 7, 16), np.float32(np.nan))
    EmulatedKernel(cuda_source(unpack(16, x_dtype="float32")))(
        (1, 3, 1),
        (256, 1, 1),
        {"packed": packed, "packed_position": place, "keep_mask": mask, "x": back, **sizes},
    )
    expected = np.zeros((3, 7, 16), np.float32)
    expected[mask] = packed
    assert (back == expected).all()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_of_two_tables_are_summed_whatever_the_indices(dtype: str) -> None:
    """Indices below zero count from the end; those outside of a table are cut to it."""
    first, second = (random_half(rows, 24).astype(dtype) for rows in (9, 2))
    index, other = np.array([0, 8, -1, -9, 1 << 40, -100]), np.array([1, 0, -1, -2, 2, -3])
    sizes = {"tokens": 6, "count": 9, "second_count": 2}
    alone, both = (np.full((6, 24), np.nan, dtype) for _ in range(2))
    tables = {"table": first, "index": index, "second_table": second, "second_index": other}
    for second_too, rows in ((False, alone), (True, both)):
        kernel = EmulatedKernel(cuda_source(gather_rows(24, dtype, second_too)))
        kernel((1, 1, 1), (256, 1, 1), {**tables, "rows": rows, **sizes})
    expected = first[[0, 8, 8, 0, 8, 0]]
    assert (alone == expected).all()
    wide = expected.astype(np.float32) + second[[1, 0, 1, 0, 1, 0]].astype(np.float32)
    assert (both == wide.astype(dtype)).all()
