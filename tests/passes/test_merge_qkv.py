from __future__ import annotations

import pytest

from dechaff.ir import num_parameters
from dechaff.passes.merge_qkv import MergeQkv
from tests.passes.rewrite_checks import (
    check_cost,
    check_declines,
    check_ignores,
    check_numbers,
    check_rewrite,
    module_from,
    run_pass,
)

WEIGHTS = """float[8,8] wq = {...}, float[8,4] wk = {...}, float[8,4] wv = {...},
    float[8] bq = {...}, float[4] bk = {...}, float[4] bv = {...}"""
MERGED = "float[8,16] w = {...}, float[16] b = {...}, int64[3] widths = {8, 4, 4}"
ATTENTION = "Attention <q_num_heads = 2, kv_num_heads = 1>"
BIASED = f"""xq = MatMul (x, wq)
    q = Add (xq, bq)
    xk = MatMul (x, wk)
    k = Add (bk, xk)
    xv = MatMul (x, wv)
    v = Add (xv, bv)
    y = {ATTENTION} (q, k, v)"""
PLAIN = f"""q = MatMul (x, wq)
    k = MatMul (x, wk)
    v = MatMul (x, wv)
    y = {ATTENTION} (q, k, v)"""


def graph(body: str, constants: str = WEIGHTS, extra: str = "", outputs: str = "") -> str:
    return f"""g (float[B,S,8] x{extra}) => (float[B,S,8] y{outputs}) <{constants}>
        {{ {body} }}"""


def test_projections_with_biases_merge() -> None:
    check_rewrite(
        MergeQkv(),
        graph(BIASED),
        graph(
            f"""xw = MatMul (x, w)
                qkv = Add (xw, b)
                q, k, v = Split <axis = -1> (qkv, widths)
                y = {ATTENTION} (q, k, v)""",
            MERGED,
        ),
    )


def test_projections_without_biases_merge() -> None:
    check_rewrite(
        MergeQkv(),
        graph(PLAIN),
        graph(
            f"""qkv = MatMul (x, w)
                q, k, v = Split <axis = -1> (qkv, widths)
                y = {ATTENTION} (q, k, v)""",
            MERGED,
        ),
    )


def test_where_one_has_no_bias_the_products_alone_merge() -> None:
    check_rewrite(
        MergeQkv(),
        graph(BIASED.replace("k = Add (bk, xk)", "").replace("xk", "k")),
        graph(
            f"""qkv = MatMul (x, w)
                xq, k, xv = Split <axis = -1> (qkv, widths)
                q = Add (xq, bq)
                v = Add (xv, bv)
                y = {ATTENTION} (q, k, v)""",
            f"{MERGED}, float[8] bq = {{...}}, float[4] bv = {{...}}",
        ),
    )


def test_where_a_product_has_another_reader_the_products_alone_merge() -> None:
    check_rewrite(
        MergeQkv(),
        graph(BIASED, outputs=", float[B,S,8] xq"),
        graph(
            f"""qkv = MatMul (x, w)
                xq, xk, xv = Split <axis = -1> (qkv, widths)
                q = Add (xq, bq)
                k = Add (bk, xk)
                v = Add (xv, bv)
                y = {ATTENTION} (q, k, v)""",
            f"{MERGED}, float[8] bq = {{...}}, float[4] bk = {{...}}, float[4] bv = {{...}}",
            outputs=", float[B,S,8] xq",
        ),
    )


def test_a_projection_with_other_readers_serves_them_from_the_split() -> None:
    check_rewrite(
        MergeQkv(),
        graph(PLAIN, outputs=", float[B,S,4] k"),
        graph(
            f"""qkv = MatMul (x, w)
                q, k, v = Split <axis = -1> (qkv, widths)
                y = {ATTENTION} (q, k, v)""",
            MERGED,
            outputs=", float[B,S,4] k",
        ),
    )


def test_key_and_value_of_cross_attention_merge() -> None:
    extra = ", float[B,N,8] memory"
    check_rewrite(
        MergeQkv(),
        graph(
            PLAIN.replace("(x, wk)", "(memory, wk)").replace("(x, wv)", "(memory, wv)"), extra=extra
        ),
        graph(
            f"""q = MatMul (x, wq)
                kv = MatMul (memory, w)
                k, v = Split <axis = -1> (kv, widths)
                y = {ATTENTION} (q, k, v)""",
            "float[8,8] wq = {...}, float[8,8] w = {...}, int64[2] widths = {4, 4}",
            extra=extra,
        ),
    )


def test_heads_split_before_the_attention_are_no_hindrance() -> None:
    heads = "int64[4] q_heads = {0, 0, 2, 4}, int64[4] k_heads = {0, 0, 1, 4}"
    split = """q4 = Reshape (q, q_heads)
        qt = Transpose <perm = [0, 2, 1, 3]> (q4)
        k4 = Reshape (k, k_heads)
        kt = Transpose <perm = [0, 2, 1, 3]> (k4)
        v4 = Reshape (v, k_heads)
        vt = Transpose <perm = [0, 2, 1, 3]> (v4)
        c = Attention (qt, kt, vt)
        y = Transpose <perm = [0, 2, 1, 3]> (c)"""
    before = PLAIN.replace(f"y = {ATTENTION} (q, k, v)", split)
    after = f"qkv = MatMul (x, w)\n q, k, v = Split <axis = -1> (qkv, widths)\n {split}"
    check_rewrite(
        MergeQkv(),
        graph(before, f"{WEIGHTS}, {heads}").replace("float[B,S,8] y", "float[B,S,2,4] y"),
        graph(after, f"{MERGED}, {heads}").replace("float[B,S,8] y", "float[B,S,2,4] y"),
    )


def test_projections_of_packed_tokens_merge() -> None:
    inputs = "g (float[T,8] x, int64[N] cu, int64[T] index) => (float[T,8] y)"
    attend = """y = dechaff.VarlenAttention
        <q_num_heads = 2, kv_num_heads = 2, scale = 0.5, is_causal = 0> (q, k, v, cu, index, cu)"""
    original = module_from(
        f"""{inputs} <float[8,8] wq = {{...}}, float[8,8] wk = {{...}}, float[8,8] wv = {{...}}>
        {{ q = MatMul (x, wq)
           k = MatMul (x, wk)
           v = MatMul (x, wv)
           {attend} }}"""
    )
    result, record = run_pass(MergeQkv(), original)
    assert [node.op_type for node in result.graph] == ["MatMul", "Split", "VarlenAttention"]
    assert num_parameters(result) == num_parameters(original) + 3
    assert len(record.rewrites) == 1
    check_cost(original, result, [{"T": 7, "N": 3}])


def test_layers_that_share_weights_share_the_merged_one() -> None:
    two_layers = (
        PLAIN.replace("y =", "z =")
        + "\n"
        + (
            f"""q2 = MatMul (z, wq)
            k2 = MatMul (z, wk)
            v2 = MatMul (z, wv)
            y = {ATTENTION} (q2, k2, v2)"""
        )
    )
    original = module_from(graph(two_layers))
    result, record = run_pass(MergeQkv(), original)
    assert [node.op_type for node in result.graph] == ["MatMul", "Split", "Attention"] * 2
    assert len(record.rewrites) == 2
    assert num_parameters(result) == num_parameters(original) + 3 + 3  # two lists of widths
    check_numbers(MergeQkv.numerics, original, result)
    check_cost(original, result)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("y =", "z = MatMul (x, wk)\n w2 = Transpose (wk)\n y =", "has other users"),
        ("(x, wk)", "(x, given)", "its key comes from no products with constant"),
        (
            "k = MatMul (x, wk)",
            "k = Relu (given_k)",
            "its key comes from no products with constant",
        ),
        (
            "k = MatMul (x, wk)",
            "k1 = MatMul (x, wk)\n k2 = MatMul (x, wk2)\n k = Mul (k1, k2)",
            "its key comes from 2 products with constant",
        ),
    ],
)
def test_each_condition_alone_stops_it(old: str, new: str, reason: str) -> None:
    assert old in PLAIN
    body = PLAIN.replace(old, new)
    if reason != "has other users":
        body = body.replace("v = MatMul (x, wv)", "v = Relu (given_k)")
    constants = f"{WEIGHTS}, float[8,4] wk2 = {{...}}"
    outputs = ", w2" if reason == "has other users" else ""
    text = graph(body, constants, extra=", float[8,4] given, float[B,S,4] given_k", outputs=outputs)
    check_declines(MergeQkv(), text, reason)


def test_projections_of_different_values_stay() -> None:
    text = graph(
        PLAIN.replace("(x, wk)", "(a, wk)").replace("(x, wv)", "(b, wv)"),
        extra=", float[B,S,8] a, float[B,S,8] b",
    )
    check_declines(MergeQkv(), text, "no two of its projections read the same value")


def test_a_sum_with_something_else_than_a_bias_stays_behind_the_split() -> None:
    body = BIASED.replace("Add (bk, xk)", "Add (rest, xk)")
    check_rewrite(
        MergeQkv(),
        graph(body, extra=", float[B,S,4] rest"),
        graph(
            f"""qkv = MatMul (x, w)
                xq, xk, xv = Split <axis = -1> (qkv, widths)
                q = Add (xq, bq)
                k = Add (rest, xk)
                v = Add (xv, bv)
                y = {ATTENTION} (q, k, v)""",
            f"{MERGED}, float[8] bq = {{...}}, float[4] bv = {{...}}",
            extra=", float[B,S,4] rest",
        ),
    )


def test_rotary_positions_spelled_out_are_no_hindrance() -> None:
    turn = """q1, q2 = Split <axis = -1, num_outputs = 2> (xq)
        minus = Neg (q2)
        turned = Concat <axis = -1> (minus, q1)
        left = Mul (xq, cos)
        right = Mul (turned, sin)
        q = Add (left, right)"""
    extra = ", float[B,S,8] cos, float[B,S,8] sin"
    check_rewrite(
        MergeQkv(),
        graph(PLAIN.replace("q = MatMul (x, wq)", f"xq = MatMul (x, wq)\n {turn}"), extra=extra),
        graph(
            f"""qkv = MatMul (x, w)
                xq, k, v = Split <axis = -1> (qkv, widths)
                {turn}
                y = {ATTENTION} (q, k, v)""",
            MERGED,
            extra=extra,
        ),
    )


def test_projections_that_are_merged_already_stay() -> None:
    check_ignores(
        MergeQkv(),
        graph(
            f"""qkv = MatMul (x, w)
                q, k, v = Split <axis = -1> (qkv, widths)
                y = {ATTENTION} (q, k, v)""",
            MERGED,
        ),
    )


def test_products_that_feed_no_attention_stay() -> None:
    check_ignores(
        MergeQkv(),
        graph("""a = MatMul (x, wk)
                 b = MatMul (x, wv)
                 y = Concat <axis = -1> (a, b)"""),
    )


def test_projections_of_packed_tokens_merge_before_padded_attention() -> None:
    unpacked = "\n".join(
        f"{name}p = MatMul (x, w{name})\n{name} = dechaff.Unpack ({name}p, index, keep)"
        for name in "qkv"
    )
    before = module_from(
        f"""g (float[T,8] x, int64[T] index, bool[B,S] keep) => (float[B,S,8] y) <{WEIGHTS}>
            {{ {unpacked}
               y = {ATTENTION} (q, k, v) }}"""
    )
    after, record = run_pass(MergeQkv(), before)
    operators = [node.op_type for node in after.graph]
    assert record.changed
    assert operators.count("MatMul") == 1
    assert operators.count("Unpack") == 3
