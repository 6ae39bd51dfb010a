"""Attention of one new query per sequence to a cache of keys and values, split over the keys."""

from __future__ import annotations

import dataclasses
import math

from tvm import tirx
from tvm.script import tirx as T

from .device_functions import (
    block_barrier,
    commit_copies,
    copy_async,
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

KEYS_PER_TILE = 64


@dataclasses.dataclass(frozen=True)
class DecodeAttentionShape:
    """What one pair of compiled kernels is made for.

    Attributes:
        num_heads: query heads.
        kv_num_heads: key and value heads; ``num_heads`` is at most 16 times as many.
        head_size: a multiple of 16, at most 256.
        dtype: ``float16`` or ``bfloat16``; scores and sums are float32.
        scale: factor on the scores.
        blocks: thread blocks that share the work: twice the multiprocessors of the GPU.
    """

    num_heads: int
    kv_num_heads: int
    head_size: int
    dtype: str = "float16"
    scale: float = 1.0
    blocks: int = 264

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.num_heads // self.kv_num_heads

    @property
    def partial_rows(self) -> int:
        """Rows of the scratch tensor: two unfinished ranges for each thread block."""
        return self.blocks * 2 * self.group


def decode_attention(shape: DecodeAttentionShape) -> tuple[tirx.PrimFunc, tirx.PrimFunc]:
    """Two kernels, to be run one after the other.

    ``(q, k_cache, v_cache, lengths, context, partial)`` and ``(lengths, partial, S, context)``.

    q, context: [B, num_heads * head_size]. k_cache, v_cache: [B, kv_num_heads, S, head_size].
    lengths: int64[B], how many keys are in the cache; cut to 0..S, and a sequence without keys
    gives zeros. partial: float32[partial_rows, head_size + 2], scratch.

    The schedule is LeanAttention's (arXiv 2405.10480, section 4): the key tiles of all (sequence,
    key head) pairs stand in one line, and each thread block takes an equal run of it, so that the
    GPU is full at any batch size and any mix of lengths. A pair that lies in one run is finished
    there. Of one that is cut, each block leaves (maximum, sum of weights, weighted values), and the
    second kernel joins these: the online softmax is associative. The query heads of a group are
    the rows of one tensor-core tile, and share what is read.
    """
    return _attend(shape), _combine(shape)


def _tile_macros(blocks: int, kv_heads: int):
    """What both kernels must agree on: which tiles exist, and who works on them."""

    @T.macro
    def count_tiles(out, lengths, sequence, longest):
        out[0] = (
            T.cast(T.max(T.min(lengths[sequence], T.cast(longest, "int64")), T.int64(0)), "int32")
            + (KEYS_PER_TILE - 1)
        ) // KEYS_PER_TILE

    @T.macro
    def count_all_tiles(total, tiles, lengths, batch, longest):
        total[0] = 0
        for sequence in T.serial(batch):
            count_tiles(tiles, lengths, sequence, longest)
            total[0] = total[0] + tiles[0] * kv_heads

    return count_tiles, count_all_tiles


def _attend(shape: DecodeAttentionShape) -> tirx.PrimFunc:
    dtype, size, heads, kv_heads = (
        shape.dtype, shape.head_size, shape.num_heads, shape.kv_num_heads,
    )  # fmt: skip
    group, blocks, partial_rows = shape.group, shape.blocks, shape.partial_rows
    steps, columns, chunks = size // 16, size // 8, size // 8
    line = (size + 8) * 2
    kv_bytes = KEYS_PER_TILE * line
    # Behind the tiles, what the four warps of a block found: 16 rows of (values, maximum, sum).
    merge_at = 16 * line + 4 * kv_bytes
    merge_line = (size + 2) * 4
    merge_bytes = 16 * merge_line
    log_scale = shape.scale * math.log2(math.e)
    count_tiles, count_all_tiles = _tile_macros(blocks, kv_heads)

    @T.macro
    def load_tile(address, cache, sequence, head, first, length, thread):
        """Fetch 64 rows of a cache; zeros from row ``length`` on."""
        for i in T.unroll(-(-KEYS_PER_TILE * chunks // 128)):
            if i * 128 + thread < KEYS_PER_TILE * chunks:
                copy_async(
                    address
                    + T.cast(
                        (i * 128 + thread) // chunks * line + (i * 128 + thread) % chunks * 16,
                        "uint32",
                    ),
                    T.address_of(
                        cache[
                            sequence,
                            head,
                            T.min(first + (i * 128 + thread) // chunks, length - 1),
                            (i * 128 + thread) % chunks * 8,
                        ]
                    ),
                    first + (i * 128 + thread) // chunks < length,
                )

    @T.macro
    def load_queries(address, q, sequence, head, thread):
        """Fetch the group's queries as 16 rows, zeros beyond the group."""
        for i in T.unroll(-(-16 * chunks // 128)):
            if i * 128 + thread < 16 * chunks:
                copy_async(
                    address
                    + T.cast(
                        (i * 128 + thread) // chunks * line + (i * 128 + thread) % chunks * 16,
                        "uint32",
                    ),
                    T.address_of(
                        q[
                            sequence,
                            (head * group + T.min((i * 128 + thread) // chunks, group - 1)) * size
                            + (i * 128 + thread) % chunks * 8,
                        ]
                    ),
                    (i * 128 + thread) // chunks < group,
                )

    @T.macro
    def attend_tile(scores, sums, state, q_registers, kv_registers, k_at, v_at, key, length, lane):
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
            if key + i // 4 * 8 + lane % 4 * 2 + i % 2 >= length:
                scores[i] = T.float32(-math.inf)
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
                        v_lane + stage, (first + tile) * KEYS_PER_TILE + warp * 16, length, lane,
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
                        for other in T.unroll(4):
                            state[4] = exp2(
                                load_shared_float(theirs + T.uint32(other * merge_bytes + size * 4))
                                - joined[0]
                            )
                            joined[1] = joined[1] + state[4] * load_shared_float(
                                theirs + T.uint32(other * merge_bytes + size * 4 + 4)
                            )
                            joined[2] = joined[2] + state[4] * load_shared_float(
                                theirs + T.cast(other * merge_bytes + column * 4, "uint32")
                            )
                        if first == 0 and count == tiles[0]:
                            context[sequence[0], (head * group + row) * size + column] = T.cast(
                                joined[2] / joined[1], dtype
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


def _combine(shape: DecodeAttentionShape) -> tirx.PrimFunc:
    dtype, size, heads, kv_heads = (
        shape.dtype, shape.head_size, shape.num_heads, shape.kv_num_heads,
    )  # fmt: skip
    group, blocks, partial_rows = shape.group, shape.blocks, shape.partial_rows
    count_tiles, count_all_tiles = _tile_macros(blocks, kv_heads)

    @T.macro
    def block_of(out, tile, total):
        """The block whose run holds a tile: the last whose run begins at or before it."""
        out[0] = T.cast(
            (T.cast(tile + 1, "int64") * blocks - T.int64(1)) // T.cast(total, "int64"), "int32"
        )

    @T.prim_func(s_tir=True)
    def combine_attention(
        lengths_handle: T.handle,
        partial_handle: T.handle,
        longest: T.int64,
        context_handle: T.handle,
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        batch = T.int32()
        lengths = T.match_buffer(lengths_handle, (batch,), "int64")
        partial = T.match_buffer(partial_handle, (partial_rows, size + 2), "float32")
        context = T.match_buffer(context_handle, (batch, heads * size), dtype)
        sequence = T.launch_thread("blockIdx.y", batch)
        head = T.launch_thread("blockIdx.x", kv_heads)
        thread = T.launch_thread("threadIdx.x", 128)
        total = T.alloc_buffer((1,), "int32", scope="local")
        tiles = T.alloc_buffer((1,), "int32", scope="local")
        start = T.alloc_buffer((1,), "int32", scope="local")
        first = T.alloc_buffer((1,), "int32", scope="local")
        last = T.alloc_buffer((1,), "int32", scope="local")
        joined = T.alloc_buffer((3,), "float32", scope="local")
        count_all_tiles(total, tiles, lengths, batch, longest)
        start[0] = 0
        for other in T.serial(sequence):
            count_tiles(tiles, lengths, other, longest)
            start[0] = start[0] + tiles[0] * kv_heads
        count_tiles(tiles, lengths, sequence, longest)
        if tiles[0] == 0:
            for turn in T.serial((group * size + 127) // 128):
                if turn * 128 + thread < group * size:
                    context[sequence, head * group * size + turn * 128 + thread] = T.cast(0, dtype)
        else:
            block_of(first, start[0] + head * tiles[0], total[0])
            block_of(last, start[0] + (head + 1) * tiles[0] - 1, total[0])
            if first[0] < last[0]:
                for turn in T.serial((group * size + 127) // 128):
                    if turn * 128 + thread < group * size:
                        row: T.let[T.int32] = (turn * 128 + thread) // size
                        column: T.let[T.int32] = (turn * 128 + thread) % size
                        # The first block's part begins the pair (slot 1), the others go on with it.
                        joined[0] = partial[(first[0] * 2 + 1) * group + row, size]
                        for i in T.serial(last[0] - first[0]):
                            joined[0] = T.max(
                                joined[0], partial[(first[0] + 1 + i) * 2 * group + row, size]
                            )
                        joined[1] = partial[(first[0] * 2 + 1) * group + row, size + 1] * exp2(
                            partial[(first[0] * 2 + 1) * group + row, size] - joined[0]
                        )
                        joined[2] = partial[(first[0] * 2 + 1) * group + row, column] * exp2(
                            partial[(first[0] * 2 + 1) * group + row, size] - joined[0]
                        )
                        for i in T.serial(last[0] - first[0]):
                            place: T.let[T.int32] = (first[0] + 1 + i) * 2 * group + row
                            joined[1] = joined[1] + partial[place, size + 1] * exp2(
                                partial[place, size] - joined[0]
                            )
                            joined[2] = joined[2] + partial[place, column] * exp2(
                                partial[place, size] - joined[0]
                            )
                        context[sequence, (head * group + row) * size + column] = T.cast(
                            joined[2] / joined[1], dtype
                        )

    return combine_attention
