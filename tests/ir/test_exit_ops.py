from __future__ import annotations

import numpy as np

from tests.ir.test_dialect_ops import module
from tests.model_runner import Array, run_module

MASK = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0]], bool)
PADDED = """
g (float[B,S,3] h, float[B,S,3] before, bool[B,S] mask) => (float[B] y, float[B,6] z)
{
    y = dechaff.RowSimilarity (h, before, mask)
    z = dechaff.TokenSummary (h, mask)
}
"""
PACKED = """
g (float[B,S,3] h, float[B,S,3] before, bool[B,S] mask, int64[R] rows)
    => (float[B] y, float[B,6] z, int64[N] tokens)
{
    index, starts, position = dechaff.TokenLayout (mask)
    h_packed = dechaff.Pack (h, index, mask)
    before_packed = dechaff.Pack (before, index, mask)
    y = dechaff.PackedRowSimilarity (h_packed, before_packed, index, mask)
    z = dechaff.PackedTokenSummary (h_packed, index, mask)
    tokens = dechaff.RowTokens (rows, index, mask)
}
"""
SOFTMAX = """
g (float[B,5] logits) => (float[B] entropy, float[B] gap)
{
    entropy = dechaff.SoftmaxEntropy (logits)
    gap = dechaff.SoftmaxGap (logits)
}
"""


def states() -> dict[str, Array]:
    generator = np.random.default_rng(0)
    h, before = generator.standard_normal((2, *MASK.shape, 3)).astype(np.float32)
    return {"h": h, "before": before, "mask": MASK}


def expected(inputs: dict[str, Array]) -> tuple[Array, Array]:
    similarity, summary = np.zeros(len(MASK)), np.zeros((len(MASK), 6))
    for row, mask in enumerate(MASK):
        own, before = inputs["h"][row][mask], inputs["before"][row][mask]
        if len(own):
            norms = np.linalg.norm(own) * np.linalg.norm(before)
            similarity[row] = (own * before).sum() / norms
            summary[row] = np.concatenate([own[0], own.mean(axis=0)])
    return similarity, summary


def test_similarity_and_summary_count_valid_tokens_only() -> None:
    inputs = states()
    found = run_module(module(PADDED), inputs)
    similarity, summary = expected(inputs)
    np.testing.assert_allclose(found["y"], similarity, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["z"], summary, rtol=1e-5, atol=1e-6)


def test_packed_states_give_the_same() -> None:
    inputs = states()
    found = run_module(module(PACKED), {**inputs, "rows": np.array([0, 2])})
    similarity, summary = expected(inputs)
    np.testing.assert_allclose(found["y"], similarity, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["z"], summary, rtol=1e-5, atol=1e-6)
    assert found["tokens"].tolist() == [0, 1, 2, 3, 4]


def test_the_tokens_of_rows_are_found_among_all() -> None:
    found = run_module(module(PACKED), {**states(), "rows": np.array([2, 3])})
    assert found["tokens"].tolist() == [3, 4, 5]


def test_entropy_and_gap_of_a_distribution() -> None:
    logits = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    logits[0] = [90, 0, 0, 0, 0]  # sure: no entropy, and no 0 * log 0
    found = run_module(module(SOFTMAX), {"logits": logits})
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    p = np.maximum(p, 1e-300)
    np.testing.assert_allclose(found["entropy"], -(p * np.log(p)).sum(axis=1), atol=1e-5)
    top = np.sort(p, axis=1)
    np.testing.assert_allclose(found["gap"], top[:, -1] - top[:, -2], atol=1e-5)
