"""What a packed attention kernel is made for."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class VarlenAttentionShape:
    """What one compiled kernel is made for.

    Attributes:
        num_heads: query heads.
        kv_num_heads: key and value heads; divides ``num_heads`` (grouped-query attention).
        head_size: of queries, keys and values; a multiple of 16, at most 256.
        dtype: ``float16`` or ``bfloat16``; scores and sums are float32.
        scale: factor on the scores.
        is_causal: a query sees the keys up to its own place, counted from the sequence's end.
        tile_rows: queries of a thread block: 64 for short sequences, 128 for long ones.
        fused_qkv: q, k and v are column ranges of one tensor, the projections' common GEMM output.
    """

    num_heads: int
    kv_num_heads: int
    head_size: int
    dtype: str = "float16"
    scale: float = 1.0
    is_causal: bool = False
    tile_rows: int = 64
    fused_qkv: bool = False
