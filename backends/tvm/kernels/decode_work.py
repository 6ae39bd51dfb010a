"""What the two kernels of decode attention must agree on: which tiles exist, and whose they are."""

from __future__ import annotations

import dataclasses
from typing import Any

from tvm.script import tirx as T  # noqa: N812

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


def tile_macros(kv_heads: int) -> tuple[Any, Any]:
    """``count_tiles(out, lengths, sequence, longest)``, and all of them for each key head."""

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
