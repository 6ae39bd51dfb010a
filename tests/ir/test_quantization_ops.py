"""The quantizing operators of the dialect against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ir.test_dialect_ops import module
from tests.model_runner import Array, run_module

PER_TOKEN = """
    g (float[{leading},4] x) => (int8[{leading},4] q, float[{leading},1] s) {{
        q, s = dechaff.QuantizePerToken (x)
    }}
"""
PER_TENSOR = """
    g (float[T,4] x) => (int8[T,4] q, float[1] s) { q, s = dechaff.QuantizePerTensor (x) }
"""
PRODUCT = """
    g (int8[T,3] q, float[T,1] s, int8[3,2] w, float[2] ws) => (float[T,2] y) {
        y = dechaff.QuantizedMatMul (q, s, w, ws)
    }
"""


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("leading", "shape"), [("T", (5,)), ("T", (0,)), ("B,S", (2, 3))])
def test_each_token_has_its_own_scale(leading: str, shape: tuple[int, ...]) -> None:
    x = normal(*shape, 4) * np.arange(1, 1 + shape[-1], dtype=np.float32)[:, None]
    found = run_module(module(PER_TOKEN.format(leading=leading)), {"x": x})
    expected = np.abs(x).max(axis=-1, keepdims=True) / 127
    np.testing.assert_allclose(found["s"], expected, rtol=1e-6)
    assert np.abs(found["q"].astype(np.float32) * found["s"] - x).max(initial=0) <= np.max(
        expected * 0.5001, initial=0
    )


def test_a_token_of_zeros_stays_zero() -> None:
    found = run_module(module(PER_TOKEN.format(leading="T")), {"x": np.zeros((1, 4), np.float32)})
    assert not found["q"].any()
    assert np.isfinite(found["s"]).all()


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_one_scale_for_all_tokens(tokens: int) -> None:
    x = normal(tokens, 4)
    found = run_module(module(PER_TENSOR), {"x": x})
    scale = max(float(np.abs(x).max(initial=0)) / 127, 1e-30)
    np.testing.assert_allclose(found["s"], [scale], rtol=1e-6)
    np.testing.assert_allclose(found["q"] * found["s"], x, atol=0.5001 * scale)


def test_products_are_those_of_the_numbers_that_the_integers_stand_for() -> None:
    generator = np.random.default_rng(0)
    q, w = (generator.integers(-127, 128, shape, np.int8) for shape in ((5, 3), (3, 2)))
    s, ws = np.abs(normal(5, 1)), np.abs(normal(2))
    found = run_module(module(PRODUCT), {"q": q, "s": s, "w": w, "ws": ws})
    np.testing.assert_allclose(found["y"], (q * s) @ (w * ws), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("leading", "shape"), [("T", (5,)), ("T", (0,)), ("B,S", (2, 3))])
def test_rows_of_four_bits_are_taken_apart(leading: str, shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    table = generator.integers(0, 256, (6, 4), np.uint8)
    scale = normal(6, 2)
    ids = generator.integers(0, 6, shape)
    text = f"""g (uint8[6,4] table, float[6,2] scale, int64[{leading}] ids)
        => (float[{leading},8] y)
        {{ y = dechaff.Int4Gather <block_size = 4> (table, scale, ids) }}"""
    found = run_module(module(text), {"table": table, "scale": scale, "ids": ids})["y"]
    nibbles = np.stack([table & 15, table >> 4], axis=-1).reshape(6, 8).astype(np.float32) - 8
    np.testing.assert_array_equal(found, (nibbles * np.repeat(scale, 4, axis=1))[ids])
