"""The rules of ``canonicalize`` for gathers by a grid that counts."""

from __future__ import annotations

import pytest

from dechaff.passes.canonicalize import Canonicalize
from tests.passes.rewrite_checks import (
    check_numbers,
    check_rewrite,
    module_from,
    run_pass,
)

MASK = """
    g (bool[B,S] mask, int64[B,S] ids) => (bool[B,1,1,S] y)
    <int64 zero = {0}, int64 one = {1}, int64[1] last = {-1},
     int64[3] row_axes = {1,2,3}, int64[3] column_axes = {0,1,2}>
    {
        batch = Shape <end = 1> (ids)
        width = Shape <start = 1> (ids)
        batch_0d = Squeeze (batch)
        width_0d = Squeeze (width)
        rows = Range (zero, batch_0d, one)
        columns = Range (zero, width_0d, one)
        rows_4d = Unsqueeze (rows, row_axes)
        columns_4d = Unsqueeze (columns, column_axes)
        largest = Max (rows_4d, columns_4d)
        grid = Shape (largest)
        row_grid = Expand (rows_4d, grid)
        column_grid = Expand (columns_4d, grid)
        row_index = Unsqueeze (row_grid, last)
        column_index = Unsqueeze (column_grid, last)
        index = Concat <axis = -1> (row_index, column_index)
        y = GatherND (mask, index)
    }
"""


FLAT_MASK = """
    g (bool[B,S] mask, int64[B,S] ids) => (bool[B,1,1,S] y)
    <int64 zero = {0}, int64 one = {1}, int64[2] column = {-1,1},
     int64[3] row_axes = {1,2,3}, int64[3] column_axes = {0,1,2}>
    {
        sizes = Shape (mask)
        id_sizes = Shape (ids)
        batch = Gather (id_sizes, zero)
        width = Gather (sizes, one)
        rows = Range (zero, batch, one)
        columns = Range (zero, width, one)
        rows_4d = Unsqueeze (rows, row_axes)
        columns_4d = Unsqueeze (columns, column_axes)
        scaled = Mul (rows_4d, width)
        index = Add (columns_4d, scaled)
        flat = Reshape (mask, column)
        found = Gather <axis = 0> (flat, index)
        shape = Shape (index)
        y = Reshape (found, shape)
    }
"""


def after_canonicalize(text: str) -> str:
    return "\n".join(
        str(node.op_type) for node in run_pass(Canonicalize(), module_from(text))[0].graph
    )


def test_mask_broadcast_by_gather_nd_becomes_slice_and_unsqueeze() -> None:
    check_rewrite(
        Canonicalize(),
        MASK.replace("bool[B,S] mask", "bool[M,S] mask"),
        """
        g (bool[M,S] mask, int64[B,S] ids) => (bool[B,1,1,S] y)
        <int64[1] zero = {0}, int64[2] axes = {1,2}>
        {
            batch = Shape <end = 1> (ids)
            taken = Slice (mask, zero, batch, zero)
            y = Unsqueeze (taken, axes)
        }
        """,
        sizes=[{"B": 2, "M": 2, "S": 5}, {"B": 1, "M": 1, "S": 1}, {"B": 2, "M": 4, "S": 3}],
    )


def test_mask_of_the_same_size_as_the_grid_needs_no_slice() -> None:
    check_rewrite(
        Canonicalize(),
        MASK,
        """g (bool[B,S] mask, int64[B,S] ids) => (bool[B,1,1,S] y) <int64[2] axes = {1,2}>
        { y = Unsqueeze (mask, axes) }""",
    )


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("rows = Range (zero, ", "rows = Range (one, ", "an index is not Range(0, n, 1)"),
        ("(row_index, column_index)", "(row_index, row_index)", "different axes in order"),
        ("(row_index, column_index)", "(column_index, row_index)", "different axes in order"),
    ],
)
def test_gather_nd_by_another_grid_stays(old: str, new: str, reason: str) -> None:
    text = MASK.replace(old, new).replace("bool[B,1,1,S] y", "y")
    _, record = run_pass(Canonicalize(), module_from(text))
    assert reason in next(miss.reason for miss in record.misses)
    assert "GatherND" in after_canonicalize(text)


def test_mask_broadcast_by_flat_indices_becomes_unsqueeze() -> None:
    check_rewrite(
        Canonicalize(),
        FLAT_MASK,
        """g (bool[B,S] mask, int64[B,S] ids) => (bool[B,1,1,S] y) <int64[2] axes = {1,2}>
        { y = Unsqueeze (mask, axes) }""",
    )


def test_mask_broadcast_by_flat_indices_of_fewer_rows_is_sliced() -> None:
    original = module_from(FLAT_MASK.replace("bool[B,S] mask", "bool[M,S] mask"))
    result, _ = run_pass(Canonicalize(), original)
    assert [node.op_type for node in result.graph][-2:] == ["Slice", "Unsqueeze"]
    check_numbers(
        Canonicalize.numerics,
        original,
        result,
        [{"B": 2, "M": 4, "S": 3}, {"B": 1, "M": 1, "S": 1}],
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Mul (rows_4d, width)", "Mul (rows_4d, batch)"),
        ("columns = Range (zero, width, one)", "columns = Range (zero, batch, one)"),
        ("columns = Range (zero, width, one)", "columns = Range (one, width, one)"),
    ],
)
def test_flat_indices_of_another_layout_stay(old: str, new: str) -> None:
    text = FLAT_MASK.replace(old, new).replace("bool[B,1,1,S] y", "y")
    assert text != FLAT_MASK
    _, record = run_pass(Canonicalize(), module_from(text))
    assert "its index is not row * width + column" in record.misses[0].reason


def test_gather_nd_by_constant_places_is_a_gather() -> None:
    before = """g (float[4,B,S] x) => (float[2,B,S] y) <int64[2,1] at = {0, 3}> {
        y = GatherND (x, at) }"""
    after = """g (float[4,B,S] x) => (float[2,B,S] y) <int64[2] places = {0, 3}> {
        y = Gather <axis = 0> (x, places) }"""
    check_rewrite(Canonicalize(), before, after)


def test_gather_nd_by_places_of_two_axes_stays() -> None:
    text = """g (float[4,3,S] x) => (float[2,S] y) <int64[2,2] at = {0, 1, 3, 2}> {
        y = GatherND (x, at) }"""
    after, _ = run_pass(Canonicalize(), module_from(text))
    assert [node.op_type for node in after.graph] == ["GatherND"]
