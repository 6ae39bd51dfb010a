"""Bias, residual and layer normalization in one pass over the rows."""

from __future__ import annotations

import dataclasses

from tvm import tirx
from tvm.script import tirx as T  # noqa: N812

from .device_functions import block_barrier, exchange, reciprocal_root
from .parameters import with_parameters
from .row_functions import load_eight, store_eight

_CHUNKS_PER_LANE = 4


@dataclasses.dataclass(frozen=True)
class NormalizationShape:
    """What one compiled kernel is made for.

    Attributes:
        size: elements of a row; a multiple of 8, at most 4096.
        epsilon: added to the variance.
        dtype: of the tensors; the arithmetic is float32.
        has_bias: a ``[size]`` bias is added to x, that of the GEMM that made it.
        has_residual: a ``[T, size]`` tensor is added to x.
        gives_sum: the sum that is normalized is an output too (pre-LayerNorm models).
        is_centered: LayerNormalization; false for RMSNormalization, which has no beta either.
        has_beta: whether LayerNormalization has a beta.
    """

    size: int
    epsilon: float
    dtype: str = "float16"
    has_bias: bool = False
    has_residual: bool = False
    gives_sum: bool = False
    is_centered: bool = True
    has_beta: bool = True


def warps_per_row(size: int) -> int:
    """Warps that share a row, so that a lane holds at most 32 of its elements; 1, 2 or 4."""
    for warps in (1, 2, 4):
        if size <= warps * 32 * 8 * _CHUNKS_PER_LANE:
            return warps
    raise ValueError(f"rows of at most {128 * 8 * _CHUNKS_PER_LANE} elements, got {size}")


def rows_per_block(size: int) -> int:
    """Rows that one thread block normalizes."""
    return 4 // warps_per_row(size)


def normalization(shape: NormalizationShape) -> tirx.PrimFunc:
    """The kernel: ``(x, [bias], [residual], gamma, [beta], y, [sum])``; x, residual, y: [T, size].

    ``y = normalize(x + bias + residual) * gamma + beta``. A row is read once and stays in
    registers for the mean, the variance about it and the result (ByteTransformer, IPDPS 2023,
    section III.C: add-bias and LayerNorm fused). Mean and variance are sums over lanes by
    exchange, and over warps by shared memory where a row is shared by several.
    """
    size, dtype, epsilon = shape.size, shape.dtype, shape.epsilon
    warps, rows = warps_per_row(size), rows_per_block(size)
    lanes = warps * 32
    chunks = -(-size // (8 * lanes))
    has_bias, has_residual = shape.has_bias, shape.has_residual
    has_beta = shape.is_centered and shape.has_beta
    is_centered, gives_sum = shape.is_centered, shape.gives_sum

    @T.macro
    def total(value, partial, warp):
        """Sum a register over the lanes that share a row."""
        for step in T.unroll(5):
            value[0] = value[0] + exchange(value[0], 1 << step)
        if warps > 1:
            partial[warp] = value[0]
            block_barrier()
            value[0] = T.float32(0)
            for other in T.unroll(warps):
                value[0] = value[0] + partial[warp // warps * warps + other]
            block_barrier()

    @T.prim_func(s_tir=True)
    def normalization(
        x_handle: T.handle,
        bias_handle: T.handle,
        residual_handle: T.handle,
        gamma_handle: T.handle,
        beta_handle: T.handle,
        y_handle: T.handle,
        sum_handle: T.handle,
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        tokens = T.int32()
        x = T.match_buffer(x_handle, (tokens, size), dtype)
        bias = T.match_buffer(bias_handle, (size,), dtype)
        residual = T.match_buffer(residual_handle, (tokens, size), dtype)
        gamma = T.match_buffer(gamma_handle, (size,), dtype)
        beta = T.match_buffer(beta_handle, (size,), dtype)
        y = T.match_buffer(y_handle, (tokens, size), dtype)
        summed = T.match_buffer(sum_handle, (tokens, size), dtype)
        block = T.launch_thread("blockIdx.x", (tokens + (rows - 1)) // rows)
        thread = T.launch_thread("threadIdx.x", 128)
        values = T.alloc_buffer((chunks * 8,), "float32", scope="local")
        extra = T.alloc_buffer((8,), "float32", scope="local")
        offset = T.alloc_buffer((8,), "float32", scope="local")
        mean = T.alloc_buffer((1,), "float32", scope="local")
        variance = T.alloc_buffer((1,), "float32", scope="local")
        partial = T.alloc_buffer((4,), "float32", scope="shared")
        row: T.let[T.int32] = T.min(block * rows + thread // lanes, tokens - 1)
        lane: T.let[T.int32] = thread % lanes
        for i in T.unroll(chunks * 8):
            values[i] = T.float32(0)
        for chunk in T.unroll(chunks):
            column: T.let[T.int32] = (chunk * lanes + lane) * 8
            if column < size:
                load_eight(
                    values.access_ptr("w", offset=chunk * 8), T.address_of(x[row, column]), dtype
                )
                if has_bias:
                    load_eight(extra.access_ptr("w"), T.address_of(bias[column]), dtype)
                    for i in T.unroll(8):
                        values[chunk * 8 + i] = values[chunk * 8 + i] + extra[i]
                if has_residual:
                    load_eight(extra.access_ptr("w"), T.address_of(residual[row, column]), dtype)
                    for i in T.unroll(8):
                        values[chunk * 8 + i] = values[chunk * 8 + i] + extra[i]
                if gives_sum:
                    store_eight(
                        T.address_of(summed[row, column]),
                        values.access_ptr("r", offset=chunk * 8),
                        dtype,
                    )
        mean[0] = T.float32(0)
        if is_centered:
            for i in T.unroll(chunks * 8):
                mean[0] = mean[0] + values[i]
            total(mean, partial, thread // 32)
            mean[0] = mean[0] * T.float32(1 / size)
        variance[0] = T.float32(0)
        for chunk in T.unroll(chunks):
            if (chunk * lanes + lane) * 8 < size:
                for i in T.unroll(8):
                    values[chunk * 8 + i] = values[chunk * 8 + i] - mean[0]
                    variance[0] = variance[0] + values[chunk * 8 + i] * values[chunk * 8 + i]
        total(variance, partial, thread // 32)
        variance[0] = reciprocal_root(variance[0] * T.float32(1 / size) + T.float32(epsilon))
        for chunk in T.unroll(chunks):
            column: T.let[T.int32] = (chunk * lanes + lane) * 8
            if column < size:
                load_eight(extra.access_ptr("w"), T.address_of(gamma[column]), dtype)
                if has_beta:
                    load_eight(offset.access_ptr("w"), T.address_of(beta[column]), dtype)
                for i in T.unroll(8):
                    values[chunk * 8 + i] = values[chunk * 8 + i] * variance[0] * extra[i]
                    if has_beta:
                        values[chunk * 8 + i] = values[chunk * 8 + i] + offset[i]
                store_eight(
                    T.address_of(y[row, column]), values.access_ptr("r", offset=chunk * 8), dtype
                )

    present = (True, has_bias, has_residual, True, has_beta, True, gives_sum)
    return with_parameters(normalization, present)
