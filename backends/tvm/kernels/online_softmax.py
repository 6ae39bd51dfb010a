"""The online softmax of a tile of scores, as macros that the attention kernels share."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from tvm.script import tirx as T  # noqa: N812

from .device_functions import (
    copy_to_global,
    exchange,
    exp2,
    pack_pair,
    store_shared,
    warp_barrier,
)


@dataclasses.dataclass(frozen=True)
class SoftmaxMacros:
    """Macros over the registers of a warp; see ``softmax_macros``."""

    hide: Any
    soften: Any
    write: Any


def softmax_macros(
    blocks: int, keys: int, size: int, dtype: str, scale: float, is_causal: bool
) -> SoftmaxMacros:
    """Macros for a warp's ``blocks`` times 16 queries, tiles of ``keys`` keys, heads of ``size``.

    Registers are laid out as the tensor cores leave them: of each 16 x 8 block of a product a lane
    has (row lane / 4, columns 2 (lane mod 4) and one more) and the same eight rows below.
    """
    columns, chunks = size // 8, size // 8
    line = (size + 8) * 2
    log_scale = scale * math.log2(math.e)

    @T.macro
    def hide(scores, lane, first_row, first_key, k_count, diagonal):
        """Set the scores of keys that a query does not see to minus infinity."""
        for block in T.unroll(blocks):
            for i in T.unroll(keys // 2):
                key: T.let[T.int32] = first_key + i // 4 * 8 + lane % 4 * 2 + i % 2
                row: T.let[T.int32] = first_row + block * 16 + lane // 4 + i // 2 % 2 * 8
                if is_causal:
                    if key >= k_count or key > row + diagonal:
                        scores[block * (keys // 2) + i] = T.float32(-math.inf)
                else:
                    if key >= k_count:
                        scores[block * (keys // 2) + i] = T.float32(-math.inf)

    @T.macro
    def soften(scores, sums, row_max, row_sum, new_max, factor):
        """One step of the online softmax: scores become weights, what was summed is rescaled."""
        for block in T.unroll(blocks):
            for half in T.unroll(2):
                new_max[0] = row_max[block * 2 + half]
                for i in T.unroll(keys // 8):
                    for j in T.unroll(2):
                        new_max[0] = T.max(
                            new_max[0], scores[block * (keys // 2) + i * 4 + half * 2 + j]
                        )
                new_max[0] = T.max(new_max[0], exchange(new_max[0], 1))
                new_max[0] = T.max(new_max[0], exchange(new_max[0], 2))
                # A row that has seen no key yet: minus infinity less itself would not be a number.
                factor[0] = T.Select(
                    new_max[0] == T.float32(-math.inf),
                    T.float32(0),
                    new_max[0] * T.float32(log_scale),
                )
                row_max[block * 2 + half] = exp2(
                    row_max[block * 2 + half] * T.float32(log_scale) - factor[0]
                )
                row_sum[block * 2 + half] = row_sum[block * 2 + half] * row_max[block * 2 + half]
                for i in T.unroll(columns):
                    for j in T.unroll(2):
                        sums[block * columns * 4 + i * 4 + half * 2 + j] = (
                            sums[block * columns * 4 + i * 4 + half * 2 + j]
                            * row_max[block * 2 + half]
                        )
                row_max[block * 2 + half] = new_max[0]
                for i in T.unroll(keys // 8):
                    for j in T.unroll(2):
                        scores[block * (keys // 2) + i * 4 + half * 2 + j] = exp2(
                            scores[block * (keys // 2) + i * 4 + half * 2 + j]
                            * T.float32(log_scale)
                            - factor[0]
                        )
                        row_sum[block * 2 + half] = (
                            row_sum[block * 2 + half]
                            + scores[block * (keys // 2) + i * 4 + half * 2 + j]
                        )

    @T.macro
    def write(context, sums, row_sum, factor, base, head, warp, lane, q_first, q_count):
        """Divide by the sums of the weights and write, 16 bytes a lane, by way of q's place."""
        for block in T.unroll(blocks):
            for half in T.unroll(2):
                factor[0] = row_sum[block * 2 + half]
                factor[0] = factor[0] + exchange(factor[0], 1)
                factor[0] = factor[0] + exchange(factor[0], 2)
                factor[0] = T.Select(
                    factor[0] > T.float32(0), T.float32(1) / factor[0], T.float32(0)
                )
                for i in T.unroll(columns):
                    store_shared(
                        base
                        + T.cast(
                            (warp * 16 * blocks + block * 16 + half * 8 + lane // 4) * line
                            + i * 16
                            + lane % 4 * 4,
                            "uint32",
                        ),
                        pack_pair(
                            sums[block * columns * 4 + i * 4 + half * 2] * factor[0],
                            sums[block * columns * 4 + i * 4 + half * 2 + 1] * factor[0],
                            dtype,
                        ),
                    )
        warp_barrier()
        for i in T.unroll(blocks * 16 * chunks // 32):
            row: T.let[T.int32] = warp * 16 * blocks + (i * 32 + lane) // chunks
            chunk: T.let[T.int32] = (i * 32 + lane) % chunks
            if row < q_count:
                copy_to_global(
                    T.address_of(context[q_first + row, head * size + chunk * 8]),
                    base + T.cast(row * line + chunk * 16, "uint32"),
                )

    return SoftmaxMacros(hide, soften, write)
