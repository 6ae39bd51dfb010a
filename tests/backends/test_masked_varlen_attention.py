"""The lowering of masked attention, and its reference, against attention over the padded batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dechaff.backends import TARGETS, Session, lower, start_session
from dechaff.ir import DOMAIN, Module, infer_shapes, parse
from tests.ir.test_dialect_ops import HEADER

Array = npt.NDArray[Any]

PACKED = """
    g (float[T,8] q, float[T,4] k, float[T,4] v, int64[N] starts, int64[T] index,
       {dtype}[B,{heads},S,S] attn_mask) => (float[T,8] y)
    {{
        y = dechaff.MaskedVarlenAttention <q_num_heads = 4, kv_num_heads = 2, scale = 0.4>
            (q, k, v, starts, index, attn_mask)
    }}
"""
PADDED = """
    g (float[B,S,8] q, float[B,S,4] k, float[B,S,4] v, {dtype}[B,{heads},S,S] attn_mask)
        => (float[B,S,8] y)
    {{
        y = Attention <q_num_heads = 4, kv_num_heads = 2, scale = 0.4> (q, k, v, attn_mask)
    }}
"""
WIDTHS = {"q": 8, "k": 4, "v": 4}
HIDDEN = -1e30

ROWS = {
    "right": [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]],
    "left": [[0, 1, 1, 1], [0, 0, 0, 1]],
    "in between": [[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1]],
    "an empty row": [[0, 0, 0, 0], [1, 1, 0, 0]],
    "no padding": [[1, 1, 1], [1, 1, 1]],
    "one token": [[1]],
}


def module_from(text: str, dtype: str, heads: int) -> Module:
    module = parse(HEADER + text.format(dtype=dtype, heads=heads))
    infer_shapes(module)
    return module


def mask_over(valid: Array, dtype: str, heads: int, generator: np.random.Generator) -> Array:
    """Padded keys hidden, each query free to see itself, all else at random."""
    batch, sequence = valid.shape
    keys = np.broadcast_to(valid[:, None, None, :], (batch, heads, sequence, sequence))
    if dtype == "bool":
        return keys & (generator.random(keys.shape) < 0.5) | (keys & np.eye(sequence, dtype=bool))
    bias = generator.standard_normal(keys.shape).astype(np.float32)
    return np.where(keys, bias, np.float32(HIDDEN))


def check(rows: list[list[int]], dtype: str, heads: int, target: str, seed: int = 0) -> None:
    valid = np.array(rows, bool)
    generator = np.random.default_rng(seed)
    padded = {
        name: generator.standard_normal((*valid.shape, width)).astype(np.float32)
        for name, width in WIDTHS.items()
    }
    mask = {"attn_mask": mask_over(valid, dtype, heads, generator)}
    packed = {name: array[valid] for name, array in padded.items()}
    layout = {
        "starts": np.append(0, np.cumsum(valid.sum(axis=1))).astype(np.int64),
        "index": np.flatnonzero(valid).astype(np.int64),
    }
    whole = Session(module_from(PADDED, dtype, heads)).run(padded | mask)["y"][valid]
    module = module_from(PACKED, dtype, heads)
    lowered = lower(module, target)
    assert DOMAIN not in {node.domain for node in lowered.nodes()}
    for session in (Session(module), start_session(lowered)):
        found = session.run(packed | layout | mask)["y"]
        np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("dtype", ["bool", "float"])
@pytest.mark.parametrize("rows", ROWS)
def test_it_agrees_with_attention_over_the_padded_batch(
    rows: str, dtype: str, heads: int, target: str
) -> None:
    check(ROWS[rows], dtype, heads, target)


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(1, 4), sequence=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_any_padding(batch: int, sequence: int, seed: int) -> None:
    valid = np.random.default_rng(seed).random((batch, sequence)) < 0.6
    valid[0, 0] = True
    check(valid.astype(int).tolist(), "float", 4, "cpu", seed)


def test_no_tokens_at_all() -> None:
    given_inputs: dict[str, Array] = {
        name: np.zeros((0, width), np.float32) for name, width in WIDTHS.items()
    }
    given_inputs |= {"starts": np.zeros(3, np.int64), "index": np.zeros(0, np.int64)}
    given_inputs["attn_mask"] = np.zeros((2, 1, 3, 3), bool)
    lowered = lower(module_from(PACKED, "bool", 1))
    assert Session(lowered).run(given_inputs)["y"].shape == (0, 8)
