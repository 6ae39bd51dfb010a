"""A batch may be run in parts only where the graph shows that its rows never meet."""

from __future__ import annotations

import pytest

from dechaff.passes.matching import is_packed_attention
from dechaff.passes.row_independence import rows_are_independent
from tests.passes.test_remove_padding import STATES, layer, remove_padding

POOLED = "p = Gather <axis = 1> (r, first)"


@pytest.mark.parametrize(
    ("after", "outputs"),
    [
        ("y = Relu (r)", STATES),
        (f"{POOLED} y = Tanh (p)", "float[B,4] y"),
        (f"{POOLED} y = MatMul (p, w)", "float[B,4] y"),
        ("y = Relu (r) z = Softmax <axis = 1> (y)", f"{STATES}, float[B,S,4] z"),
        ("size = Shape (r) y = Reshape (r, size)", STATES),
    ],
)
def test_rows_that_never_meet_are_independent(after: str, outputs: str) -> None:
    _, packed, _ = remove_padding(layer(after, outputs))
    assert any(map(is_packed_attention, packed.graph))
    assert rows_are_independent(packed)


@pytest.mark.parametrize(
    ("after", "outputs"),
    [
        (f"{POOLED} y = Softmax <axis = 0> (p)", "float[B,4] y"),
        (f"{POOLED} t = Transpose <perm = [1, 0]> (p) y = MatMul (p, t)", "float[B,B] y"),
        (f"{POOLED} y = Transpose <perm = [1, 0]> (p)", "float[4,B] y"),
        (f"{POOLED} t = Gather <axis = 0> (p, first) y = Add (p, t)", "float[B,4] y"),
        (f"{POOLED} y = CumSum (p, nothing)", "float[B,4] y"),
        (
            f"{POOLED} n = Shape <start = 0, end = 1> (p) m = Cast <to = 1> (n) y = Div (p, m)",
            "float[B,4] y",
        ),
        ("n = Shape <start = 0, end = 1> (r) y = Relu (r)", f"{STATES}, int64[1] n"),
    ],
)
def test_rows_that_meet_are_not(after: str, outputs: str) -> None:
    _, packed, _ = remove_padding(layer(after, outputs))
    assert any(map(is_packed_attention, packed.graph))
    assert not rows_are_independent(packed)


def test_an_input_that_all_rows_share_keeps_them_together() -> None:
    _, packed, _ = remove_padding(layer("y = Mul (r, s)", inputs=", float[4] s"))
    assert any(map(is_packed_attention, packed.graph))
    assert not rows_are_independent(packed)


def test_a_model_that_is_not_packed_is_not_judged() -> None:
    before, _, _ = remove_padding(layer())
    assert not rows_are_independent(before)
