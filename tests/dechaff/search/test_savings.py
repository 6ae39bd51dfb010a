"""What edits save."""

from __future__ import annotations

import pytest

from dechaff.passes.skip_unread_rows import SkipUnreadRows
from dechaff.search.savings import Savings
from tests.passes.rewrite_checks import module_from

LAYER = """
    g (float[B,S,4] x) => (float[B,4] y)
    <float[4,{width}] up = {{...}}, float[{width},4] down = {{...}}, float[4,4] w = {{...}},
     int64 first = {{0}}>
    {{
        h = MatMul (x, w)
        u = MatMul (h, up)
        a = Relu (u)
        d = MatMul (a, down)
        y = Gather <axis = 1> (d, first)
    }}
"""
SIZES = {"B": 4.0, "S": 16.0}
WIDE, NARROW = (module_from(LAYER.format(width=width)) for width in (8, 4))


def test_time_counts_by_the_rate_of_its_kind() -> None:
    plain, slow = (Savings(WIDE, SIZES, "speed") for _ in range(2))
    slow.measured("features", NARROW, 0.8)
    assert slow.of("features", NARROW) > plain.of("features", NARROW) > 0
    slow.measured("features", NARROW, 0.0)
    assert not slow.saves("features")
    assert plain.saves("features")


def test_what_is_not_computed_saves_no_time_but_weights() -> None:
    """All of the layer is computed for the first token alone."""
    every_row = Savings(WIDE, SIZES, "speed")
    one_row = Savings(WIDE, SIZES, "speed", [SkipUnreadRows()])
    lighter = 1 - (16 + 32 + 1) / (16 + 64 + 1)
    assert Savings(WIDE, SIZES, "size").of("features", NARROW) == pytest.approx(lighter)
    for savings in (every_row, one_row):
        savings.measured("features", NARROW, 0.0)
        assert savings.of("features", NARROW) == pytest.approx(0.1 * lighter)
    assert every_row.of("other", WIDE) == 0
