"""Attention of one new query per sequence to a cache of keys and values, split over the keys."""

from __future__ import annotations

import math

from tvm import tirx
from tvm.script import tirx as T  # noqa: N812

from .decode_combination import combine_attention
from .decode_copies import cache_copies
from .decode_work import KEYS_PER_TILE, DecodeAttentionShape, tile_macros
from .device_functions import (
    block_barrier,
    commit_copies,
    exchange,
    exp2,
    load_matrices,
    load_shared_float,
    multiply_accumulate,
    pack_pair,
    shared_address,
    store_shared_float,
    wait_for_copies,
)


def decode_attention(shape: DecodeAttentionShape) -> tuple[tirx.PrimFunc, tirx.PrimFunc]:
    """Two kernels, to be run one after the other.

    ``(q, k_cache, v_cache, lengths, allowed, whole, partial)`` and
    ``(lengths, whole, partial, S, context)``.

    q, whole, context: [B, num_heads * head_size].
    k_cache, v_cache: [B, kv_num_heads, S, head_size].
    lengths: int64[B], how many keys are in the cache; cut to 0..S. allowed: bool[B, S], which of
    these may be attended to; a sequence without any gives zeros. whole: what needed one block
    alone. partial: float32[partial_rows, head_size + 2], scratch.

    The schedule is LeanAttention's (arXiv 2405.10480, section 4): the key tiles of all (sequence,
    key head) pairs stand in one line, and each thread block takes an equal run of it, so that the
    GPU is full at any batch size and any mix of lengths. A pair that lies in one run is finished
    there. Of one that is cut, each block leaves (maximum, sum of weights, weighted values), and the
    second kernel joins these: the online softmax is associative. The query heads of a group are
    the rows of one tensor-core tile, and share what is read.
    """
    return _attend(shape), combine_attention(shape)


def _attend(shape: DecodeAttentionShape) -> tirx.PrimFunc:
    dtype, size, heads, kv_heads = (
        shape.dtype, shape.head_size, shape.num_heads, shape.kv_num_heads,
    )  # fmt: skip
    group, blocks, partial_rows = shape.group, shape.blocks, shape.partial_rows
    steps, columns = size // 16, size // 8
    line = (size + 8) * 2
    kv_bytes = KEYS_PER_TILE * line
    # Behind the tiles, what the four warps of a block found: 16 rows of (values, maximum, sum).
    merge_at = 16 * line + 4 * kv_bytes
    merge_line = (size + 2) * 4
    merge_bytes = 16 * merge_line
    log_scale = shape.scale * math.log2(math.e)
    count_tiles, count_all_tiles = tile_macros(kv_heads)

    load_tile, load_queries = cache_copies(shape)

    @T.macro
    def attend_tile(
        scores, sums, state, q_registers, kv_registers, k_at, v_at, allowed, sequence, key, length,
        lane,
    ):  # fmt: skip
        """One warp, 16 keys: scores, a step of the online softmax, weighted values.

        state: for each of the lane's two rows the largest score and the sum of the weights.
        """
        for i in T.unroll(8):
            scores[i] = T.float32(0)
        for step in T.unroll(steps):
            load_matrices(kv_registers.access_ptr("w"), k_at + T.uint32(step * 32))
            for half in T.unroll(2):
                multiply_accumulate(
                    scores.access_ptr("rw", offset=half * 4, extent=4),
                    q_registers.access_ptr("r", offset=step * 4, extent=4),
                    kv_registers.access_ptr("r", offset=half * 2, extent=2),
                    dtype,
                )
        for i in T.unroll(8):
            column: T.let[T.int32] = key + i // 4 * 8 + lane % 4 * 2 + i % 2
            scores[i] = T.if_then_else(
                T.if_then_else(column < length, allowed[sequence, column], T.bool(False)),
                scores[i],
                T.float32(-math.inf),
            )
        for half in T.unroll(2):
            state[4] = state[half]
            for i in T.unroll(4):
                state[4] = T.max(state[4], scores[i // 2 * 4 + half * 2 + i % 2])
            state[4] = T.max(state[4], exchange(state[4], 1))
            state[4] = T.max(state[4], exchange(state[4], 2))
            state[5] = T.Select(
                state[4] == T.float32(-math.inf), T.float32(0), state[4] * T.float32(log_scale)
            )
            state[6] = exp2(state[half] * T.float32(log_scale) - state[5])
            state[half] = state[4]
            state[2 + half] = state[2 + half] * state[6]
            for i in T.unroll(columns):
                for j in T.unroll(2):
                    sums[i * 4 + half * 2 + j] = sums[i * 4 + half * 2 + j] * state[6]
            for i in T.unroll(4):
                scores[i // 2 * 4 + half * 2 + i % 2] = exp2(
                    scores[i // 2 * 4 + half * 2 + i % 2] * T.float32(log_scale) - state[5]
                )
                state[2 + half] = state[2 + half] + scores[i // 2 * 4 + half * 2 + i % 2]
        for i in T.unroll(4):
            q_registers[steps * 4 + i] = pack_pair(scores[i * 2], scores[i * 2 + 1], dtype)
        for pair in T.unroll(steps):
            load_matrices(kv_registers.access_ptr("w"), v_at + T.uint32(pair * 32), transposed=True)
            for half in T.unroll(2):
                multiply_accumulate(
                    sums.access_ptr("rw", offset=(pair * 2 + half) * 4, extent=4),
                    q_registers.access_ptr("r", offset=steps * 4, extent=4),
                    kv_registers.access_ptr("r", offset=half * 2, extent=2),
                    dtype,
                )

    @T.prim_func(s_tir=True)
    def decode_attention(
        q_handle: T.handle,
        k_handle: T.handle,
        v_handle: T.handle,
        lengths_handle: T.handle,
        allowed_handle: T.handle,
        context_handle: T.handle,
        partial_handle: T.handle,
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        batch = T.int32()
        longest = T.int32()
        q = T.match_buffer(q_handle, (batch, heads * size), dtype)
        k_cache = T.match_buffer(k_handle, (batch, kv_heads, longest, size), dtype)
        v_cache = T.match_buffer(v_handle, (batch, kv_heads, longest, size), dtype)
        lengths = T.match_buffer(lengths_handle, (batch,), "int64")
        allowed = T.match_buffer(allowed_handle, (batch, longest), "bool")
        context = T.match_buffer(context_handle, (batch, heads * size), dtype)
        partial = T.match_buffer(partial_handle, (partial_rows, size + 2), "float32")
        block = T.launch_thread("blockIdx.x", blocks)
        thread = T.launch_thread("threadIdx.x", 128)
        shared = T.alloc_buffer(((merge_at + 4 * merge_bytes) // 2,), dtype, scope="shared.dyn")
        q_registers = T.alloc_buffer((steps * 4 + 4,), "uint32", scope="local")
        kv_registers = T.alloc_buffer((4,), "uint32", scope="local")
        scores = T.alloc_buffer((8,), "float32", scope="local")
        sums = T.alloc_buffer((columns * 4,), "float32", scope="local")
        state = T.alloc_buffer((7,), "float32", scope="local")
        total = T.alloc_buffer((1,), "int32", scope="local")
        tiles = T.alloc_buffer((1,), "int32", scope="local")
        sequence = T.alloc_buffer((2,), "int32", scope="local")
        position = T.alloc_buffer((1,), "int32", scope="local")
        joined = T.alloc_buffer((3,), "float32", scope="local")
        base: T.let[T.uint32] = shared_address(shared.access_ptr("rw"))
        merged: T.let[T.uint32] = base + T.uint32(merge_at)
        warp: T.let[T.int32] = thread // 32
        lane: T.let[T.int32] = thread % 32
        q_lane: T.let[T.uint32] = base + T.cast(lane % 16 * line + lane // 16 * 16, "uint32")
        k_lane: T.let[T.uint32] = base + T.cast(
            (16 + warp * 16 + lane % 8 + lane // 16 * 8) * line + lane // 8 % 2 * 16, "uint32"
        )
        v_lane: T.let[T.uint32] = base + T.cast(
            (16 + KEYS_PER_TILE + warp * 16 + lane % 16) * line + lane // 16 * 16, "uint32"
        )

        count_all_tiles(total, tiles, lengths, batch, longest)
        position[0] = T.cast(T.cast(block, "int64") * T.cast(total[0], "int64") // blocks, "int32")
        end: T.let[T.int32] = T.cast(
            T.cast(block + 1, "int64") * T.cast(total[0], "int64") // blocks, "int32"
        )
        sequence[0] = 0  # which one the position lies in, and where its tiles begin
        sequence[1] = 0
        while position[0] < end:
            count_tiles(tiles, lengths, sequence[0], longest)
            if position[0] >= sequence[1] + tiles[0] * kv_heads:
                sequence[1] = sequence[1] + tiles[0] * kv_heads
                sequence[0] = sequence[0] + 1
            else:
                head: T.let[T.int32] = (position[0] - sequence[1]) // tiles[0]
                first: T.let[T.int32] = (position[0] - sequence[1]) % tiles[0]
                count: T.let[T.int32] = T.min(tiles[0] - first, end - position[0])
                length: T.let[T.int32] = T.cast(
                    T.min(lengths[sequence[0]], T.cast(longest, "int64")), "int32"
                )
                load_queries(base, q, sequence[0], head, thread)
                load_tile(
                    base + T.uint32(16 * line), k_cache, sequence[0], head,
                    first * KEYS_PER_TILE, length, thread,
                )  # fmt: skip
                load_tile(
                    base + T.uint32(16 * line + kv_bytes), v_cache, sequence[0], head,
                    first * KEYS_PER_TILE, length, thread,
                )  # fmt: skip
                commit_copies()
                for i in T.unroll(columns * 4):
                    sums[i] = T.float32(0)
                for half in T.unroll(2):
                    state[half] = T.float32(-math.inf)
                    state[2 + half] = T.float32(0)
                for tile in T.serial(count):
                    stage: T.let[T.uint32] = T.cast(tile % 2 * (2 * kv_bytes), "uint32")
                    wait_for_copies(0)
                    block_barrier()
                    if tile == 0:
                        for step in T.unroll(steps):
                            load_matrices(
                                q_registers.access_ptr("w", offset=step * 4),
                                q_lane + T.uint32(step * 32),
                            )
                    if tile + 1 < count:
                        next_stage: T.let[T.uint32] = base + T.cast(
                            16 * line + (tile + 1) % 2 * (2 * kv_bytes), "uint32"
                        )
                        load_tile(
                            next_stage, k_cache, sequence[0], head,
                            (first + tile + 1) * KEYS_PER_TILE, length, thread,
                        )  # fmt: skip
                        load_tile(
                            next_stage + T.uint32(kv_bytes), v_cache, sequence[0], head,
                            (first + tile + 1) * KEYS_PER_TILE, length, thread,
                        )  # fmt: skip
                    commit_copies()
                    attend_tile(
                        scores, sums, state, q_registers, kv_registers, k_lane + stage,
                        v_lane + stage, allowed, sequence[0],
                        (first + tile) * KEYS_PER_TILE + warp * 16, length, lane,
                    )  # fmt: skip
                for half in T.unroll(2):
                    state[2 + half] = state[2 + half] + exchange(state[2 + half], 1)
                    state[2 + half] = state[2 + half] + exchange(state[2 + half], 2)
                    row: T.let[T.int32] = lane // 4 + half * 8
                    mine: T.let[T.uint32] = merged + T.cast(
                        warp * merge_bytes + row * merge_line, "uint32"
                    )
                    store_shared_float(
                        mine + T.uint32(size * 4), state[half] * T.float32(log_scale)
                    )
                    store_shared_float(mine + T.uint32(size * 4 + 4), state[2 + half])
                    for i in T.unroll(columns):
                        for j in T.unroll(2):
                            store_shared_float(
                                mine + T.cast(i * 32 + lane % 4 * 8 + j * 4, "uint32"),
                                sums[i * 4 + half * 2 + j],
                            )
                block_barrier()
                for turn in T.serial((group * size + 127) // 128):
                    if turn * 128 + thread < group * size:
                        row: T.let[T.int32] = (turn * 128 + thread) // size
                        column: T.let[T.int32] = (turn * 128 + thread) % size
                        theirs: T.let[T.uint32] = merged + T.cast(row * merge_line, "uint32")
                        joined[0] = T.float32(-math.inf)
                        for other in T.unroll(4):
                            joined[0] = T.max(
                                joined[0],
                                load_shared_float(
                                    theirs + T.uint32(other * merge_bytes + size * 4)
                                ),
                            )
                        joined[1] = T.float32(0)
                        joined[2] = T.float32(0)
                        state[5] = T.Select(  # with every key forbidden all weights are zero
                            joined[0] == T.float32(-math.inf), T.float32(0), joined[0]
                        )
                        for other in T.unroll(4):
                            state[4] = exp2(
                                load_shared_float(theirs + T.uint32(other * merge_bytes + size * 4))
                                - state[5]
                            )
                            joined[1] = joined[1] + state[4] * load_shared_float(
                                theirs + T.uint32(other * merge_bytes + size * 4 + 4)
                            )
                            joined[2] = joined[2] + state[4] * load_shared_float(
                                theirs + T.cast(other * merge_bytes + column * 4, "uint32")
                            )
                        if first == 0 and count == tiles[0]:
                            context[sequence[0], (head * group + row) * size + column] = T.cast(
                                T.if_then_else(
                                    joined[1] > T.float32(0), joined[2] / joined[1], T.float32(0)
                                ),
                                dtype,
                            )
                        else:
                            place: T.let[T.int32] = (
                                block * 2 + T.Select(first == 0, 1, 0)
                            ) * group + row
                            partial[place, column] = joined[2]
                            if column == 0:
                                partial[place, size] = joined[0]
                                partial[place, size + 1] = joined[1]
                block_barrier()
                position[0] = position[0] + count

    return decode_attention
