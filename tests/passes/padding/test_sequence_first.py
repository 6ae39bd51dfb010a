"""Tokens merged sequence first, as torch's own attention modules merge them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.test_remove_padding import MASKS, check_on_mask, operators, remove_padding

SEQUENCE_FIRST = """
    g (float[B,S,4] x, bool[B,S] mask) => (float[B,S,4] y)
    <float[4] gamma = {1, 2, 3, 4}, float[4,4] w = {...}, float[4] bias = {1, 2, 3, 4},
     int64[2] rows = {-1, 4}, int64[1] four = {4}, int64[2] axes = {1, 2},
     int64[2] leading = {1, 1},
     int64[1] one = {1}>
    {
        n = LayerNormalization <axis = -1> (x, gamma)
        turned = Transpose <perm = [1, 0, 2]> (n)
        merged = Reshape (turned, rows)
        dense = Gemm (merged, w, bias)
        positive = Relu (dense)
        batch = Shape <start = 0, end = 1> (mask)
        length = Shape <start = 1, end = 2> (mask)
        sizes = Concat <axis = 0> (length, batch, four)
        apart = Reshape (positive, sizes)
        h = Transpose <perm = [1, 0, 2]> (apart)
        keys = Unsqueeze (mask, axes)
        mask_shape = Concat <axis = 0> (leading, length, one)
        key_mask = Expand (keys, mask_shape)
        c = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5> (h, h, h, key_mask)
        y = Relu (c)
    }
"""


@pytest.mark.parametrize("mask", ["right", "left", "interleaved", "an empty row", "one token"])
def test_tokens_merged_sequence_first_run_packed(mask: str) -> None:
    before, after, record = remove_padding(SEQUENCE_FIRST)
    assert record.changed, record.misses
    assert "VarlenAttention" in operators(after)
    assert operators(after).count("Pack") == operators(after).count("Unpack") == 1
    check_on_mask(before, after, np.array(MASKS[mask], bool))


@pytest.mark.parametrize("mask", ["left", "interleaved", "an empty row"])
def test_merged_tokens_that_stay_padded_are_packed_behind(mask: str) -> None:
    """What is not known to work on each token alone, but reads zeros only, stays as it is."""
    text = SEQUENCE_FIRST.replace(
        "n = LayerNormalization <axis = -1> (x, gamma)\n"
        "        turned = Transpose <perm = [1, 0, 2]> (n)",
        "turned = Transpose <perm = [1, 0, 2]> (x)",
    )
    before, after, _ = remove_padding(text)
    check_on_mask(before, after, np.array(MASKS[mask], bool))


DENSE_FIRST = SEQUENCE_FIRST.replace(
    """n = LayerNormalization <axis = -1> (x, gamma)
        turned = Transpose <perm = [1, 0, 2]> (n)
        merged = Reshape (turned, rows)""",
    """turned = Transpose <perm = [1, 0, 2]> (x)
        product = MatMul (turned, w)
        merged = Reshape (product, rows)""",
)


@pytest.mark.parametrize("mask", ["right", "left", "interleaved", "an empty row", "one token"])
def test_the_first_product_runs_packed_where_the_inputs_are_turned(mask: str) -> None:
    before, after, _ = remove_padding(DENSE_FIRST)
    (pack,) = (node for node in after.graph if node.op_type == "Pack")
    assert pack.inputs[0] is after.graph.inputs[0]
    check_on_mask(before, after, np.array(MASKS[mask], bool))
