"""Attention over packed sequences in plain TIR: correct on every target, fast on none."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T  # noqa: N812

_LOWEST = -3.0e38


def varlen_attention(
    dtype: str, q_heads: int, kv_heads: int, size: int, v_size: int, scale: float, causal: bool
) -> Any:
    """A kernel for ``VarlenAttention``; one thread for each query and head, online softmax.

    No value of the offsets or of the key index makes it read or write out of bounds. A query
    without a key gives zero.
    """
    group = q_heads // kv_heads
    q_width, k_width = q_heads * size, kv_heads * size
    v_width, o_width = kv_heads * v_size, q_heads * v_size

    @T.prim_func(private=True, s_tir=True)  # type: ignore[untyped-decorator]
    def attention(
        q: T.handle,
        k: T.handle,
        v: T.handle,
        cu_seqlens_q: T.handle,
        key_index: T.handle,
        cu_seqlens_k: T.handle,
        context: T.handle,
    ) -> None:
        queries = T.int64()
        tokens = T.int64()
        keys = T.int64()
        bounds = T.int64()
        q_buffer = T.match_buffer(q, (queries, q_width), dtype)
        k_buffer = T.match_buffer(k, (tokens, k_width), dtype)
        v_buffer = T.match_buffer(v, (tokens, v_width), dtype)
        q_bounds = T.match_buffer(cu_seqlens_q, (bounds,), "int64")
        index_buffer = T.match_buffer(key_index, (keys,), "int64")
        k_bounds = T.match_buffer(cu_seqlens_k, (bounds,), "int64")
        out = T.match_buffer(context, (queries, o_width), dtype)
        for t, h in T.grid(queries, q_heads):
            with T.sblock("attention"):
                vt, vh = T.axis.remap("SS", [t, h])
                T.reads(
                    q_buffer[vt, 0:q_width],
                    k_buffer[0:tokens, 0:k_width],
                    v_buffer[0:tokens, 0:v_width],
                    q_bounds[0:bounds],
                    index_buffer[0:keys],
                    k_bounds[0:bounds],
                )
                T.writes(out[vt, vh * v_size : (vh + 1) * v_size])
                row = T.sblock_alloc_buffer((1,), "int64", scope="local")
                largest = T.sblock_alloc_buffer((1,), "float32", scope="local")
                total = T.sblock_alloc_buffer((1,), "float32", scope="local")
                score = T.sblock_alloc_buffer((1,), "float32", scope="local")
                old = T.sblock_alloc_buffer((1,), "float32", scope="local")
                weighted = T.sblock_alloc_buffer((v_size,), "float32", scope="local")
                row[0] = T.int64(0)
                for b in range(bounds - T.int64(2)):
                    if q_bounds[b + T.int64(1)] <= vt:
                        row[0] = b + T.int64(1)
                largest[0] = T.float32(_LOWEST)
                total[0] = T.float32(0)
                for i in range(v_size):
                    weighted[i] = T.float32(0)
                for offset in range(
                    T.max(
                        T.int64(0),
                        T.min(k_bounds[row[0] + T.int64(1)], keys)
                        - T.max(k_bounds[row[0]], T.int64(0)),
                    )
                ):
                    token: T.int64 = T.max(
                        T.int64(0),
                        T.min(
                            index_buffer[T.max(k_bounds[row[0]], T.int64(0)) + offset],
                            tokens - T.int64(1),
                        ),
                    )
                    if not causal or token <= vt:
                        score[0] = T.float32(0)
                        for i in range(size):
                            score[0] = score[0] + T.Cast(
                                "float32", q_buffer[vt, vh * size + i]
                            ) * T.Cast("float32", k_buffer[token, vh // group * size + i])
                        score[0] = score[0] * T.float32(scale)
                        old[0] = largest[0]
                        largest[0] = T.max(largest[0], score[0])
                        old[0] = T.exp(old[0] - largest[0])
                        score[0] = T.exp(score[0] - largest[0])
                        total[0] = total[0] * old[0] + score[0]
                        for i in range(v_size):
                            weighted[i] = weighted[i] * old[0] + score[0] * T.Cast(
                                "float32", v_buffer[token, vh // group * v_size + i]
                            )
                for i in range(v_size):
                    out[vt, vh * v_size + i] = T.Cast(
                        dtype,
                        T.if_then_else(
                            total[0] > T.float32(0), weighted[i] / total[0], T.float32(0)
                        ),
                    )

    return attention
