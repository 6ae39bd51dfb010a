"""Copies of decode attention from global to shared memory."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T  # noqa: N812

from .decode_work import KEYS_PER_TILE, DecodeAttentionShape
from .device_functions import copy_async


def cache_copies(shape: DecodeAttentionShape) -> tuple[Any, Any]:
    """Macros that fetch a tile of keys or values, and the queries of a group."""
    size, group = shape.head_size, shape.group
    chunks, line = size // 8, (size + 8) * 2

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

    return load_tile, load_queries
