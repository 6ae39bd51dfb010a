"""The second half of decode attention: what several thread blocks left of a sequence is joined."""

from __future__ import annotations

import math

from tvm import tirx
from tvm.script import tirx as T  # noqa: N812

from .decode_work import DecodeAttentionShape, tile_macros
from .device_functions import exp2


def combine_attention(shape: DecodeAttentionShape) -> tirx.PrimFunc:
    """The second kernel of ``decode_attention``: joins the parts of what was cut.

    What one block computed alone is copied: a function of Relax writes no tensor that it reads.
    """
    dtype, size, heads, kv_heads = (
        shape.dtype, shape.head_size, shape.num_heads, shape.kv_num_heads,
    )  # fmt: skip
    group, blocks, partial_rows = shape.group, shape.blocks, shape.partial_rows
    count_tiles, count_all_tiles = tile_macros(kv_heads)

    @T.macro
    def block_of(out, tile, total):
        """The block whose run holds a tile: the last whose run begins at or before it."""
        out[0] = T.cast(
            (T.cast(tile + 1, "int64") * blocks - T.int64(1)) // T.cast(total, "int64"), "int32"
        )

    @T.prim_func(s_tir=True)
    def combine(
        lengths_handle: T.handle,
        whole_handle: T.handle,
        partial_handle: T.handle,
        longest: T.int64,
        context_handle: T.handle,
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        batch = T.int32()
        lengths = T.match_buffer(lengths_handle, (batch,), "int64")
        whole = T.match_buffer(whole_handle, (batch, heads * size), dtype)
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
                        if joined[0] == T.float32(-math.inf):
                            joined[0] = T.float32(0)
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
                            T.if_then_else(
                                joined[1] > T.float32(0), joined[2] / joined[1], T.float32(0)
                            ),
                            dtype,
                        )
            else:
                for turn in T.serial((group * size + 127) // 128):
                    if turn * 128 + thread < group * size:
                        place: T.let[T.int32] = head * group * size + turn * 128 + thread
                        context[sequence, place] = whole[sequence, place]

    return combine
