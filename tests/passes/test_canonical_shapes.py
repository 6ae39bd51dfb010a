"""The rules of ``canonicalize`` for operators that arrange data."""

from __future__ import annotations

import pytest

from dechaff.passes.canonicalize import Canonicalize
from dechaff.passes.matching import permutation
from tests.passes.rewrite_checks import (
    check_declines,
    check_ignores,
    check_numbers,
    check_rewrite,
    module_from,
    run_pass,
)


@pytest.mark.parametrize(
    "operation",
    [
        "Expand (x, shape)",
        "Expand (x, one)",
        "Slice (x, zero, huge, last)",
        "Slice (x, zero, width, one)",
        "Reshape (x, shape)",
        "Transpose <perm = [0, 1]> (x)",
        "Cast <to = 1> (x)",
        "Identity (x)",
    ],
)
def test_an_operation_that_changes_nothing_goes(operation: str) -> None:
    check_rewrite(
        Canonicalize(),
        f"""g (float[B,S] x) => (float[B,S] y)
        <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] last = {{-1}},
         int64[1] huge = {{9223372036854775807}}>
        {{ shape = Shape (x)
           width = Shape <start = 1> (x)
           a = {operation}
           y = Neg (a) }}""",
        "g (float[B,S] x) => (float[B,S] y) { y = Neg (x) }",
    )


@pytest.mark.parametrize(
    "operation",
    [
        "Expand (x, sizes)",
        "Slice (x, zero, one, one)",
        "Slice (x, one, huge, one)",
        "Slice (x, zero, huge, one, two)",
        "Transpose <perm = [1, 0]> (x)",
    ],
)
def test_an_operation_that_may_change_something_stays(operation: str) -> None:
    check_ignores(
        Canonicalize(),
        f"""g (float[1,S] x, int64[2] sizes) => (y)
        <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}},
         int64[1] huge = {{9223372036854775807}}>
        {{ y = {operation} }}""",
    )


def test_unsqueeze_and_squeeze_of_the_same_axes_cancel() -> None:
    check_rewrite(
        Canonicalize(),
        """g (float[B,1,S] x) => (float[B,1,S] y) <int64[2] axes = {1,-1}, int64[2] same = {4,1}>
        { a = Unsqueeze (x, axes)
          b = Squeeze (a, same)
          y = Neg (b) }""",
        "g (float[B,1,S] x) => (float[B,1,S] y) { y = Neg (x) }",
    )


def test_unsqueezes_merge_whatever_the_order_of_their_axes() -> None:
    check_rewrite(
        Canonicalize(),
        """g (float[B,S] x) => (float[1,B,1,S] y) <int64[1] inner = {1}, int64[1] outer = {0}>
        { a = Unsqueeze (x, inner)
          y = Unsqueeze (a, outer) }""",
        """g (float[B,S] x) => (float[1,B,1,S] y) <int64[2] axes = {0,2}>
        { y = Unsqueeze (x, axes) }""",
    )


def test_a_reshape_that_takes_out_an_unsqueezed_axis_is_an_unsqueeze_of_fewer() -> None:
    check_rewrite(
        Canonicalize(),
        """g (float[B,S] x, float[B,1,S] like) => (float[B,1,S] y) <int64[2] axes = {1,3}>
        { a = Unsqueeze (x, axes)
          shape = Shape (like)
          y = Reshape (a, shape) }""",
        """g (float[B,S] x, float[B,1,S] like) => (float[B,1,S] y) <int64[1] axes = {1}>
        { y = Unsqueeze (x, axes) }""",
    )


def test_reshapes_merge() -> None:
    check_rewrite(
        Canonicalize(),
        """g (float[B,S,8] x) => (float[N,2] y) <int64[2] rows = {-1,8}, int64[2] pairs = {-1,2}>
        { a = Reshape (x, rows)
          y = Reshape (a, pairs) }""",
        """g (float[B,S,8] x) => (float[N,2] y) <int64[2] pairs = {-1,2}>
        { y = Reshape (x, pairs) }""",
    )


def test_a_reshape_that_copies_a_size_of_its_input_keeps_its_input() -> None:
    check_ignores(
        Canonicalize(),
        """g (float[B,S,8] x) => (float[N,2,4] y) <int64[2] rows = {-1,8}, int64[3] copy = {0,2,4}>
        { a = Reshape (x, rows)
          y = Reshape (a, copy) }""",
    )


def test_transposes_merge() -> None:
    check_rewrite(
        Canonicalize(),
        """g (float[B,S,2,4] x) => (float[B,2,4,S] y)
        { a = Transpose <perm = [0, 2, 1, 3]> (x)
          y = Transpose <perm = [0, 1, 3, 2]> (a) }""",
        """g (float[B,S,2,4] x) => (float[B,2,4,S] y)
        { y = Transpose <perm = [0, 2, 3, 1]> (x) }""",
    )


def test_flatten_becomes_reshape() -> None:
    check_rewrite(
        Canonicalize(),
        "g (float[B,S,8] x) => (float[N,8] y) { y = Flatten <axis = 2> (x) }",
        "g (float[B,S,8] x) => (float[N,8] y) <int64[2] s = {-1,8}> { y = Reshape (x, s) }",
    )


def test_transposed_keys_whose_reshape_splits_an_axis_stay() -> None:
    check_declines(
        Canonicalize(),
        """g (float[B,3,4,8] x) => (float[B,3,8,4] y)
        <int64[3] folded = {-1,2,8}, int64[4] target = {-1,3,8,4}>
        { a = Reshape (x, folded)
          b = Transpose <perm = [0, 2, 1]> (a)
          y = Reshape (b, target) }""",
        "the first Reshape splits an axis",
    )


def test_transposed_keys_whose_shapes_do_not_agree_stay() -> None:
    check_declines(
        Canonicalize(),
        """g (float[2,3,4,8] x) => (float[3,2,8,4] y)
        <int64[3] folded = {6,4,8}, int64[4] target = {3,2,8,4}>
        { a = Reshape (x, folded)
          b = Transpose <perm = [0, 2, 1]> (a)
          y = Reshape (b, target) }""",
        "the shapes at the two ends differ",
    )


def test_transposed_keys_of_repeated_heads_are_one_transpose() -> None:
    """Keys ``[B, 2, 2, S, 8]`` merged to four heads, then folded into the batch to be turned."""
    before = module_from(
        """g (float[B,2,2,S,8] x) => (float[B,4,8,S] y)
        <int64[1] four = {4}, int64[1] eight = {8}, int64[1] all = {-1}>
        { batch = Shape <end = 1> (x)
          length = Shape <start = 3, end = 4> (x)
          heads = Concat <axis = 0> (batch, four, length, eight)
          keys = Reshape (x, heads)
          folded = Concat <axis = 0> (all, length, eight)
          a = Reshape (keys, folded)
          b = Transpose <perm = [0, 2, 1]> (a)
          target = Concat <axis = 0> (batch, four, eight, length)
          y = Reshape (b, target) }"""
    )
    after, record = run_pass(Canonicalize(), before)
    assert "transpose-through-reshapes" in [rewrite.rule for rewrite in record.rewrites]
    (turned,) = (node for node in after.graph if node.op_type == "Transpose")
    assert permutation(turned) == (0, 1, 3, 2)
    check_numbers(Canonicalize.numerics, before, after)


def test_the_size_of_a_value_is_that_of_an_input() -> None:
    """Two layers that ask their own tensors for the batch size compute the same from then on."""
    check_rewrite(
        Canonicalize(),
        """g (float[1,S,4] angles, float[B,S,4] x) => (float[B,S,4] y, float[B,S,4] z)
        {
            a = Neg (x)
            b = Exp (a)
            first = Shape <end = 1> (a)
            second = Shape <end = 1> (b)
            rest = Shape <start = 1> (angles)
            of_a = Concat <axis = 0> (first, rest)
            of_b = Concat <axis = 0> (second, rest)
            angles_of_a = Expand (angles, of_a)
            angles_of_b = Expand (angles, of_b)
            y = Mul (a, angles_of_a)
            z = Mul (b, angles_of_b)
        }""",
        """g (float[1,S,4] angles, float[B,S,4] x) => (float[B,S,4] y, float[B,S,4] z)
        {
            a = Neg (x)
            b = Exp (a)
            first = Shape <start = 0, end = 1> (x)
            rest = Shape <start = 1> (angles)
            sizes = Concat <axis = 0> (first, rest)
            all_angles = Expand (angles, sizes)
            y = Mul (a, all_angles)
            z = Mul (b, all_angles)
        }""",
    )


@pytest.mark.parametrize(
    "operation", ["Shape <end = 1> (turned)", "Shape (turned)", "Shape <start = 1> (x)"]
)
def test_a_size_of_an_input_or_of_none_is_asked_where_it_was(operation: str) -> None:
    check_ignores(
        Canonicalize(),
        f"""g (float[B,S] x) => (y, z)
        {{ found = NonZero (x)
           turned = Transpose <perm = [1, 0]> (found)
           z = Neg (turned)
           y = {operation} }}""",
    )


def test_the_sizes_of_an_input_sequence_are_those_of_its_elements() -> None:
    module = module_from(
        """g (seq(float[B,S]) xs, float[B,S] x) => (int64[2] y, float[B,S] moved)
        {
            moved = Neg (x)
            y = Shape (moved)
        }"""
    )
    after, _ = run_pass(Canonicalize(), module)
    (shape,) = (node for node in after.graph if node.op_type == "Shape")
    assert [value.name for value in shape.inputs if value is not None] == ["x"]
