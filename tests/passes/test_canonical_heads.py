"""Heads folded into the batch: products of them are computed in four dimensions at once."""

from __future__ import annotations

import pytest

from dechaff.passes.canonicalize import Canonicalize
from dechaff.passes.matching import rank
from tests.passes.rewrite_checks import check_numbers, check_rewrite, module_from, run_pass

FOLDED = """
    g (float[B,2,S,4] q, float[B,2,T,4] k, float[B,2,T] bias, float[1,S,T] shared)
        => (float[B,2,S,T] y{more})
    <float half = {{0.5}}, int64[3] fold = {{-1, 1, 4}}>
    {{
        all = Shape <end = 1> (q)
        two = Constant <value = int64[1] {{2}}> ()
        heads = Mul (all, two)
        rows = Shape <start = 2, end = 3> (q)
        columns = Shape <start = 2, end = 3> (k)
        width = Constant <value = int64[1] {{4}}> ()
        one = Constant <value = int64[1] {{1}}> ()
        q_sizes = Concat <axis = 0> (heads, rows, width)
        k_sizes = Concat <axis = 0> (heads, columns, width)
        bias_sizes = Concat <axis = 0> (heads, one, columns)
        q3 = Reshape (q, q_sizes)
        k3 = Reshape (k, k_sizes)
        kt = Transpose <perm = [0, 2, 1]> (k3)
        bias3 = Reshape (bias, bias_sizes)
        products = MatMul (q3, kt)
        scaled = Mul (products, half)
        {step}
        split = Concat <axis = 0> (all, two, rows, columns)
        y = Reshape (scores, split)
    }}
"""

UNFOLDED = """
    g (float[B,2,S,4] q, float[B,2,T,4] k, float[B,2,T] bias, float[1,S,T] shared)
        => (float[B,2,S,T] y)
    <float half = {0.5}>
    {
        kt = Transpose <perm = [0, 1, 3, 2]> (k)
        products = MatMul (q, kt)
        y = Mul (products, half)
    }
"""


def folded(step: str, result: str = "scores", more: str = "") -> str:
    return FOLDED.format(step=step, more=more).replace("(scores, split)", f"({result}, split)")


def test_a_product_of_folded_heads_is_unfolded() -> None:
    check_rewrite(Canonicalize(), folded("", "scaled"), UNFOLDED)


@pytest.mark.parametrize(
    "step",
    [
        "scores = Add (scaled, bias3)",
        "scores = Add (shared, scaled)",
        "scores = Sub (half, scaled)",
        "a = Add (scaled, bias3)\n scores = Add (shared, a)",
    ],
)
def test_additions_go_along(step: str) -> None:
    before = module_from(folded(step))
    after, record = run_pass(Canonicalize(), before)
    assert "unfold-heads" in [rewrite.rule for rewrite in record.rewrites]
    (product,) = (node for node in after.graph if node.op_type == "MatMul")
    assert rank(product.outputs[0]) == 4
    check_numbers(Canonicalize.numerics, before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("scores = Add (scaled, bias3)", "scores = Neg (scaled)"),
        ("y{more})", "y, float[N,S,T] products)"),
        ("Mul (all, two)", "Mul (two, all)\n mixed = Transpose <perm = [1, 0, 2, 3]> (q)"),
    ],
    ids=["another operation", "the product is used", "heads before rows"],
)
def test_other_products_stay(before: str, after: str) -> None:
    text = FOLDED.replace("{step}", "scores = Add (scaled, bias3)").replace(before, after)
    text = text.format(more="") if "{more}" in text else text.replace("{{", "{").replace("}}", "}")
    if "mixed" in text:
        text = text.replace("Reshape (q, q_sizes)", "Reshape (mixed, q_sizes)")
    _, record = run_pass(Canonicalize(), module_from(text))
    assert "unfold-heads" not in [rewrite.rule for rewrite in record.rewrites]


def test_heads_folded_into_the_batch_are_split_at_once() -> None:
    text = """
    g (float[S,B,8] x) => (float[B,2,S,4] y) <int64[1] two = {2}, int64[1] four = {4}> {
        sequence = Shape <start = 0, end = 1> (x)
        batch = Shape <start = 1, end = 2> (x)
        all = Mul (batch, two)
        folded_sizes = Concat <axis = 0> (sequence, all, four)
        folded = Reshape (x, folded_sizes)
        turned = Transpose <perm = [1, 0, 2]> (folded)
        sizes = Concat <axis = 0> (batch, two, sequence, four)
        y = Reshape (turned, sizes)
    }"""
    after = """
    g (float[S,B,8] x) => (float[B,2,S,4] y) <int64[4] split = {0, 0, 2, 4}> {
        apart = Reshape (x, split)
        y = Transpose <perm = [1, 2, 0, 3]> (apart)
    }"""
    check_rewrite(Canonicalize(), text, after)
