"""Scores of pairs of positions that stay padded beside packed tokens: DeBERTa's."""

from __future__ import annotations

import numpy as np
import pytest

from dechaff.passes.remove_padding import RemovePadding
from tests.passes.rewrite_checks import check_declines
from tests.passes.test_remove_padding import MASKS, check_on_mask, operators, remove_padding

DISENTANGLED = """
    g (float[B,S,4] x, bool[B,S] mask) => (float[B,S,4] y)
    <float[4] gamma = {{1, 2, 3, 4}}, float[4,4] w = {{...}}, float[2,2,9] table = {{...}},
     int64[1] front = {{0}}, int64[1] last = {{-1}}, int64 zero = {{0}}, int64 step = {{1}},
     int64 four = {{4}}, int64 nine = {{9}}, int64[2] axes = {{1, 2}}, int64[1] first = {{1}},
     int64[1] second = {{2}}, int64[4] split = {{0, 0, 2, 2}}, int64[2] heads = {{2, 2}},
     float lowest = {{-1e30}}, int64[1] two = {{2}}, float[2,9,9] square = {{...}},
     float[2,1,1] slope = {{0.5, 0.25}}>
    {{
        n = LayerNormalization <axis = -1> (x, gamma)
        q = MatMul (n, w)
        qs = Reshape (q, split)
        q4 = Transpose <perm = [0, 2, 1, 3]> (qs)
        batch = Shape <start = 0, end = 1> (mask)
        length = Shape <start = 1, end = 2> (mask)
        count = Squeeze (length, front)
        positions = Range (zero, count, step)
        column = Unsqueeze (positions, last)
        row = Unsqueeze (positions, front)
        distance = Sub (column, row)
        shifted = Add (distance, four)
        places = Mod (shifted, nine)
        pairs = Concat <axis = 0> (batch, two, length, length)
        index = Expand (places, pairs)
        by_query = MatMul (q4, table)
        from_query = GatherElements <axis = -1> (by_query, index)
        from_key = Transpose <perm = [0, 1, 3, 2]> (from_query)
        both = Add (from_query, from_key)
        scaled = Mul (both, slope)
        {combine}
        c = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5> (q, n, n, bias)
        o = MatMul (c, w)
        y = Add (o, n)
    }}
"""
KEYS = """
        keys = Unsqueeze (mask, axes)
        bias = Where (keys, scaled, lowest)
"""
BOTH_SIDES = """
        rows = Unsqueeze (mask, second)
        columns = Unsqueeze (mask, first)
        seen2 = And (rows, columns)
        seen = Unsqueeze (seen2, first)
        bias = Where (seen, scaled, lowest)
"""


@pytest.mark.parametrize("combine", [KEYS, BOTH_SIDES], ids=["keys", "queries and keys"])
@pytest.mark.parametrize("mask", ["right", "left", "interleaved", "an empty row", "all rows empty"])
def test_attention_runs_packed_under_scores_of_its_own_states(mask: str, combine: str) -> None:
    before, after, record = remove_padding(DISENTANGLED.format(combine=combine))
    assert record.changed, record.misses
    assert "MaskedVarlenAttention" in operators(after)
    assert "Attention" not in operators(after)
    check_on_mask(before, after, np.array(MASKS[mask], bool))


def test_declines_scores_that_do_not_hide_padding() -> None:
    added = """
        keys = Unsqueeze (mask, axes)
        zeros = Sub (slope, slope)
        hidden = Where (keys, zeros, lowest)
        bias = Add (scaled, hidden)
    """
    text = DISENTANGLED.format(combine=added)
    check_declines(RemovePadding(), text, "is shown to be its padding mask")


def test_declines_scores_that_mix_positions() -> None:
    mixed = """
        sum = ReduceSum <keepdims = 1> (scaled, last)
        keys = Unsqueeze (mask, axes)
        bias = Where (keys, sum, lowest)
    """
    check_declines(
        RemovePadding(), DISENTANGLED.format(combine=mixed), "keep pairs of positions apart"
    )
