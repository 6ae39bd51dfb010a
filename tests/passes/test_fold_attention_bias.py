from __future__ import annotations

import pytest

from dechaff.passes.fold_attention_bias import FoldAttentionBias
from tests.passes.rewrite_checks import (
    check_declines,
    check_ignores,
    check_rewrite,
    module_from,
    run_pass,
)

CONSTANTS = """<float[4,2] wk = {...}, float[4,2] wv = {...}, float[2] bk = {3, -2},
    float[2] bv = {1, -1}, float[4,3] wo = {1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 2},
    float[3] bo = {5, 6, 7}, float[3] b = {6, 5, 6}, float[1,2] row = {1, 2}>"""
"""Two query heads share one key head: contexts carry the values' bias twice, (1, -1, 1, -1)."""

HEADS = "q_num_heads = 2, kv_num_heads = 1"
BEFORE = "xk = MatMul (x, wk)\n k = Add (xk, bk)\n xv = MatMul (x, wv)\n v = Add (xv, bv)\n"
AFTER = "k = MatMul (x, wk)\n v = MatMul (x, wv)\n"
ATTEND = f"c = Attention <{HEADS}> (q, k, v)\n"
PROJECT = "p = MatMul (c, wo)\n y = Add (p, bo)"
PROJECTED = "p = MatMul (c, wo)\n y = Add (p, b)"
PACKED = """count = Size (index)
    keys = Range (zero, count, one)
    c = dechaff.VarlenAttention
        <q_num_heads = 2, kv_num_heads = 1, scale = 0.5, is_causal = 0>
        (q, k, v, starts, keys, starts)
"""
KEYS_ONLY = "xv = MatMul (x, wv)\n v = Add (xv, bv)\n k = MatMul (x, wk)\n"


def graph(body: str, inputs: str = "", outputs: str = "float[B,S,3] y") -> str:
    return f"g (float[B,S,4] q, float[B,S,4] x{inputs}) => ({outputs}) {CONSTANTS} {{ {body} }}"


def packed_graph(body: str) -> str:
    constants = CONSTANTS.removesuffix(">") + ", int64 zero = {0}, int64 one = {1}>"
    return f"""g (float[B,S,4] q_rows, float[B,S,4] x_rows, bool[B,S] mask) => (float[B,S,3] y)
        {constants} {{
            index, starts, position = dechaff.TokenLayout (mask)
            q = dechaff.Pack (q_rows, index, mask)
            x = dechaff.Pack (x_rows, index, mask)
            {body}
        }}"""


def test_grouped_heads_get_the_bias_of_their_group() -> None:
    check_rewrite(
        FoldAttentionBias(),
        graph(BEFORE + ATTEND + PROJECT),
        graph(AFTER + ATTEND + PROJECTED),
    )


def test_causal_attention() -> None:
    causal = ATTEND.replace(HEADS, HEADS + ", is_causal = 1")
    check_rewrite(
        FoldAttentionBias(),
        graph(BEFORE + causal + PROJECT),
        graph(AFTER + causal + PROJECTED),
    )


def test_packed_sequences() -> None:
    unpack = "\n y = dechaff.Unpack (y_packed, index, mask)"
    check_rewrite(
        FoldAttentionBias(),
        packed_graph(BEFORE + PACKED + PROJECT.replace("y =", "y_packed =") + unpack),
        packed_graph(AFTER + PACKED + PROJECTED.replace("y =", "y_packed =") + unpack),
    )


def test_under_a_mask_only_the_keys_lose_theirs() -> None:
    masked = f"c = Attention <{HEADS}> (q, k, v, mask)\n"
    inputs = ", bool[S,S] mask"
    _, record = run_pass(FoldAttentionBias(), module_from(graph(BEFORE + masked + PROJECT, inputs)))
    assert len(record.rewrites) == 1
    check_declines(
        FoldAttentionBias(),
        graph(KEYS_ONLY + masked + PROJECT, inputs),
        "may leave a query without keys",
    )


def test_capped_scores_stop_it() -> None:
    capped = f"c = Attention <{HEADS}, softcap = 2.0> (q, k, v)\n"
    biased_keys = "xk = MatMul (x, wk)\n k = Add (xk, bk)\n v = MatMul (x, wv)\n"
    check_declines(FoldAttentionBias(), graph(biased_keys + capped + PROJECT), "caps its scores")


def test_keys_of_earlier_calls_stop_it() -> None:
    body = f"""{BEFORE}
        c, present_k, present_v = Attention <{HEADS}> (q, k, v, , past_k, past_v)
        {PROJECT}"""
    record = check_declines(
        FoldAttentionBias(),
        graph(body, ", float[B,1,P,2] past_k, float[B,1,P,2] past_v"),
        "keys of earlier calls",
    )
    assert any("without keys" in miss.reason for miss in record.misses)


def test_keys_that_are_outputs_stop_it() -> None:
    body = f"""{BEFORE}
        c, present_k, present_v = Attention <{HEADS}> (q, k, v)
        {PROJECT}"""
    record = check_declines(
        FoldAttentionBias(),
        graph(body, outputs="float[B,S,3] y, float[B,1,S,2] present_k, float[B,1,S,2] present_v"),
        "its keys or scores are outputs too",
    )
    assert any("its values are outputs too" in miss.reason for miss in record.misses)


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        (f"{KEYS_ONLY}{ATTEND}p = MatMul (c, wo)\n y = Add (p, p)", "", "has no bias"),
        (f"{KEYS_ONLY}{ATTEND}y = MatMul (c, wo)", "", "has no bias"),
        (f"{KEYS_ONLY}{ATTEND}{PROJECT}", ", float[B,S,4] c", "one dense layer alone"),
        (f"{KEYS_ONLY}{ATTEND}{PROJECT}", ", float[B,S,3] p", "has no bias"),
    ],
)
def test_without_a_dense_layer_to_take_it_the_bias_stays(
    body: str, outputs: str, reason: str
) -> None:
    check_declines(FoldAttentionBias(), graph(body, outputs="float[B,S,3] y" + outputs), reason)


def test_a_bias_that_is_no_vector_or_used_elsewhere_stays() -> None:
    no_vector = "xk = MatMul (x, wk)\n k = Add (xk, row)\n v = MatMul (x, wv)\n"
    check_ignores(FoldAttentionBias(), graph(no_vector + ATTEND + PROJECT))
    biased_keys = "xk = MatMul (x, wk)\n k = Add (xk, bk)\n v = MatMul (x, wv)\n"
    check_ignores(
        FoldAttentionBias(),
        graph(biased_keys + ATTEND + PROJECT, outputs="float[B,S,3] y, float[B,S,2] k"),
    )
