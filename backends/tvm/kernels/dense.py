"""A dense layer with bias and GELU in its epilogue, for Hopper's warpgroup matrix unit."""

from __future__ import annotations

import dataclasses

from tvm import tirx
from tvm.script import tirx as T  # noqa: N812

from .activations import gelu_macro
from .device_functions import (
    block_barrier,
    commit_copies,
    copy_async,
    copy_to_global,
    pack_pair,
    shared_address,
    store_shared,
    wait_for_copies,
    warp_barrier,
)
from .parameters import with_parameters
from .row_functions import load_pair
from .warpgroup_functions import (
    begin_warpgroup_products,
    commit_warpgroup_products,
    fence_for_tensor_cores,
    wait_for_warpgroup_products,
    warpgroup_product,
)

_ROWS = 128
_DEPTH = 64


@dataclasses.dataclass(frozen=True)
class DenseShape:
    """What one compiled kernel is made for.

    Attributes:
        inputs: columns of x, a multiple of 64.
        outputs: columns of the result, a multiple of ``tile_columns``.
        dtype: ``float16`` or ``bfloat16``; products are summed in float32.
        activation: ``none``, ``gelu`` (by the error function) or ``gelu_tanh``.
        has_bias: whether a bias is added.
        tile_columns: columns of a thread block's tile, 128 or 256.
        stages: tiles of x and of the weights held in shared memory.
    """

    inputs: int
    outputs: int
    dtype: str = "float16"
    activation: str = "gelu"
    has_bias: bool = True
    tile_columns: int = 128
    stages: int = 3


def dense(shape: DenseShape) -> tirx.PrimFunc:
    """The kernel: ``(x, weight, bias, y)``, ``y = activation(x weight + bias)``.

    x: [T, inputs]; weight: [inputs, outputs], as an ONNX MatMul holds it; bias: [outputs]; y: [T,
    outputs]. Two warpgroups share a tile of 128 rows; the products of one step run while the copies
    of later steps land. The tile leaves by way of shared memory, 16 bytes a lane. The fused
    epilogue is ByteTransformer's (IPDPS 2023, section III.C).
    """
    inputs, outputs, dtype = shape.inputs, shape.outputs, shape.dtype
    columns, stages = shape.tile_columns, shape.stages
    x_bytes, w_bytes = _ROWS * _DEPTH * 2, _DEPTH * columns * 2
    stage_bytes = x_bytes + w_bytes
    shared_elements = stages * stage_bytes // 2 + 512  # room to align by 1024 bytes
    steps = inputs // _DEPTH
    line = (columns + 8) * 2
    activated, has_bias = shape.activation != "none", shape.has_bias
    apply = gelu_macro(shape.activation) if activated else None

    @T.macro
    def load_stage(x, weight, base, step, first_row, tokens, first_column, thread):
        """Fetch one step's tiles, swizzled; rows of x beyond the last are zero."""
        for i in T.unroll(_ROWS * 8 // 256):
            row: T.let[T.int32] = i * 32 + thread // 8
            piece: T.let[T.int32] = thread % 8
            copy_async(
                base + T.cast(row * 128 + T.bitwise_xor(piece, row % 8) * 16, "uint32"),
                T.address_of(x[T.min(first_row + row, tokens - 1), step * _DEPTH + piece * 8]),
                first_row + row < tokens,
            )
        for i in T.unroll(_DEPTH * columns // 8 // 256):
            row: T.let[T.int32] = (i * 256 + thread) // (columns // 8)
            piece: T.let[T.int32] = (i * 256 + thread) % (columns // 8)
            copy_async(
                base
                + T.cast(
                    x_bytes
                    + piece // 8 * (_DEPTH * 128)
                    + row * 128
                    + T.bitwise_xor(piece % 8, row % 8) * 16,
                    "uint32",
                ),
                T.address_of(weight[step * _DEPTH + row, first_column + piece * 8]),
                True,
            )

    @T.prim_func(s_tir=True)
    def dense(
        x_handle: T.handle, weight_handle: T.handle, bias_handle: T.handle, y_handle: T.handle
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        tokens = T.int32()
        x = T.match_buffer(x_handle, (tokens, inputs), dtype)
        weight = T.match_buffer(weight_handle, (inputs, outputs), dtype)
        bias = T.match_buffer(bias_handle, (outputs,), dtype)
        y = T.match_buffer(y_handle, (tokens, outputs), dtype)
        column_block = T.launch_thread("blockIdx.x", outputs // columns)
        row_block = T.launch_thread("blockIdx.y", (tokens + (_ROWS - 1)) // _ROWS)
        thread = T.launch_thread("threadIdx.x", 256)
        shared = T.alloc_buffer((shared_elements,), dtype, scope="shared.dyn")
        sums = T.alloc_buffer((columns // 2,), "float32", scope="local")
        pair = T.alloc_buffer((2,), "float32", scope="local")
        square = T.alloc_buffer((1,), "float32", scope="local")
        base: T.let[T.uint32] = (
            (shared_address(shared.access_ptr("rw")) + T.uint32(1023))
            // T.uint32(1024)
            * T.uint32(1024)
        )
        group: T.let[T.int32] = thread // 128
        warp: T.let[T.int32] = thread // 32
        lane: T.let[T.int32] = thread % 32
        first_row: T.let[T.int32] = row_block * _ROWS
        first_column: T.let[T.int32] = column_block * columns

        for stage in T.unroll(stages - 2):
            if stage < steps:
                load_stage(
                    x, weight, base + T.uint32(stage * stage_bytes), stage,
                    first_row, tokens, first_column, thread,
                )  # fmt: skip
            commit_copies()
        for step in T.serial(steps):
            here: T.let[T.uint32] = base + T.cast(step % stages * stage_bytes, "uint32")
            wait_for_copies(stages - 3)
            fence_for_tensor_cores()
            block_barrier()
            begin_warpgroup_products()
            for k in T.unroll(_DEPTH // 16):
                warpgroup_product(
                    sums.access_ptr("rw"),
                    here + T.cast(group * (64 * 128) + k * 32, "uint32"),
                    here + T.uint32(x_bytes + k * 2048),
                    columns,
                    dtype,
                    right_step=_DEPTH * 128,
                    accumulates=step + k > 0,
                )
            commit_warpgroup_products()
            # The step before the last has been multiplied by all: each waited for it below.
            if step + (stages - 2) < steps:
                load_stage(
                    x, weight,
                    base + T.cast((step + (stages - 2)) % stages * stage_bytes, "uint32"),
                    step + (stages - 2), first_row, tokens, first_column, thread,
                )  # fmt: skip
            commit_copies()
            wait_for_warpgroup_products(1)
        wait_for_warpgroup_products(0)
        block_barrier()
        for i in T.unroll(columns // 8):
            if has_bias:
                load_pair(
                    pair.access_ptr("w"),
                    T.address_of(bias[first_column + i * 8 + lane % 4 * 2]),
                    dtype,
                )
            for half in T.unroll(2):
                for j in T.unroll(2):
                    if has_bias:
                        sums[i * 4 + half * 2 + j] = sums[i * 4 + half * 2 + j] + pair[j]
                    if activated:
                        apply(sums, i * 4 + half * 2 + j, square)
                store_shared(
                    base
                    + T.cast(
                        (warp * 16 + half * 8 + lane // 4) * line + i * 16 + lane % 4 * 4, "uint32"
                    ),
                    pack_pair(sums[i * 4 + half * 2], sums[i * 4 + half * 2 + 1], dtype),
                )
        warp_barrier()
        for i in T.unroll(16 * columns // 8 // 32):
            row: T.let[T.int32] = warp * 16 + (i * 32 + lane) // (columns // 8)
            piece: T.let[T.int32] = (i * 32 + lane) % (columns // 8)
            if first_row + row < tokens:
                copy_to_global(
                    T.address_of(y[first_row + row, first_column + piece * 8]),
                    base + T.cast(row * line + piece * 16, "uint32"),
                )

    return with_parameters(dense, (True, True, has_bias, True))
