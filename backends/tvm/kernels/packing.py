"""Where the kept tokens lie, and their ways into the packed layout and out of it."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T  # noqa: N812

from .device_functions import block_barrier, lanes_before, lanes_with
from .row_functions import load_eight, store_eight

_THREADS = 256


def token_layout() -> tirx.PrimFunc:
    """The kernel: ``(keep_mask, token_index, cu_seqlens, packed_position)``.

    keep_mask: bool[B, S]. token_index: int64[T] with T at least the number of kept tokens: their
    flat positions ``b * S + s``, ascending, then zeros. cu_seqlens: int64[B + 1].
    packed_position: int64[B, S], of a token that is not kept the row of the last one before it.

    One launch: a thread block per row counts the tokens of all rows before its own, which is less
    work than a second launch, then numbers its own by ballot (ByteTransformer, IPDPS 2023, section
    III.D, for a mask of any form). A token beyond T is numbered and not written.
    """

    @T.prim_func(s_tir=True)
    def token_layout(
        mask_handle: T.handle, index_handle: T.handle, cu_handle: T.handle, place_handle: T.handle
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        batch = T.int32()
        sequence = T.int32()
        tokens = T.int32()
        keep_mask = T.match_buffer(mask_handle, (batch, sequence), "bool")
        token_index = T.match_buffer(index_handle, (tokens,), "int64")
        cu_seqlens = T.match_buffer(cu_handle, (batch + 1,), "int64")
        packed_position = T.match_buffer(place_handle, (batch, sequence), "int64")
        row = T.launch_thread("blockIdx.x", batch)
        thread = T.launch_thread("threadIdx.x", 256)
        counts = T.alloc_buffer((8,), "int32", scope="shared")
        before = T.alloc_buffer((1,), "int32", scope="local")
        kept = T.alloc_buffer((1,), "int32", scope="local")
        place = T.alloc_buffer((1,), "int32", scope="local")
        warp: T.let[T.int32] = thread // 32

        before[0] = 0
        for turn in T.serial((row * sequence + 255) // 256):
            kept[0] = 0
            if turn * 256 + thread < row * sequence:
                kept[0] = T.cast(
                    keep_mask[(turn * 256 + thread) // sequence, (turn * 256 + thread) % sequence],
                    "int32",
                )
            before[0] = before[0] + lanes_with(kept[0])
        if thread % 32 == 0:
            counts[warp] = before[0]
        block_barrier()
        before[0] = 0
        for other in T.unroll(8):
            before[0] = before[0] + counts[other]
        block_barrier()
        if row == 0 and thread == 0:
            cu_seqlens[0] = T.int64(0)
        for turn in T.serial((sequence + 255) // 256):
            kept[0] = 0
            if turn * 256 + thread < sequence:
                kept[0] = T.cast(keep_mask[row, turn * 256 + thread], "int32")
            place[0] = before[0] + lanes_before(kept[0])
            if thread % 32 == 31:
                counts[warp] = place[0] + kept[0] - before[0]
            block_barrier()
            for other in T.unroll(8):
                if other < warp:
                    place[0] = place[0] + counts[other]
                before[0] = before[0] + counts[other]
            block_barrier()
            if turn * 256 + thread < sequence:
                packed_position[row, turn * 256 + thread] = T.cast(place[0] + kept[0] - 1, "int64")
                if kept[0] > 0 and place[0] < tokens:
                    token_index[place[0]] = T.cast(row, "int64") * T.cast(
                        sequence, "int64"
                    ) + T.cast(turn * 256 + thread, "int64")
        if thread == 0:
            cu_seqlens[row + 1] = T.cast(before[0], "int64")
        if row == batch - 1:
            for turn in T.serial((T.max(tokens - before[0], 0) + 255) // 256):
                if before[0] + turn * 256 + thread < tokens:
                    token_index[before[0] + turn * 256 + thread] = T.int64(0)

    return token_layout


def pack(size: int, dtype: str = "float16", is_shared: bool = False) -> tirx.PrimFunc:
    """The kernel: ``(x, token_index, packed)``; x: [B * S, size], packed: [T, size].

    token_index: int64[T]; an index outside of x is cut to it. With ``is_shared`` all rows of the
    batch have the same x: [S, size], and a token's row is ``token_index mod S``.
    """

    @T.prim_func(s_tir=True)
    def pack(x_handle: T.handle, index_handle: T.handle, packed_handle: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        positions = T.int32()
        tokens = T.int32()
        x = T.match_buffer(x_handle, (positions, size), dtype)
        token_index = T.match_buffer(index_handle, (tokens,), "int64")
        packed = T.match_buffer(packed_handle, (tokens, size), dtype)
        block = T.launch_thread("blockIdx.x", (tokens * (size // 8) + 255) // 256)
        thread = T.launch_thread("threadIdx.x", 256)
        token: T.let[T.int32] = (block * 256 + thread) // (size // 8)
        column: T.let[T.int32] = (block * 256 + thread) % (size // 8) * 8
        if token < tokens:
            place: T.let[T.int64] = token_index[token]
            last: T.let[T.int64] = T.cast(positions - 1, "int64")
            row: T.let[T.int32] = T.cast(
                T.max(place, T.int64(0)) % (last + T.int64(1))
                if is_shared
                else T.max(T.min(place, last), T.int64(0)),
                "int32",
            )
            for i in T.vectorized(8):
                packed[token, column + i] = x[row, column + i]

    return pack


def unpack(size: int, dtype: str = "float16", x_dtype: str = "") -> tirx.PrimFunc:
    """The kernel: ``(packed, packed_position, keep_mask, x)``; packed: [T, size], x: [B, S, size].

    x has another dtype than packed where ``x_dtype`` says so: what is cast after it is unpacked
    passes through memory once.

    Reads where it writes, so that every element is written once: the token's row, or zero where
    ``keep_mask`` [B, S] is false or ``packed_position`` [B, S] lies outside of ``packed``.
    """
    x_dtype = x_dtype or dtype

    @T.prim_func(s_tir=True)
    def unpack(
        packed_handle: T.handle, place_handle: T.handle, mask_handle: T.handle, x_handle: T.handle
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        batch = T.int32()
        sequence = T.int32()
        tokens = T.int32()
        packed = T.match_buffer(packed_handle, (tokens, size), dtype)
        packed_position = T.match_buffer(place_handle, (batch, sequence), "int64")
        keep_mask = T.match_buffer(mask_handle, (batch, sequence), "bool")
        x = T.match_buffer(x_handle, (batch, sequence, size), x_dtype)
        row = T.launch_thread("blockIdx.y", batch)
        block = T.launch_thread("blockIdx.x", (sequence * (size // 8) + 255) // 256)
        thread = T.launch_thread("threadIdx.x", 256)
        position: T.let[T.int32] = (block * 256 + thread) // (size // 8)
        column: T.let[T.int32] = (block * 256 + thread) % (size // 8) * 8
        values = T.alloc_buffer((8,), "float32", scope="local")
        for i in T.unroll(8):
            values[i] = T.float32(0)
        if position < sequence:
            place: T.let[T.int64] = packed_position[row, position]
            if keep_mask[row, position] and place >= T.int64(0) and place < T.cast(tokens, "int64"):
                load_eight(
                    values.access_ptr("w"),
                    T.address_of(packed[T.cast(place, "int32"), column]),
                    dtype,
                )
            store_eight(T.address_of(x[row, position, column]), values.access_ptr("r"), x_dtype)

    return unpack
