"""Attention within each sequence of a packed batch, on tensor cores (sm_80 and newer)."""

from __future__ import annotations

import math

from tvm import tirx
from tvm.script import tirx as T  # noqa: N812

from .attention_shape import VarlenAttentionShape
from .device_functions import (
    block_barrier,
    commit_copies,
    copy_async,
    load_matrices,
    multiply_accumulate,
    pack_pair,
    shared_address,
    wait_for_copies,
)
from .online_softmax import softmax_macros


def varlen_attention(shape: VarlenAttentionShape) -> tirx.PrimFunc:
    """The kernel: ``(q, k, v, work, context)``, or ``(qkv, work, context)`` if ``fused_qkv``.

    q: [T, num_heads * head_size]; k, v: [Tk, kv_num_heads * head_size]; or qkv: [T, (num_heads + 2
    * kv_num_heads) * head_size]. work: int32[W, 8], which ``attention_work`` makes of cu_seqlens
    for the same ``tile_rows``. context: [T, num_heads * head_size], of which the rows that belong
    to no sequence are not written.

    A thread block works on ``tile_rows`` queries of one head and walks over the keys, whose tiles
    it fetches asynchronously, one ahead. Scores never leave the registers: the softmax is the
    online one of FlashAttention-2 (arXiv 2307.08691, algorithm 1). Blocks are started longest
    sequence first, which leaves no long one for the end. The packed layout is that of
    ByteTransformer (IPDPS 2023, section III.E), whose short path (keys and values of a sequence
    whole in shared memory) is the case in which the walk has one or two steps.
    """
    if shape.fused_qkv:
        return _fused(shape)
    return _separate(shape)


def _fused(shape: VarlenAttentionShape) -> tirx.PrimFunc:
    heads, kv_heads, size = shape.num_heads, shape.kv_num_heads, shape.head_size
    row = (heads + 2 * kv_heads) * size
    dtype = shape.dtype
    body = _tile_body(shape, row, row, heads * size, (heads + kv_heads) * size)

    @T.prim_func(s_tir=True)
    def varlen_attention_qkv(qkv_handle: T.handle, work_handle: T.handle, context_handle: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        tokens = T.int32()
        items = T.int32()
        qkv = T.match_buffer(qkv_handle, (tokens, row), dtype)
        work = T.match_buffer(work_handle, (items, 8), "int32")
        context = T.match_buffer(context_handle, (tokens, heads * size), dtype)
        head = T.launch_thread("blockIdx.x", heads)
        item = T.launch_thread("blockIdx.y", items)
        thread = T.launch_thread("threadIdx.x", 128)
        body(qkv, qkv, qkv, work, context, head, item, thread)

    return varlen_attention_qkv


def _separate(shape: VarlenAttentionShape) -> tirx.PrimFunc:
    heads, kv_heads, size = shape.num_heads, shape.kv_num_heads, shape.head_size
    dtype = shape.dtype
    body = _tile_body(shape, heads * size, kv_heads * size, 0, 0)

    @T.prim_func(s_tir=True)
    def varlen_attention(
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
        thread = T.launch_thread("threadIdx.x", 128)
        body(q, k, v, work, context, head, item, thread)

    return varlen_attention


def _tile_body(shape: VarlenAttentionShape, q_row: int, kv_row: int, k_column: int, v_column: int):
    """One thread block's work, as a macro. ``*_row``: elements between tokens of a tensor."""
    dtype, size = shape.dtype, shape.head_size
    group = shape.num_heads // shape.kv_num_heads
    rows = shape.tile_rows
    keys = 64 if size <= 128 else 32
    blocks = rows // 64  # of 16 queries, per warp
    steps, columns = size // 16, size // 8
    line = (size + 8) * 2  # bytes from row to row: 16 more than the row has, against bank conflicts
    chunks = size // 8  # of 16 bytes, in a row
    kv_bytes = keys * line
    shared_elements = (rows * line + 4 * kv_bytes) // 2
    is_causal = shape.is_causal
    softmax = softmax_macros(blocks, keys, size, dtype, shape.scale, is_causal)
    hide, soften, write = softmax.hide, softmax.soften, softmax.write

    @T.macro
    def load_rows(address, tensor, first, count, tile, column, thread):
        """Fetch ``tile`` rows from ``first`` on; zeros from row ``count`` on, which is above 0."""
        for i in T.unroll(-(-tile * chunks // 128)):
            if i * 128 + thread < tile * chunks:
                copy_async(
                    address
                    + T.cast(
                        (i * 128 + thread) // chunks * line + (i * 128 + thread) % chunks * 16,
                        "uint32",
                    ),
                    T.address_of(
                        tensor[
                            first + T.min((i * 128 + thread) // chunks, count - 1),
                            column + (i * 128 + thread) % chunks * 8,
                        ]
                    ),
                    (i * 128 + thread) // chunks < count,
                )

    @T.macro
    def score(scores, q_registers, kv_registers, keys_address):
        """Scores = q k^T for the warp's queries and a tile of keys."""
        for i in T.unroll(blocks * keys // 2):
            scores[i] = T.float32(0)
        for step in T.unroll(steps):
            for pair in T.unroll(keys // 16):
                load_matrices(
                    kv_registers.access_ptr("w"),
                    keys_address + T.uint32(pair * 16 * line + step * 32),
                )
                for block in T.unroll(blocks):
                    for half in T.unroll(2):
                        multiply_accumulate(
                            scores.access_ptr(
                                "rw", offset=block * (keys // 2) + (pair * 2 + half) * 4, extent=4
                            ),
                            q_registers.access_ptr(
                                "r", offset=(block * steps + step) * 4, extent=4
                            ),
                            kv_registers.access_ptr("r", offset=half * 2, extent=2),
                            dtype,
                        )

    @T.macro
    def weigh(sums, scores, p_registers, kv_registers, values_address):
        """Sums += weights v. The scores' registers lie as the product's left operand must."""
        for step in T.unroll(keys // 16):
            for block in T.unroll(blocks):
                for i in T.unroll(4):
                    p_registers[block * 4 + i] = pack_pair(
                        scores[block * (keys // 2) + step * 8 + i * 2],
                        scores[block * (keys // 2) + step * 8 + i * 2 + 1],
                        dtype,
                    )
            for pair in T.unroll(size // 16):
                load_matrices(
                    kv_registers.access_ptr("w"),
                    values_address + T.uint32(step * 16 * line + pair * 32),
                    transposed=True,
                )
                for block in T.unroll(blocks):
                    for half in T.unroll(2):
                        multiply_accumulate(
                            sums.access_ptr(
                                "rw", offset=block * columns * 4 + (pair * 2 + half) * 4, extent=4
                            ),
                            p_registers.access_ptr("r", offset=block * 4, extent=4),
                            kv_registers.access_ptr("r", offset=half * 2, extent=2),
                            dtype,
                        )

    @T.macro
    def body(q, k, v, work, context, head, item, thread):
        shared = T.alloc_buffer((shared_elements,), dtype, scope="shared.dyn")
        q_registers = T.alloc_buffer((blocks * steps * 4,), "uint32", scope="local")
        kv_registers = T.alloc_buffer((4,), "uint32", scope="local")
        p_registers = T.alloc_buffer((blocks * 4,), "uint32", scope="local")
        scores = T.alloc_buffer((blocks * keys // 2,), "float32", scope="local")
        sums = T.alloc_buffer((blocks * columns * 4,), "float32", scope="local")
        row_max = T.alloc_buffer((blocks * 2,), "float32", scope="local")
        row_sum = T.alloc_buffer((blocks * 2,), "float32", scope="local")
        new_max = T.alloc_buffer((1,), "float32", scope="local")
        factor = T.alloc_buffer((1,), "float32", scope="local")

        q_first: T.let[T.int32] = work[item, 0]
        q_count: T.let[T.int32] = work[item, 1]
        k_first: T.let[T.int32] = work[item, 2]
        k_count: T.let[T.int32] = work[item, 3]
        diagonal: T.let[T.int32] = work[item, 4]
        if q_count > 0:
            base: T.let[T.uint32] = shared_address(shared.access_ptr("rw"))
            warp: T.let[T.int32] = thread // 32
            lane: T.let[T.int32] = thread % 32
            k_column_here: T.let[T.int32] = k_column + head // group * size
            v_column_here: T.let[T.int32] = v_column + head // group * size
            # ldmatrix takes the address of one row from each lane; values are read transposed.
            q_lane: T.let[T.uint32] = base + T.cast(
                (warp * 16 * blocks + lane % 16) * line + lane // 16 * 16, "uint32"
            )
            k_lane: T.let[T.uint32] = base + T.cast(
                (rows + lane % 8 + lane // 16 * 8) * line + lane // 8 % 2 * 16, "uint32"
            )
            v_lane: T.let[T.uint32] = base + T.cast(
                (rows + keys + lane % 16) * line + lane // 16 * 16, "uint32"
            )
            load_rows(base, q, q_first, q_count, rows, head * size, thread)
            if k_count > 0:
                load_rows(
                    base + T.uint32(rows * line), k, k_first, k_count, keys, k_column_here, thread
                )
                load_rows(
                    base + T.uint32((rows + keys) * line),
                    v, k_first, k_count, keys, v_column_here, thread,
                )  # fmt: skip
            commit_copies()
            for i in T.unroll(blocks * columns * 4):
                sums[i] = T.float32(0)
            for i in T.unroll(blocks * 2):
                row_max[i] = T.float32(-math.inf)
                row_sum[i] = T.float32(0)
            for tile in T.serial((k_count + keys - 1) // keys):
                stage: T.let[T.uint32] = T.cast(tile % 2 * (2 * kv_bytes), "uint32")
                wait_for_copies(0)
                block_barrier()
                if tile == 0:
                    for block in T.unroll(blocks):
                        for step in T.unroll(steps):
                            load_matrices(
                                q_registers.access_ptr("w", offset=(block * steps + step) * 4),
                                q_lane + T.uint32(block * 16 * line + step * 32),
                            )
                if (tile + 1) * keys < k_count:
                    next_stage: T.let[T.uint32] = base + T.cast(
                        rows * line + (tile + 1) % 2 * (2 * kv_bytes), "uint32"
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
                score(scores, q_registers, kv_registers, k_lane + stage)
                if is_causal:
                    if (tile + 1) * keys > k_count or (tile + 1) * keys > diagonal + 1:
                        hide(scores, lane, warp * 16 * blocks, tile * keys, k_count, diagonal)
                else:
                    if (tile + 1) * keys > k_count:
                        hide(scores, lane, warp * 16 * blocks, tile * keys, k_count, diagonal)
                soften(scores, sums, row_max, row_sum, new_max, factor)
                weigh(sums, scores, p_registers, kv_registers, v_lane + stage)
            wait_for_copies(0)
            block_barrier()
            write(context, sums, row_sum, factor, base, head, warp, lane, q_first, q_count)

    return body
