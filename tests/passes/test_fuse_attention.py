from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dechaff.ir import Module
from dechaff.passes.fuse_attention import FuseAttention
from tests.model_runner import run_module
from tests.passes.rewrite_checks import (
    assert_close,
    check_declines,
    check_ignores,
    check_numbers,
    module_from,
    run_pass,
)

CHAIN = """
    g (float[B,H,S,4] q, float[B,H,S,4] k, float[B,H,S,4] v, float[B,1,S,S] mask,
       bool[B,1,S,S] hidden) => (float[B,H,S,4] y)
    <float half = {{0.5}}, float two = {{2}}, float minus = {{-1}}, float zero = {{0}},
     float lowest = {{-3.4e38}},
     float small = {{-100}}>
    {{
        {keys}
        {scores}
        p = Softmax <axis = {axis}> ({softmax_input})
        {after}
        y = MatMul ({probabilities}, v)
    }}
"""


def chain(
    keys: str = "kt = Transpose <perm = [0, 1, 3, 2]> (k)",
    scores: str = "s = MatMul (q, kt)",
    softmax_input: str = "s",
    after: str = "",
    probabilities: str = "p",
    axis: int = -1,
) -> str:
    return CHAIN.format(
        keys=keys,
        scores=scores,
        softmax_input=softmax_input,
        after=after,
        probabilities=probabilities,
        axis=axis,
    )


def fuse(text: str) -> tuple[Module, Module]:
    before = module_from(text)
    after, _ = run_pass(FuseAttention(), before)
    return before, after


def operators(module: Module) -> list[str]:
    return [node.op_type for node in module.graph]


def attribute(module: Module, name: str) -> float:
    node = next(node for node in module.graph if node.op_type == "Attention")
    return float(node.attributes[name].as_float())


SPELLINGS = {
    "without mask or scale": (chain(), 1.0),
    "scale multiplied": (chain(scores="r = MatMul (q, kt)\n s = Mul (r, half)"), 0.5),
    "scale divided": (chain(scores="r = MatMul (q, kt)\n s = Div (r, two)"), 0.5),
    "scale written first": (chain(scores="r = MatMul (q, kt)\n s = Mul (half, r)"), 0.5),
    "scale on the query": (chain(scores="r = Mul (q, half)\n s = MatMul (r, kt)"), 0.5),
    "scale on query and keys": (
        chain(scores="r = Mul (q, half)\n kh = Mul (kt, half)\n s = MatMul (r, kh)"),
        0.25,
    ),
    "mask added": (chain(scores="r = MatMul (q, kt)\n s = Add (r, mask)"), 1.0),
    "mask written first": (chain(scores="r = MatMul (q, kt)\n s = Add (mask, r)"), 1.0),
    "two masks": (
        chain(scores="r = MatMul (q, kt)\n t = Add (r, mask)\n s = Add (t, mask)"),
        1.0,
    ),
    "masked by selection": (
        chain(scores="r = MatMul (q, kt)\n s = Where (hidden, lowest, r)"),
        1.0,
    ),
    "selected by not masked": (
        chain(scores="r = MatMul (q, kt)\n s = Where (hidden, r, lowest)"),
        1.0,
    ),
    "mask subtracted": (chain(scores="r = MatMul (q, kt)\n s = Sub (r, mask)"), 1.0),
    "scale behind the mask": (
        chain(scores="r = MatMul (q, kt)\n t = Add (r, mask)\n s = Mul (t, half)"),
        0.5,
    ),
    "scale behind a subtracted mask and a selection": (
        chain(
            scores="r = MatMul (q, kt)\n t = Sub (r, mask)\n h = Where (hidden, lowest, t)\n"
            "s = Div (h, two)"
        ),
        0.5,
    ),
    "softmax over axis 3": (chain(axis=3), 1.0),
    "identity behind the softmax": (
        chain(after="d = Identity (p)", probabilities="d"),
        1.0,
    ),
    "keys transposed from split heads": (
        chain(
            keys="ks = Transpose <perm = [0, 2, 1, 3]> (k)\n"
            "kt = Transpose <perm = [0, 2, 3, 1]> (ks)"
        ),
        1.0,
    ),
    "guarded against empty rows": (
        chain(
            scores="r = MatMul (q, kt)\n s = Add (r, mask)",
            after="n = IsNaN (p)\n g = Where (n, zero, p)",
            probabilities="g",
        ),
        1.0,
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_fuses_each_spelling_into_one_attention(spelling: str) -> None:
    text, scale = SPELLINGS[spelling]
    before, after = fuse(text)
    assert operators(after).count("Attention") == 1
    assert "Softmax" not in operators(after)
    assert attribute(after, "scale") == pytest.approx(scale)
    check_numbers(FuseAttention.numerics, before, after)


def test_keys_that_are_not_transposed_get_a_transpose() -> None:
    text = """
        g (float[B,H,S,4] q, float[B,H,4,S] k, float[B,H,S,4] v) => (float[B,H,S,4] y) {
            s = MatMul (q, k)
            p = Softmax (s)
            y = MatMul (p, v)
        }
    """
    before, after = fuse(text)
    assert operators(after) == ["Transpose", "Attention"]
    check_numbers(FuseAttention.numerics, before, after)


DECLINED = {
    "softmax over the wrong axis": (chain(axis=1), "runs over axis 1"),
    "factor that turns the mask around": (
        chain(scores="r = MatMul (q, kt)\n t = Add (r, mask)\n s = Mul (t, minus)"),
        "turns it around",
    ),
    "fill too small": (
        chain(scores="r = MatMul (q, kt)\n s = Where (hidden, small, r)"),
        "too small to be the same as adding it",
    ),
    "scale that is no constant": (
        chain(scores="r = MatMul (q, kt)\n s = Mul (r, mask)"),
        "no scalar constant",
    ),
    "scores from elsewhere": (
        chain(scores="s = Identity (mask)"),
        "does not lead to a MatMul",
    ),
    "probabilities used elsewhere": (
        chain(after="other = Relu (p)").replace(
            "=> (float[B,H,S,4] y)", "=> (float[B,H,S,4] y, float[B,H,S,S] other)"
        ),
        "used elsewhere",
    ),
}


@pytest.mark.parametrize("case", DECLINED)
def test_each_condition_alone_stops_it_with_its_reason(case: str) -> None:
    text, reason = DECLINED[case]
    check_declines(FuseAttention(), text, reason)


def test_a_product_without_softmax_is_not_nearly_attention() -> None:
    check_ignores(
        FuseAttention(),
        "g (float[B,S,4] x, float[B,4,S] z) => (float[B,S,S] y) { y = MatMul (x, z) }",
    )


def test_transposes_stay_when_a_head_operand_is_no_split() -> None:
    text = """
        g (float[B,2,S,4] q, float[B,S,8] k, float[B,S,8] v) => (float[B,S,8] y)
        <int64[4] split = {0, 0, 2, 4}, int64[3] join = {0, 0, 8}>
        {
            ks = Reshape (k, split)
            kh = Transpose <perm = [0, 2, 1, 3]> (ks)
            vs = Reshape (v, split)
            vh = Transpose <perm = [0, 2, 1, 3]> (vs)
            a = Attention (q, kh, vh)
            t = Transpose <perm = [0, 2, 1, 3]> (a)
            y = Reshape (t, join)
        }
    """
    check_declines(FuseAttention(), text, "Q is not a transposed split")


def test_grouped_query_heads_are_kept_apart() -> None:
    text = """
        g (float[B,S,8] q, float[B,S,4] k, float[B,S,4] v) => (float[B,S,8] y)
        <int64[4] q_split = {0, 0, 4, 2},
         int64[4] kv_split = {0, 0, 2, 2}, int64[3] join = {0, 0, 8}>
        {
            qs = Reshape (q, q_split)
            qh = Transpose <perm = [0, 2, 1, 3]> (qs)
            ks = Reshape (k, kv_split)
            kh = Transpose <perm = [0, 2, 1, 3]> (ks)
            vs = Reshape (v, kv_split)
            vh = Transpose <perm = [0, 2, 1, 3]> (vs)
            a = Attention (qh, kh, vh)
            t = Transpose <perm = [0, 2, 1, 3]> (a)
            y = Reshape (t, join)
        }
    """
    before, after = fuse(text)
    node = next(iter(after.graph))
    assert operators(after) == ["Attention"]
    assert node.attributes["q_num_heads"].as_int() == 4
    assert node.attributes["kv_num_heads"].as_int() == 2
    check_numbers(FuseAttention.numerics, before, after)


@pytest.mark.parametrize("fill", [-1e4, float(np.finfo(np.float32).min)])
@pytest.mark.parametrize("spelling", ["mask added", "guarded against empty rows"])
def test_a_row_without_keys_gives_what_it_gave_before(fill: float, spelling: str) -> None:
    before, after = fuse(SPELLINGS[spelling][0])
    generator = np.random.default_rng(0)
    shape = (2, 3, 5, 4)
    inputs = {name: generator.standard_normal(shape).astype(np.float32) for name in "qkv"}
    inputs["mask"] = np.zeros((2, 1, 5, 5), np.float32)
    inputs["mask"][0, :, :, 3:] = fill
    inputs["mask"][1] = fill
    inputs["hidden"] = np.zeros((2, 1, 5, 5), bool)
    expected, found = run_module(before, inputs)["y"], run_module(after, inputs)["y"]
    assert_close(FuseAttention.numerics, found, expected, spelling)


def test_a_row_without_keys_stays_zero_under_the_guard() -> None:
    before, after = fuse(SPELLINGS["guarded against empty rows"][0])
    generator = np.random.default_rng(0)
    inputs = {n: generator.standard_normal((2, 3, 5, 4)).astype(np.float32) for n in "qkv"}
    inputs["mask"] = np.zeros((2, 1, 5, 5), np.float32)
    inputs["mask"][1] = -np.inf
    inputs["hidden"] = np.zeros((2, 1, 5, 5), bool)
    expected, found = run_module(before, inputs)["y"], run_module(after, inputs)["y"]
    assert not expected[1].any()
    assert_close(FuseAttention.numerics, found, expected, "empty row")


@settings(max_examples=10, deadline=None)
@given(
    batch=st.integers(1, 4), heads=st.integers(1, 5), length=st.integers(1, 17), seed=st.integers(0)
)
def test_numbers_hold_at_any_size(batch: int, heads: int, length: int, seed: int) -> None:
    before, after = fuse(SPELLINGS["mask added"][0])
    check_numbers(FuseAttention.numerics, before, after, [{"B": batch, "H": heads, "S": length}])


@pytest.mark.parametrize(
    "mask", ["float", "float[S,1]", "float[B,1,1,1]", "float[B,1,S,1]", "float[1]"]
)
def test_a_mask_that_is_the_same_for_all_keys_is_written_out_for_each(mask: str) -> None:
    text = chain(scores="r = MatMul (q, kt)\n s = Add (r, mask)")
    before, after = fuse(text.replace("float[B,1,S,S] mask", f"{mask} mask"))
    assert "Attention" in operators(after)
    check_numbers(FuseAttention.numerics, before, after)


CAPPED = """r = MatMul (q, kt)
    bent = Div (r, two)
    t = Tanh (bent)
    capped = Mul (t, two)
    s = Add (capped, mask)"""


def test_soft_capped_scores_are_fused() -> None:
    before, after = fuse(chain(scores=CAPPED))
    assert attribute(after, "softcap") == 2.0
    assert attribute(after, "scale") == 1.0
    check_numbers(FuseAttention.numerics, before, after)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        (
            "r = MatMul (q, kt)\n m = Add (r, mask)\n t = Tanh (m)\n s = Mul (t, two)",
            "before soft-capping",
        ),
        ("r = MatMul (q, kt)\n t = Tanh (r)\n u = Tanh (t)\n s = Mul (u, two)", "no soft-capping"),
        ("r = MatMul (q, kt)\n t = Tanh (r)\n s = Mul (t, small)", "no soft-capping"),
    ],
)
def test_other_uses_of_tanh_are_not(scores: str, reason: str) -> None:
    check_declines(FuseAttention(), chain(scores=scores), reason)
