"""What ``fuse-attention`` takes inside: repeated heads, rotary positions, transposes."""

from __future__ import annotations

import pytest

from dechaff.ir import Module
from dechaff.passes.fuse_attention import FuseAttention
from tests.passes.rewrite_checks import check_numbers, module_from, run_pass

DECODER = """
    g (float[B,S,8] q, float[B,S,4] k, float[B,S,4] v, float[B,S,2] cosine, float[B,S,2] sine)
        => (float[B,S,8] y)
    <int64[4] q_split = {{0, 0, 2, 4}}, int64[4] k_split = {{0, 0, 1, 4}}, float[4] gamma = {{...}},
     int64[1] group = {{2}}, int64[1] first = {{1}}, int64[3] join = {{0, 0, 8}},
     int64[5] copies = {{1, 1, 2, 1, 1}}, int64[4] merged = {{0, 2, -1, 4}}>
    {{
        qs = Reshape (q, q_split)
        {normalize}
        q4 = Transpose <perm = [0, 2, 1, 3]> (qn)
        ks = Reshape (k, k_split)
        k4 = Transpose <perm = [0, 2, 1, 3]> (ks)
        vs = Reshape (v, k_split)
        v4 = Transpose <perm = [0, 2, 1, 3]> (vs)
        qr = RotaryEmbedding (q4, cosine, sine)
        kr = RotaryEmbedding (k4, cosine, sine)
        k5 = Unsqueeze (kr, {axis})
        k55 = Expand (k5, copies)
        kk = Reshape (k55, merged)
        {values}
        c4 = Attention <scale = 0.5, is_causal = 1> (qr, kk, vv)
        cs = Transpose <perm = [0, 2, 1, 3]> (c4)
        y = Reshape (cs, join)
    }}
"""
REPEATED_VALUES = """
        v5 = Unsqueeze (v4, group)
        v55 = Expand (v5, copies)
        vv = Reshape (v55, merged)
"""


def decoder(
    normalize: str = "qn = Identity (qs)", axis: str = "group", values: str = REPEATED_VALUES
) -> str:
    return DECODER.format(normalize=normalize, axis=axis, values=values)


def fuse(text: str) -> tuple[Module, list[str], list[str]]:
    """The module after the pass, its operators, and the reasons for near misses."""
    before = module_from(text)
    after, record = run_pass(FuseAttention(), before)
    check_numbers(FuseAttention.numerics, before, after)
    operators = [node.op_type for node in after.graph]
    return after, operators, [miss.reason for miss in record.misses]


NORMALIZATIONS = {
    "none": "qn = Identity (qs)",
    "of each head": "qn = RMSNormalization <axis = -1> (qs, gamma)",
}


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_a_decoders_attention_reads_projections_as_they_are(normalize: str) -> None:
    after, operators, _ = fuse(decoder(NORMALIZATIONS[normalize]))
    attention = next(node for node in after.graph if node.op_type == "Attention")
    assert attention.attributes["kv_num_heads"].as_int() == 1
    assert attention.attributes["q_num_heads"].as_int() == 2
    assert "Transpose" not in operators
    assert "Expand" not in operators
    assert operators.count("RotaryEmbedding") == 2


def test_values_that_are_not_repeated_keep_the_keys_repeated() -> None:
    _, operators, reasons = fuse(
        decoder(values="vv = Expand (v4, copies4)").replace(
            "int64[3] join", "int64[4] copies4 = {1, 2, 1, 1}, int64[3] join"
        )
    )
    assert "Expand" in operators
    assert "keys and values are not repeated in the same way" in reasons


def test_heads_copied_as_a_whole_are_no_groups() -> None:
    text = decoder(axis="first").replace("{1, 1, 2, 1, 1}", "{1, 2, 1, 1, 1}")
    _, operators, _ = fuse(text.replace("v5 = Unsqueeze (v4, group)", "v5 = Unsqueeze (v4, first)"))
    assert "Expand" in operators
