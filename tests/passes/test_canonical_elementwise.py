"""The rules of ``canonicalize`` for elementwise operators."""

from __future__ import annotations

import pytest

from dechaff.passes.canonicalize import Canonicalize
from tests.passes.rewrite_checks import check_declines, check_ignores, check_rewrite


@pytest.mark.parametrize(
    ("operation", "dtype"),
    [
        ("Mul (x, one)", "float"),
        ("Mul (one, x)", "float"),
        ("Div (x, one)", "float"),
        ("Sub (x, zero)", "float"),
        ("Add (x, negative_zero)", "float"),
        ("Add (negative_zero, x)", "float"),
        ("Add (x, zero)", "int64"),
        ("Mul (x, ones_row)", "int32"),
    ],
)
def test_an_operand_that_changes_nothing_goes(operation: str, dtype: str) -> None:
    constants = f"""{dtype} one = {{1}}, {dtype} zero = {{0}}, {dtype}[4] ones_row = {{1,1,1,1}}"""
    if dtype == "float":
        constants += ", float negative_zero = {-0.0}"
    check_rewrite(
        Canonicalize(),
        f"g ({dtype}[B,4] x) => ({dtype}[B,4] y) <{constants}> {{ z = {operation}\n y = Neg (z) }}",
        f"g ({dtype}[B,4] x) => ({dtype}[B,4] y) {{ y = Neg (x) }}",
    )


@pytest.mark.parametrize(
    "operation",
    [
        "Add (x, zero)",  # -0.0 + 0.0 is 0.0
        "Sub (x, negative_zero)",  # -0.0 - -0.0 is 0.0
        "Sub (zero, x)",
        "Div (one, x)",
        "Mul (x, nearly_one)",
        "Mul (x, one_wider)",
        "Add (x, mixed)",
    ],
)
def test_an_operand_that_changes_a_bit_or_the_shape_stays(operation: str) -> None:
    check_ignores(
        Canonicalize(),
        f"""g (float[4] x) => (y)
        <float one = {{1}}, float zero = {{0}}, float negative_zero = {{-0.0}},
         float nearly_one = {{1.0000001}}, float[1,1] one_wider = {{1}},
         float[4] mixed = {{-0.0,-0.0,0,-0.0}}>
        {{ y = {operation} }}""",
    )


def test_division_by_powers_of_two_becomes_multiplication() -> None:
    check_rewrite(
        Canonicalize(),
        "g (float[B,2] x) => (float[B,2] y) <float[2] c = {8, -0.25}> { y = Div (x, c) }",
        "g (float[B,2] x) => (float[B,2] y) <float[2] c = {0.125, -4}> { y = Mul (x, c) }",
    )


@pytest.mark.parametrize("divisor", ["3", "0", "1.7014118346046923e38", "1e-45"])
def test_division_whose_reciprocal_is_not_exact_and_normal_stays(divisor: str) -> None:
    check_ignores(
        Canonicalize(),
        f"g (float[B] x) => (float[B] y) <float c = {{{divisor}}}> {{ y = Div (x, c) }}",
    )


def test_integer_division_stays() -> None:
    check_ignores(
        Canonicalize(), "g (int64[B] x) => (int64[B] y) <int64 c = {2}> { y = Div (x, c) }"
    )


def test_dropout_outside_training_goes() -> None:
    check_rewrite(
        Canonicalize(),
        """g (float[B,4] x) => (float[B,4] y) <float ratio = {0.5}, bool off = {0}>
        { a = Dropout (x, ratio, off)
          b, mask = Dropout (a)
          y = Neg (b) }""",
        "g (float[B,4] x) => (float[B,4] y) { y = Neg (x) }",
    )


def test_dropout_in_training_stays() -> None:
    check_declines(
        Canonicalize(),
        """g (float[B,4] x) => (float[B,4] y) <float ratio = {0.5}, bool on = {1}>
        { y = Dropout (x, ratio, on) }""",
        "training_mode is not a constant false",
    )


def test_dropout_whose_mask_is_used_stays() -> None:
    check_declines(
        Canonicalize(),
        "g (float[B,4] x) => (float[B,4] y, bool[B,4] mask) { y, mask = Dropout (x) }",
        "mask output is in use",
    )


def test_a_lossless_cast_before_a_cast_goes() -> None:
    check_rewrite(
        Canonicalize(),
        """g (bool[B] x) => (float[B] y) { a = Cast <to = 7> (x)
        y = Cast <to = 1> (a) }""",
        "g (bool[B] x) => (float[B] y) { y = Cast <to = 1> (x) }",
    )


def test_a_cast_that_rounds_twice_stays() -> None:
    check_ignores(
        Canonicalize(),
        """g (double[B] x) => (float16[B] y) { a = Cast <to = 1> (x)
        y = Cast <to = 10> (a) }""",
    )
