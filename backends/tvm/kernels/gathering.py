"""Rows of tables by index, summed."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T  # noqa: N812

from .parameters import with_parameters
from .row_functions import load_eight, store_eight


def gather_rows(size: int, dtype: str = "float16", has_second: bool = False) -> tirx.PrimFunc:
    """The kernel: ``(table, index, [second_table, second_index], rows)``; rows: [T, size].

    ``rows[t] = table[index[t]] + second_table[second_index[t]]``: the embeddings of a token, in one
    pass, 16 bytes a lane. The sum is rounded once.

    Args:
        size: columns, a multiple of 8.
        dtype: of the tables, [R, size] each. Indices are int64[T]; one below zero counts from the
            end, one outside of its table is cut to it.
        has_second: whether there is a second table.
    """

    @T.macro
    def load(registers, table, count, index, column):
        counted: T.let[T.int64] = T.Select(
            index < T.int64(0), index + T.cast(count, "int64"), index
        )
        row: T.let[T.int32] = T.cast(
            T.max(T.min(counted, T.cast(count - 1, "int64")), T.int64(0)), "int32"
        )
        load_eight(registers.access_ptr("w"), T.address_of(table[row, column]), dtype)

    @T.prim_func(s_tir=True)
    def gather_rows(
        table_handle: T.handle,
        index_handle: T.handle,
        second_table_handle: T.handle,
        second_index_handle: T.handle,
        rows_handle: T.handle,
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        tokens = T.int32()
        count = T.int32()
        second_count = T.int32()
        table = T.match_buffer(table_handle, (count, size), dtype)
        index = T.match_buffer(index_handle, (tokens,), "int64")
        second_table = T.match_buffer(second_table_handle, (second_count, size), dtype)
        second_index = T.match_buffer(second_index_handle, (tokens,), "int64")
        rows = T.match_buffer(rows_handle, (tokens, size), dtype)
        block = T.launch_thread("blockIdx.x", (tokens * (size // 8) + 255) // 256)
        thread = T.launch_thread("threadIdx.x", 256)
        values = T.alloc_buffer((8,), "float32", scope="local")
        extra = T.alloc_buffer((8,), "float32", scope="local")
        token: T.let[T.int32] = (block * 256 + thread) // (size // 8)
        column: T.let[T.int32] = (block * 256 + thread) % (size // 8) * 8
        if token < tokens:
            load(values, table, count, index[token], column)
            if has_second:
                load(extra, second_table, second_count, second_index[token], column)
                for i in T.unroll(8):
                    values[i] = values[i] + extra[i]
            store_eight(T.address_of(rows[token, column]), values.access_ptr("r"), dtype)

    return with_parameters(gather_rows, (True, True, has_second, has_second, True))
