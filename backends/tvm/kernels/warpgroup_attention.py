"""Attention within each sequence of a packed batch, on Hopper's warpgroup matrix unit (sm_90a)."""

from __future__ import annotations

import math

from tvm import tirx
from tvm.script import tirx as T  # noqa: N812

from .attention_shape import VarlenAttentionShape
from .device_functions import (
    block_barrier,
    commit_copies,
    copy_async,
    pack_pair,
    shared_address,
    wait_for_copies,
)
from .online_softmax import softmax_macros
from .warpgroup_functions import (
    begin_warpgroup_products,
    commit_warpgroup_products,
    fence_for_tensor_cores,
    wait_for_warpgroup_products,
    warpgroup_product,
)

_STAGES = 3


def warpgroup_attention(shape: VarlenAttentionShape) -> tirx.PrimFunc:
    """As ``varlen_attention``, with the same parameters, for head sizes of 64 and 128.

    Each warpgroup works on 64 queries; two share a tile of 128. The weights go from the softmax to
    the second product in registers, and that product runs while the next tile of keys arrives and
    is multiplied (FlashAttention-3, arXiv 2407.08608, section 3.1, without its warp specialization:
    several thread blocks on a multiprocessor take turns instead).
    """
    heads, kv_heads, size = shape.num_heads, shape.kv_num_heads, shape.head_size
    dtype, threads = shape.dtype, shape.tile_rows * 2
    if shape.fused_qkv:
        row = (heads + 2 * kv_heads) * size
        fused_body = _tile_body(shape, heads * size, (heads + kv_heads) * size)

        @T.prim_func(s_tir=True)
        def warpgroup_attention_qkv(
            qkv_handle: T.handle, work_handle: T.handle, context_handle: T.handle
        ):
            T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
            tokens = T.int32()
            items = T.int32()
            qkv = T.match_buffer(qkv_handle, (tokens, row), dtype)
            work = T.match_buffer(work_handle, (items, 8), "int32")
            context = T.match_buffer(context_handle, (tokens, heads * size), dtype)
            head = T.launch_thread("blockIdx.x", heads)
            item = T.launch_thread("blockIdx.y", items)
            thread = T.launch_thread("threadIdx.x", threads)
            fused_body(qkv, qkv, qkv, work, context, head, item, thread)

        return warpgroup_attention_qkv
    body = _tile_body(shape, 0, 0)

    @T.prim_func(s_tir=True)
    def warpgroup_attention(
        q_handle: T.handle,
        k_handle: T.handle,
        v_handle: T.handle,
        work_handle: T.handle,
        context_handle: T.handle,
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        tokens = T.int32()
        key_tokens = T.int32()
        items = T.int32()
        q = T.match_buffer(q_handle, (tokens, heads * size), dtype)
        k = T.match_buffer(k_handle, (key_tokens, kv_heads * size), dtype)
        v = T.match_buffer(v_handle, (key_tokens, kv_heads * size), dtype)
        work = T.match_buffer(work_handle, (items, 8), "int32")
        context = T.match_buffer(context_handle, (tokens, heads * size), dtype)
        head = T.launch_thread("blockIdx.x", heads)
        item = T.launch_thread("blockIdx.y", items)
        thread = T.launch_thread("threadIdx.x", threads)
        body(q, k, v, work, context, head, item, thread)

    return warpgroup_attention


def _tile_body(shape: VarlenAttentionShape, k_column: int, v_column: int):
    """One thread block's work, as a macro. ``*_column``: where keys and values begin in a row."""
    dtype, size, rows = shape.dtype, shape.head_size, shape.tile_rows
    group, threads = shape.num_heads // shape.kv_num_heads, rows * 2
    keys = 64
    runs = size // 64  # of 64 columns: a row of 128 bytes in shared memory
    q_bytes, kv_bytes = rows * 128 * runs, keys * 128 * runs
    shared_elements = max(q_bytes + _STAGES * 2 * kv_bytes, rows * (size + 8) * 2) // 2 + 512
    is_causal = shape.is_causal
    softmax = softmax_macros(1, keys, size, dtype, shape.scale, is_causal)
    hide, soften, write = softmax.hide, softmax.soften, softmax.write

    @T.macro
    def load_rows(address, tensor, first, count, tile, column, thread):
        """Fetch ``tile`` rows from ``first`` on, swizzled; zeros from row ``count`` on."""
        for i in T.unroll(tile * runs * 8 // threads):
            row: T.let[T.int32] = (i * threads + thread) // (runs * 8)
            piece: T.let[T.int32] = (i * threads + thread) % (runs * 8)
            copy_async(
                address
                + T.cast(
                    piece // 8 * (tile * 128) + row * 128 + T.bitwise_xor(piece % 8, row % 8) * 16,
                    "uint32",
                ),
                T.address_of(tensor[first + T.min(row, count - 1), column + piece * 8]),
                row < count,
            )

    @T.macro
    def body(q, k, v, work, context, head, item, thread):
        shared = T.alloc_buffer((shared_elements,), dtype, scope="shared.dyn")
        p_registers = T.alloc_buffer((keys // 4,), "uint32", scope="local")
        scores = T.alloc_buffer((keys // 2,), "float32", scope="local")
        sums = T.alloc_buffer((size // 2,), "float32", scope="local")
        row_max = T.alloc_buffer((2,), "float32", scope="local")
        row_sum = T.alloc_buffer((2,), "float32", scope="local")
        new_max = T.alloc_buffer((1,), "float32", scope="local")
        factor = T.alloc_buffer((1,), "float32", scope="local")

        q_first: T.let[T.int32] = work[item, 0]
        q_count: T.let[T.int32] = work[item, 1]
        k_first: T.let[T.int32] = work[item, 2]
        k_count: T.let[T.int32] = work[item, 3]
        diagonal: T.let[T.int32] = work[item, 4]
        if q_count > 0:
            base: T.let[T.uint32] = (
                (shared_address(shared.access_ptr("rw")) + T.uint32(1023))
                // T.uint32(1024)
                * T.uint32(1024)
            )
            warp: T.let[T.int32] = thread // 32
            lane: T.let[T.int32] = thread % 32
            k_column_here: T.let[T.int32] = k_column + head // group * size
            v_column_here: T.let[T.int32] = v_column + head // group * size
            q_here: T.let[T.uint32] = base + T.cast(thread // 128 * (64 * 128), "uint32")
            load_rows(base, q, q_first, q_count, rows, head * size, thread)
            if k_count > 0:
                load_rows(
                    base + T.uint32(q_bytes), k, k_first, k_count, keys, k_column_here, thread
                )
                load_rows(
                    base + T.uint32(q_bytes + kv_bytes),
                    v, k_first, k_count, keys, v_column_here, thread,
                )  # fmt: skip
            commit_copies()
            for i in T.unroll(size // 2):
                sums[i] = T.float32(0)
            for i in T.unroll(2):
                row_max[i] = T.float32(-math.inf)
                row_sum[i] = T.float32(0)
            for tile in T.serial((k_count + keys - 1) // keys):
                stage: T.let[T.uint32] = base + T.cast(
                    q_bytes + tile % _STAGES * (2 * kv_bytes), "uint32"
                )
                wait_for_copies(0)
                fence_for_tensor_cores()
                block_barrier()
                begin_warpgroup_products()
                for step in T.unroll(size // 16):
                    warpgroup_product(
                        scores.access_ptr("rw"),
                        q_here + T.uint32(step // 4 * (rows * 128) + step % 4 * 32),
                        stage + T.uint32(step // 4 * (keys * 128) + step % 4 * 32),
                        keys,
                        dtype,
                        accumulates=step > 0,
                    )
                commit_warpgroup_products()
                if (tile + 1) * keys < k_count:
                    # Not the stage whose values the last step's product may still be reading.
                    next_stage: T.let[T.uint32] = base + T.cast(
                        q_bytes + (tile + 1) % _STAGES * (2 * kv_bytes), "uint32"
                    )
                    load_rows(
                        next_stage,
                        k, k_first + (tile + 1) * keys, k_count - (tile + 1) * keys, keys,
                        k_column_here, thread,
                    )  # fmt: skip
                    load_rows(
                        next_stage + T.uint32(kv_bytes),
                        v, k_first + (tile + 1) * keys, k_count - (tile + 1) * keys, keys,
                        v_column_here, thread,
                    )  # fmt: skip
                commit_copies()
                wait_for_warpgroup_products(0)
                if is_causal:
                    if (tile + 1) * keys > k_count or (tile + 1) * keys > diagonal + 1:
                        hide(scores, lane, warp * 16, tile * keys, k_count, diagonal)
                else:
                    if (tile + 1) * keys > k_count:
                        hide(scores, lane, warp * 16, tile * keys, k_count, diagonal)
                soften(scores, sums, row_max, row_sum, new_max, factor)
                for i in T.unroll(keys // 4):
                    p_registers[i] = pack_pair(scores[i * 2], scores[i * 2 + 1], dtype)
                begin_warpgroup_products()
                for step in T.unroll(keys // 16):
                    warpgroup_product(
                        sums.access_ptr("rw"),
                        p_registers.access_ptr("r", offset=step * 4, extent=4),
                        stage + T.uint32(kv_bytes + step * 2048),
                        size,
                        dtype,
                        right_step=keys * 128,
                        left_in_registers=True,
                    )
                commit_warpgroup_products()
            wait_for_warpgroup_products(0)
            wait_for_copies(0)
            block_barrier()
            write(context, sums, row_sum, factor, base, head, warp, lane, q_first, q_count)

    return body
