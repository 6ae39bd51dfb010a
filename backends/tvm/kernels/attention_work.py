"""Which query tile each thread block of a packed attention works on."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T  # noqa: N812


def work_items(tokens: int, sequences: int, tile_rows: int) -> int:
    """How many tiles at most: each sequence wastes less than one tile."""
    return tokens // tile_rows + sequences


def attention_work(tile_rows: int, is_causal: bool, index_dtype: str = "int64") -> tirx.PrimFunc:
    """The kernel: ``(cu_seqlens_q, cu_seqlens_k, tokens, key_tokens, work)``.

    cu_seqlens_q, cu_seqlens_k: [B + 1]. work: int32[W, 8] with ``W = work_items(...)``; an item
    is (first query, queries, first key, keys, diagonal, 0, 0, 0), where query ``i`` of the tile
    sees key ``j`` of the sequence if ``j <= i + diagonal``. tokens, key_tokens: rows of q and k.

    This is also where ``cu_seqlens`` is made safe. Every range is cut to the tensors' sizes, and
    one that ends before it begins is empty: whatever the values, the attention reads and writes
    inside its tensors. Made once for a batch, it serves all layers.

    Items are ordered by the length of their sequences, the longest first (longest processing time
    first, Graham 1969), so that the last blocks to start are short ones. Items left over are empty.
    """

    @T.macro
    def cut_range(span, cu_seqlens, sequence, limit):
        """Span = (first row, rows) of a sequence, inside ``limit`` rows."""
        span[0] = T.cast(
            T.max(T.min(cu_seqlens[sequence], T.cast(limit, index_dtype)), T.cast(0, index_dtype)),
            "int32",
        )
        span[1] = (
            T.cast(
                T.max(
                    T.min(cu_seqlens[sequence + 1], T.cast(limit, index_dtype)),
                    T.cast(span[0], index_dtype),
                ),
                "int32",
            )
            - span[0]
        )

    @T.macro
    def write_item(work, row, first, q_span, k_span):
        """One tile, whose queries begin ``first`` rows into their sequence."""
        work[row, 0] = q_span[0] + first
        work[row, 1] = T.min(q_span[1] - first, tile_rows)
        work[row, 2] = k_span[0]
        if is_causal:
            work[row, 3] = T.max(T.min(k_span[1], k_span[1] - q_span[1] + first + tile_rows), 0)
        else:
            work[row, 3] = k_span[1]
        work[row, 4] = k_span[1] - q_span[1] + first
        for field in T.unroll(3):
            work[row, 5 + field] = 0

    @T.prim_func(s_tir=True)
    def attention_work(
        q_handle: T.handle,
        k_handle: T.handle,
        tokens: T.int64,
        key_tokens: T.int64,
        work_handle: T.handle,
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        boundaries = T.int32()
        items = T.int32()
        cu_seqlens_q = T.match_buffer(q_handle, (boundaries,), index_dtype)
        cu_seqlens_k = T.match_buffer(k_handle, (boundaries,), index_dtype)
        work = T.match_buffer(work_handle, (items, 8), "int32")
        block = T.launch_thread("blockIdx.x", 1)
        thread = T.launch_thread("threadIdx.x", 256)
        place = T.alloc_buffer((1,), "int32", scope="local")
        q_span = T.alloc_buffer((2,), "int32", scope="local")
        k_span = T.alloc_buffer((2,), "int32", scope="local")
        q_other = T.alloc_buffer((2,), "int32", scope="local")
        k_other = T.alloc_buffer((2,), "int32", scope="local")
        q_limit: T.let[T.int32] = T.cast(tokens, "int32")
        k_limit: T.let[T.int32] = T.cast(key_tokens, "int32")

        for turn in T.serial((boundaries + 254) // 256):
            sequence: T.let[T.int32] = block + turn * 256 + thread
            if sequence < boundaries - 1:
                cut_range(q_span, cu_seqlens_q, sequence, q_limit)
                cut_range(k_span, cu_seqlens_k, sequence, k_limit)
                place[0] = 0
                for rival in T.serial(boundaries - 1):
                    cut_range(q_other, cu_seqlens_q, rival, q_limit)
                    cut_range(k_other, cu_seqlens_k, rival, k_limit)
                    if k_other[1] > k_span[1] or (k_other[1] == k_span[1] and rival < sequence):
                        place[0] = T.min(
                            place[0] + (q_other[1] + (tile_rows - 1)) // tile_rows, items
                        )
                tiles: T.let[T.int32] = (q_span[1] + (tile_rows - 1)) // tile_rows
                for tile in T.serial(tiles):
                    if place[0] + tile < items:
                        write_item(
                            work, place[0] + tile, (tiles - 1 - tile) * tile_rows, q_span, k_span
                        )
        place[0] = 0
        for sequence in T.serial(boundaries - 1):
            cut_range(q_other, cu_seqlens_q, sequence, q_limit)
            place[0] = T.min(place[0] + (q_other[1] + (tile_rows - 1)) // tile_rows, items)
        for turn in T.serial((items - place[0] + 255) // 256):
            if place[0] + turn * 256 + thread < items:
                for field in T.unroll(8):
                    work[place[0] + turn * 256 + thread, field] = 0

    return attention_work
