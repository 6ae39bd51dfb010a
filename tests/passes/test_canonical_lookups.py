"""The rule of ``canonicalize`` for lookups that find the same row at every place."""

from __future__ import annotations

import pytest

from dechaff.passes.canonicalize import Canonicalize
from dechaff.passes.pass_base import Numerics
from tests.passes.rewrite_checks import check_numbers, module_from, run_pass

TYPES = """
    g (int64[B,S] ids, float[B,S,3] x) => (float[B,S,3] y)
    <float[2,3] types = {1,2,3,4,5,6}, int64[1,8] buffered = {1,1,1,1,1,1,1,1},
     int64[1] zero = {0}, int64[1] one = {1}>
    {
        width = Shape <start = 1, end = 2> (ids)
        own = Slice (buffered, zero, width, one)
        sizes = Shape (ids)
        everywhere = Expand (own, sizes)
        rows = Gather <axis = 0> (types, everywhere)
        y = Add (x, rows)
    }
"""


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param([], id="as exported"),
        pytest.param([("Add (x, rows)", "Add (rows, x)")], id="the other way round"),
        pytest.param([("{1,1,1,1,1,1,1,1}", "{-1,-1,-1,-1,-1,-1,-1,-1}")], id="from the end"),
    ],
)
@pytest.mark.parametrize("sizes", [{"B": 2, "S": 5}, {"B": 1, "S": 1}])
def test_one_row_is_added(changes: list[tuple[str, str]], sizes: dict[str, int]) -> None:
    text = TYPES
    for old, new in changes:
        text = text.replace(old, new)
    before = module_from(text)
    after, _ = run_pass(Canonicalize(), before)
    assert [node.op_type for node in after.graph] == ["Add"]
    check_numbers(Numerics.EXACT, before, after, [sizes])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("{1,1,1,1,1,1,1,1}", "{1,1,1,0,1,1,1,1}", id="two indices"),
        pytest.param("float[B,S,3] x", "float[3] x", id="the rows make the shape"),
        pytest.param("{1,1,1,1,1,1,1,1}", "{2,2,2,2,2,2,2,2}", id="no such row"),
        pytest.param("Expand (own, sizes)", "Mul (own, ids)", id="computed"),
        pytest.param("y = Add (x, rows)", "z = Add (x, rows)\n y = Mul (z, rows)", id="read twice"),
    ],
)
def test_each_condition_alone_stops_it(old: str, new: str) -> None:
    assert old in TYPES
    after, _ = run_pass(Canonicalize(), module_from(TYPES.replace(old, new)))
    assert "Gather" in [node.op_type for node in after.graph]
