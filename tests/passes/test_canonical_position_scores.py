"""Scores by distance of heads folded into the batch: computed in four dimensions."""

from __future__ import annotations

import pytest

from dechaff.passes.canonicalize import Canonicalize
from dechaff.passes.matching import rank
from tests.passes.rewrite_checks import check_numbers, module_from, run_pass

SCORES = """
    g (float[B,2,S,4] q, float[B,2,S,4] k, int64[1,S,S] places) => (float[B,2,S,S] y)
    <float[2,9,4] table = {{...}}, int64 size = {{2}}, int64[1] one = {{1}},
     int64[1] two = {{2}}, int64[1] width = {{4}}, float half = {{0.5}}>
    {{
        batch = Shape <end = 1> (q)
        length = Shape <start = 2, end = 3> (q)
        all = Mul (batch, two)
        folded = Concat <axis = 0> (all, length, width)
        pairs = Concat <axis = 0> (all, length, length)
        times = Concat <axis = 0> (batch, one, one)
        q3 = Reshape (q, folded)
        k3 = Reshape (k, folded)
        tables = Tile (table, times)
        across = Transpose <perm = [0, 2, 1]> (tables)
        index = Expand (places, pairs)
        by_query = MatMul (q3, across)
        from_query = GatherElements <axis = {axis}> (by_query, index)
        by_key = MatMul (k3, across)
        from_key = GatherElements <axis = -1> (by_key, index)
        turned = Transpose <perm = [0, 2, 1]> (from_key)
        scaled = Mul (turned, half)
        sum = {step} (from_query, scaled)
        split = Concat <axis = 0> (batch, two, length, length)
        y = Reshape (sum, split)
    }}
"""


def scores(step: str = "Add", axis: int = -1) -> str:
    # Places must lie inside the table: any input is brought there.
    text = SCORES.format(step=step, axis=axis)
    bounds = "<int64 nine = {9}, float[2,9,4] table"
    text = text.replace("<float[2,9,4] table", bounds)
    return text.replace("Expand (places,", "Expand (inside,").replace(
        "q3 = Reshape", "inside = Mod (places, nine)\n        q3 = Reshape"
    )


@pytest.mark.parametrize("step", ["Add", "Sub"])
def test_heads_are_unfolded_and_the_table_is_not_repeated(step: str) -> None:
    before = module_from(scores(step))
    after, _ = run_pass(Canonicalize(), before)
    names = [node.op_type for node in after.graph]
    assert "Tile" not in names
    products = [node for node in after.graph if node.op_type in ("MatMul", "GatherElements", step)]
    assert [rank(node.outputs[0]) for node in products] == [4] * 5
    check_numbers(Canonicalize.numerics, before, after)


def test_gathering_along_another_axis_stays() -> None:
    before = module_from(scores(axis=1))
    after, _ = run_pass(Canonicalize(), before)
    assert "Tile" in [node.op_type for node in after.graph]


def test_a_table_repeated_along_another_axis_stays() -> None:
    text = scores().replace("(batch, one, one)", "(batch, one, width)")
    text = text.replace("int64[1] width = {4}", "int64[1] width = {4}, int64[1] narrow = {16}")
    text = text.replace("(all, length, width)", "(all, length, narrow)")
    text = text.replace(
        "float[B,2,S,4] q, float[B,2,S,4] k", "float[B,2,S,16] q, float[B,2,S,16] k"
    )
    after, _ = run_pass(Canonicalize(), module_from(text))
    assert "Tile" in [node.op_type for node in after.graph]


FOLDED_MASKS = """
    g (float[B,S] padding, float[S,S] causal, float[4,S,S] other) => (float[B,2,S,S] y)
    <int64[1] one = {1}, int64[1] two = {2}, int64[1] axes = {0}>
    {
        batch = Shape <end = 1> (padding)
        length = Shape <start = 1, end = 2> (padding)
        all = Mul (batch, two)
        apart = Concat <axis = 0> (batch, one, one, length)
        keys = Reshape (padding, apart)
        heads = Concat <axis = 0> (batch, two, one, length)
        repeated = Expand (keys, heads)
        folded = Concat <axis = 0> (all, one, length)
        folded_keys = Reshape (repeated, folded)
        pairs = Unsqueeze (causal, axes)
        sum = Add (pairs, folded_keys)
        split = Concat <axis = 0> (batch, two, length, length)
        y = Reshape (sum, split)
    }
"""


def test_a_mask_that_is_the_same_for_all_is_added_unfolded() -> None:
    before = module_from(FOLDED_MASKS)
    after, record = run_pass(Canonicalize(), before)
    assert "unfold-sum-of-scores" in [rewrite.rule for rewrite in record.rewrites]
    (sum_node,) = (node for node in after.graph if node.op_type == "Add")
    assert [rank(value) for value in sum_node.outputs] == [4]
    check_numbers(Canonicalize.numerics, before, after)


def test_a_mask_for_every_head_of_every_row_stays_folded() -> None:
    text = FOLDED_MASKS.replace("Add (pairs,", "Add (other,")
    _, record = run_pass(Canonicalize(), module_from(text))
    assert "unfold-sum-of-scores" not in [rewrite.rule for rewrite in record.rewrites]
