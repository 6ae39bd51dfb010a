"""Every dialect operator's reference function against numpy, and its shape rule against both."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dechaff.ir import DialectOp, Module, dialect_op, dialect_ops, infer_shapes, parse
from tests.model_runner import Array, run_module

HEADER = '<ir_version: 10, opset_import: ["" : 23, "dechaff" : 1]>\n'

LAYOUT = """
    g (bool[B,S] mask) => (int64[t] index, int64[n] starts, int64[B,S] position) {
        index, starts, position = dechaff.TokenLayout (mask)
    }
"""
ROUND_TRIP = """
    g (float[B,S,3] x, bool[B,S] mask) => (float[t,3] packed, float[B,S,3] y) {
        index, starts, position = dechaff.TokenLayout (mask)
        packed = dechaff.Pack (x, index, mask)
        y = dechaff.Unpack (packed, index, mask)
    }
"""
BROADCAST = """
    g (float[{leading},3] x, bool[B,S] mask) => (float[t,3] packed) {{
        index, starts, position = dechaff.TokenLayout (mask)
        packed = dechaff.Pack (x, index, mask)
    }}
"""
ATTENTION = """
    g (float[T,{q_width}] q, float[T,{kv_width}] k, float[T,{kv_width}] v,
       int64[N] starts, int64[K] key_index, int64[N] key_starts) => (float[T,{q_width}] y) {{
        y = dechaff.VarlenAttention
            <q_num_heads = {heads}, kv_num_heads = {kv_heads}, scale = 0.4, is_causal = {causal}>
            (q, k, v, starts, key_index, key_starts)
    }}
"""

MASKS = [
    [[1, 1, 0], [1, 0, 0]],
    [[0, 1, 0], [1, 0, 1]],
    [[0, 0, 0], [0, 1, 1]],
    [[1]],
    [[0, 0]],
]


def module(text: str) -> Module:
    result = parse(HEADER + text)
    infer_shapes(result)
    return result


@pytest.mark.parametrize("rows", MASKS)
def test_token_layout(rows: list[list[int]]) -> None:
    mask = np.array(rows, bool)
    found = run_module(module(LAYOUT), {"mask": mask})
    np.testing.assert_array_equal(found["index"], np.flatnonzero(mask))
    np.testing.assert_array_equal(found["starts"], np.append(0, np.cumsum(mask.sum(axis=1))))
    expected = np.cumsum(mask.reshape(-1)).reshape(mask.shape) - 1
    np.testing.assert_array_equal(found["position"], expected)


@pytest.mark.parametrize("rows", MASKS)
def test_pack_gathers_and_unpack_puts_back_with_zeros(rows: list[list[int]]) -> None:
    mask = np.array(rows, bool)
    x = np.random.default_rng(0).standard_normal((*mask.shape, 3)).astype(np.float32)
    found = run_module(module(ROUND_TRIP), {"x": x, "mask": mask})
    np.testing.assert_array_equal(found["packed"], x[mask])
    np.testing.assert_array_equal(found["y"], np.where(mask[..., None], x, 0))


@pytest.mark.parametrize("leading", ["1,S", "B,1", "1,1"])
def test_pack_broadcasts_leading_axes_of_one(leading: str) -> None:
    mask = np.array(MASKS[0], bool)
    sizes = [1 if size == "1" else {"B": 2, "S": 3}[size] for size in leading.split(",")]
    x = np.random.default_rng(0).standard_normal((*sizes, 3)).astype(np.float32)
    found = run_module(module(BROADCAST.format(leading=leading)), {"x": x, "mask": mask})
    np.testing.assert_array_equal(found["packed"], np.broadcast_to(x, (2, 3, 3))[mask])


def softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def attention_oracle(
    q: Array, k: Array, v: Array, lengths: list[int], keys: list[Array], heads: int, causal: bool
) -> Array:
    """Each sequence alone, in float64."""
    result = np.zeros_like(q, dtype=np.float64)
    start = 0
    for length, allowed in zip(lengths, keys, strict=True):
        rows = slice(start, start + length)
        if length and allowed.size:
            result[rows] = one_sequence(q[rows], k[allowed], v[allowed], heads, causal)
        start += length
    return result


def one_sequence(q: Array, k: Array, v: Array, heads: int, causal: bool) -> Array:
    def split(x: Array, number: int) -> Array:
        return x.astype(np.float64).reshape(len(x), number, -1).transpose(1, 0, 2)

    head_size = q.shape[1] // heads
    kv_heads = k.shape[1] // head_size
    key, value = (np.repeat(split(x, kv_heads), heads // kv_heads, axis=0) for x in (k, v))
    scores = split(q, heads) @ key.transpose(0, 2, 1) * 0.4
    if causal:
        scores = np.where(np.tri(len(q), len(k), dtype=bool), scores, -np.inf)
    return np.asarray((softmax(scores) @ value).transpose(1, 0, 2).reshape(len(q), -1))


def check_attention(
    lengths: list[int], dropped: int, heads: int, kv_heads: int, causal: bool
) -> None:
    generator = np.random.default_rng(0)
    head_size, tokens = 2, sum(lengths)
    starts = np.append(0, np.cumsum(lengths)).astype(np.int64)
    ranges = [np.arange(a, b) for a, b in itertools.pairwise(starts)]
    keys = [each[dropped:] for each in ranges]
    widths = {"q": heads * head_size, "k": kv_heads * head_size, "v": kv_heads * head_size}
    inputs: dict[str, Array] = {
        name: generator.standard_normal((tokens, width)).astype(np.float32)
        for name, width in widths.items()
    }
    text = ATTENTION.format(
        q_width=widths["q"],
        kv_width=widths["k"],
        heads=heads,
        kv_heads=kv_heads,
        causal=int(causal),
    )
    expected = attention_oracle(inputs["q"], inputs["k"], inputs["v"], lengths, keys, heads, causal)
    inputs["starts"] = starts
    inputs["key_index"] = np.concatenate(keys).astype(np.int64)
    inputs["key_starts"] = np.append(0, np.cumsum([len(each) for each in keys])).astype(np.int64)
    found = run_module(module(text), inputs)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lengths", [[3, 1, 4], [1], [2, 0, 3], [0, 0]])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_stays_within_each_sequence(lengths: list[int], causal: bool) -> None:
    check_attention(lengths, dropped=0, heads=2, kv_heads=2, causal=causal)


@pytest.mark.parametrize("dropped", [1, 2])
def test_attention_sees_listed_keys_only(dropped: int) -> None:
    check_attention([3, 5, 0, 4], dropped=dropped, heads=2, kv_heads=2, causal=False)


def test_attention_with_fewer_key_value_heads() -> None:
    check_attention([3, 1, 4], dropped=0, heads=4, kv_heads=2, causal=False)


@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5), causal=st.booleans())
def test_attention_at_any_lengths(lengths: list[int], causal: bool) -> None:
    check_attention(lengths, dropped=0, heads=2, kv_heads=1, causal=causal)


@pytest.mark.parametrize("op", dialect_ops(), ids=lambda op: op.name)
def test_each_operator_says_what_it_computes(op: DialectOp) -> None:
    assert dialect_op(op.name) is op
    assert len(op.documentation) > 40


def test_shape_rules_follow_the_mask() -> None:
    found = module(ROUND_TRIP)
    shapes = {out.name: str(out.shape) for node in found.graph for out in node.outputs}
    assert shapes["index"] == "[T]"
    assert shapes["starts"] == "[B + 1]"
    assert shapes["packed"] == "[t,3]"
    assert shapes["y"] == "[B,S,3]"
