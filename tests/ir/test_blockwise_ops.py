"""The blockwise operators of the dialect against numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ir.test_dialect_ops import MASKS, attention_oracle, module
from tests.model_runner import Array, run_module

ROUND = """
    g (float[{leading},{width}] x) => (float[{leading},{width}] y) {{
        y = dechaff.BlockwiseRound <block_size = {block}, bits = {bits}> (x)
    }}
"""
PRODUCT = """
    g (float[{leading},12] x, int8[12,5] w, int8[{groups},5] e) => (float[{leading},5] y) {{
        y = dechaff.BlockwiseMatMul
            <block_size = {block}, guard_bits = {guard}, exponent_offset = -3> (x, w, e)
    }}
"""
GELU = """
    g (float[T,8] x) => (float[T,8] y) {{
        y = dechaff.BlockwiseGelu <block_size = 4, approximate = "{approximate}"> (x)
    }}
"""
SOFTMAX = "g (float[B,S] x) => (float[B,S] y) { y = dechaff.BlockwiseSoftmax (x) }"
NORMALIZATION = """
    g (float[T,8] x, float[8] w, float[8] b) => (float[T,8] y) {
        y = dechaff.BlockwiseLayerNormalization <epsilon = 1e-5, block_size = 4> (x, w, b)
    }
"""
GATHER = """
    g (uint8[6,4] table, int8[6,2] e, int64[{leading}] ids) => (float[{leading},8] y) {{
        y = dechaff.BlockwiseGather <exponent_offset = -5> (table, e, ids)
    }}
"""
ATTENTION = """
    g (float[T,4] q, float[T,4] k, float[T,4] v,
       int64[N] starts, int64[K] key_index, int64[N] key_starts) => (float[T,4] y) {
        y = dechaff.BlockwiseVarlenAttention
            <q_num_heads = 2, kv_num_heads = 2, scale = 0.4, is_causal = 0>
            (q, k, v, starts, key_index, key_starts)
    }
"""


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def on_grid(x: Array, block: int, bits: int = 8) -> tuple[Array, Array]:
    """Integers of blocks, and the exponent of each, as methods write it."""
    top = 2 ** (bits - 1) - 1
    width = block or x.shape[-1]
    tiles = x.reshape(*x.shape[:-1], x.shape[-1] // width, width).astype(np.float64)
    largest = np.abs(tiles).max(axis=-1, keepdims=True)
    exponent = np.clip(np.ceil(np.log2(np.maximum(largest / top, 1e-13))), -40, 40)
    return np.clip(np.rint(tiles / 2**exponent), -top - 1, top), exponent


def restored(x: Array, block: int, bits: int = 8) -> Array:
    integers, exponent = on_grid(x, block, bits)
    return np.asarray(integers * 2**exponent).reshape(x.shape)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("leading", "shape", "block"),
    [("T", (5, 12), 4), ("T", (0, 12), 4), ("B,S", (2, 3, 12), 6), ("T", (3, 5), 0)],
)
def test_rounding_is_to_integers_of_blocks(
    leading: str, shape: tuple[int, ...], block: int, bits: int
) -> None:
    x = normal(*shape) * np.logspace(-3, 3, shape[-1], dtype=np.float32)
    text = ROUND.format(leading=leading, width=shape[-1], block=block, bits=bits)
    found = run_module(module(text), {"x": x})["y"]
    np.testing.assert_array_equal(found, restored(x, block, bits).astype(np.float32))


def test_zeros_and_powers_of_two_are_exact() -> None:
    x = np.array([[0, 0, 0, 0, 1, -2, 32, 0.5]], np.float32)
    text = ROUND.format(leading="T", width=8, block=4, bits=8)
    np.testing.assert_array_equal(run_module(module(text), {"x": x})["y"], x)


@pytest.mark.parametrize(("leading", "shape"), [("T", (4,)), ("T", (0,)), ("B,S", (2, 3))])
@pytest.mark.parametrize(("block", "groups"), [(4, 3), (2, 3), (4, 1), (12, 1)])
def test_products_are_those_of_what_the_integers_stand_for(
    block: int, groups: int, leading: str, shape: tuple[int, ...]
) -> None:
    x = normal(*shape, 12) * np.logspace(-1, 1, 12, dtype=np.float32)
    generator = np.random.default_rng(1)
    w = generator.integers(-8, 8, (12, 5)).astype(np.int8)
    e = generator.integers(-2, 3, (groups, 5)).astype(np.int8)
    text = PRODUCT.format(leading=leading, block=block, groups=groups, guard=8)
    found = run_module(module(text), {"x": x, "w": w, "e": e})["y"]
    weight = w * 2.0 ** (np.repeat(e, 12 // groups, axis=0) - 3.0)
    expected = restored(x, block) @ weight
    scale = np.abs(expected).max(initial=1)
    np.testing.assert_allclose(found, expected, atol=2e-4 * scale)


def test_guard_bits_keep_what_alignment_would_drop() -> None:
    x, w = normal(6, 12) * np.logspace(-2, 2, 12, dtype=np.float32), np.ones((12, 5), np.int8)
    errors = []
    for guard in (0, 8):
        text = PRODUCT.format(leading="T", block=2, groups=1, guard=guard)
        given = {"x": x, "w": w, "e": np.zeros((1, 5), np.int8)}
        found = run_module(module(text), given)["y"]
        errors.append(np.abs(found - restored(x, 2).sum(axis=1, keepdims=True) / 8).max())
    assert errors[1] < 0.1 * errors[0]


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_exact_for_what_the_integers_stand_for(approximate: str) -> None:
    import torch

    x = np.concatenate([normal(5, 8), 3 * normal(5, 8), 1e-3 * normal(1, 8), 90 * normal(2, 8)])
    found = run_module(module(GELU.format(approximate=approximate)), {"x": x})["y"]
    integers, exponent = on_grid(x, 4)
    arguments = torch.from_numpy((integers * 2**exponent).reshape(x.shape))
    exact = torch.nn.functional.gelu(arguments, approximate=approximate).numpy()
    unit = np.repeat(2.0 ** (exponent[..., 0] - 8), 4, axis=-1)
    assert (np.abs(found - exact) <= 0.51 * unit + 1e-6 * np.abs(exact)).all()


@settings(max_examples=10, deadline=None)
@given(size=st.integers(1, 40), spread=st.floats(0.1, 20))
def test_softmax_is_close_to_the_real_one(size: int, spread: float) -> None:
    x = spread * normal(3, size, seed=size)
    found = run_module(module(SOFTMAX), {"x": x})["y"]
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    exact = powers / powers.sum(axis=-1, keepdims=True)
    assert np.abs(found - exact).max() < 0.5 / 256 + 4e-3  # half a step, 1 - 255/256, the table
    assert found.max() <= 255 / 256


def test_normalization_is_close_to_the_real_one() -> None:
    x = np.concatenate([normal(5, 8), 100 * normal(2, 8) + 50, 1e-4 * normal(2, 8)])
    x[:, 3] *= 30
    w, b = normal(8, seed=1), normal(8, seed=2)
    found = run_module(module(NORMALIZATION), {"x": x, "w": w, "b": b})["y"]
    exact = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b
    np.testing.assert_allclose(found, exact, atol=2e-3 * np.abs(exact).max())
    np.testing.assert_array_equal(found, restored(found, 4, 16).astype(np.float32))


def test_a_row_of_equal_numbers_becomes_the_bias() -> None:
    x, b = np.full((2, 8), 3.5, np.float32), normal(8)
    found = run_module(module(NORMALIZATION), {"x": x, "w": normal(8, seed=1), "b": b})["y"]
    np.testing.assert_allclose(found, np.tile(b, (2, 1)), atol=1e-3)


@pytest.mark.parametrize(("leading", "ids"), [("T", [5, 0, 5]), ("B,S", [[1, 2], [3, 4]])])
def test_rows_are_restored_after_they_are_gathered(leading: str, ids: list[object]) -> None:
    generator = np.random.default_rng(0)
    integers = generator.integers(-8, 8, (6, 8))
    shifted = (integers + 8).astype(np.uint8)
    table = shifted[:, 0::2] | shifted[:, 1::2] << 4
    e = generator.integers(-2, 3, (6, 2)).astype(np.int8)
    given = {"table": table, "e": e, "ids": np.array(ids)}
    found = run_module(module(GATHER.format(leading=leading)), given)["y"]
    rows = integers * 2.0 ** (np.repeat(e, 4, axis=1) - 5.0)
    np.testing.assert_array_equal(found, rows[np.array(ids)].astype(np.float32))


@pytest.mark.parametrize("rows", MASKS)
def test_attention_is_close_to_the_real_one_and_rows_do_not_mix(rows: list[list[int]]) -> None:
    lengths = np.array(rows).sum(axis=1).tolist()
    tokens = sum(lengths)
    q, k, v = (normal(tokens, 4, seed=seed) for seed in range(3))
    starts = np.append(0, np.cumsum(lengths)).astype(np.int64)
    index = np.arange(tokens)
    given = {"q": q, "k": k, "v": v, "starts": starts, "key_index": index, "key_starts": starts}
    found = run_module(module(ATTENTION), given)["y"]
    keys = [index[a:b] for a, b in itertools.pairwise(starts)]
    exact = attention_oracle(q, k, v, lengths, keys, 2, False)
    np.testing.assert_allclose(found, exact, atol=0.03)
    for a, b in itertools.pairwise(starts):
        if a < b:
            alone = np.array([0, b - a])
            one = {"starts": alone, "key_index": index[: b - a], "key_starts": alone}
            part = {"q": q[a:b], "k": k[a:b], "v": v[a:b], **one}
            np.testing.assert_array_equal(run_module(module(ATTENTION), part)["y"], found[a:b])
