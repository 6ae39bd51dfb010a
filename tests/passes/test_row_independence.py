"""A batch may be run in parts only where the graph shows that its rows never meet."""

from __future__ import annotations

import pytest

from dechaff.passes.matching import is_packed_attention
from dechaff.passes.row_independence import rows_are_independent
from dechaff.passes.skip_unread_rows import SkipUnreadRows
from tests.passes.rewrite_checks import run_pass
from tests.passes.test_remove_padding import STATES, layer, remove_padding

POOLED = "p = Gather <axis = 1> (r, first)"
OF_INPUT = "q = Gather <axis = 1> (x, first)"
ROUNDED = """scale = Constant <value = float{size} {{0.1}}> ()
    q = QuantizeLinear <axis = {axis}> (r, scale) y = DequantizeLinear <axis = {axis}> (q, scale)"""


@pytest.mark.parametrize(
    ("after", "outputs"),
    [
        ("y = Relu (r)", STATES),
        (f"{POOLED} y = Tanh (p)", "float[B,4] y"),
        (f"{POOLED} y = MatMul (p, w)", "float[B,4] y"),
        ("y = Relu (r) z = Softmax <axis = 2> (y)", f"{STATES}, float[B,S,4] z"),
        ("size = Shape (r) y = Reshape (r, size)", STATES),
        (ROUNDED.format(size="", axis=1), STATES),
        (ROUNDED.format(size="[1]", axis=2), STATES),
    ],
)
def test_rows_that_never_meet_are_independent(after: str, outputs: str) -> None:
    _, packed, _ = remove_padding(layer(after, outputs))
    assert any(map(is_packed_attention, packed.graph))
    assert rows_are_independent(packed)
    one_token, record = run_pass(SkipUnreadRows(), packed)
    assert record.changed == (POOLED in after)
    assert rows_are_independent(one_token)


@pytest.mark.parametrize(
    ("after", "outputs"),
    [
        (f"{POOLED} y = Softmax <axis = 0> (p)", "float[B,4] y"),
        (f"y = Relu (r) {OF_INPUT} z = Gemm <transB = 1> (q, q)", f"{STATES}, float[B,B] z"),
        (f"y = Relu (r) {OF_INPUT} z = Transpose (q)", f"{STATES}, float[4,B] z"),
        (f"y = Relu (r) {OF_INPUT} z = GatherND (q, ends)", f"{STATES}, float z"),
        (f"{POOLED} t = Gather <axis = 0> (p, first) y = Add (p, t)", "float[B,4] y"),
        (f"{POOLED} y = CumSum (p, nothing)", "float[B,4] y"),
        (ROUNDED.format(size="[1]", axis=0), STATES),
        (ROUNDED.format(size="[1]", axis=-3), STATES),
        (
            f"{POOLED} size = Shape <end = 1> (p) m = Cast <to = 1> (size) y = Div (p, m)",
            "float[B,4] y",
        ),
        ("size = Shape <start = 0, end = 1> (r) y = Relu (r)", f"{STATES}, int64[1] size"),
    ],
)
def test_rows_that_meet_are_not(after: str, outputs: str) -> None:
    _, packed, _ = remove_padding(layer(after, outputs))
    assert any(map(is_packed_attention, packed.graph))
    assert not rows_are_independent(packed)


def test_rows_that_meet_do_so_at_one_position_too() -> None:
    after = "y = Relu (r) m = Softmax <axis = 0> (x) z = Gather <axis = 1> (m, first)"
    _, packed, _ = remove_padding(layer(after, f"{STATES}, float[B,4] z"))
    one_token, record = run_pass(SkipUnreadRows(), packed)
    assert record.changed
    assert any(map(is_packed_attention, one_token.graph))
    assert not rows_are_independent(one_token)


def test_an_input_that_all_rows_share_keeps_them_together() -> None:
    _, packed, _ = remove_padding(layer("y = Mul (r, s)", inputs=", float[4] s"))
    assert any(map(is_packed_attention, packed.graph))
    assert not rows_are_independent(packed)


def test_a_model_that_is_not_packed_is_not_judged() -> None:
    before, _, _ = remove_padding(layer())
    assert not rows_are_independent(before)
