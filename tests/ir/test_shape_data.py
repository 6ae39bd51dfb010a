"""Sizes computed at run time, followed as expressions: what is claimed must be so."""

from __future__ import annotations

import pytest
import sympy

from dechaff.ir import ShapeData, shape_expressions, symbol
from tests.passes.rewrite_checks import module_from

B, S = symbol("B"), symbol("S")


def sizes(body: str, constants: str = "int64[1] two = {2}") -> tuple[sympy.Expr | None, ...] | None:
    """What is known of the elements of ``y``."""
    module = module_from(f"g (float[B,S,8] x) => (y) <{constants}> {{ {body} }}")
    return ShapeData().evaluate(module.graph.outputs[0])


def shape(body: str, constants: str) -> tuple[sympy.Expr, ...] | None:
    """What is known of the shape of ``y``."""
    module = module_from(f"g (float[B,S,8] x) => (y) <{constants}> {{ {body} }}")
    return shape_expressions(module.graph.outputs[0])


def test_sizes_are_symbols_and_numbers() -> None:
    assert sizes("y = Shape (x)") == (B, S, 8)


def test_sizes_survive_arithmetic() -> None:
    body = "s = Shape <start = 1> (x)\n p = Mul (s, two)\n y = Sub (p, two)"
    assert sizes(body) == (2 * S - 2, 14)


def test_sizes_survive_casts_between_integers() -> None:
    assert sizes("s = Shape (x)\n i = Cast <to = 6> (s)\n y = Cast <to = 7> (i)") == (B, S, 8)


@pytest.mark.parametrize("dtype", [9, 1], ids=["bool", "float"])
def test_sizes_do_not_survive_a_cast_that_changes_numbers(dtype: int) -> None:
    assert sizes(f"s = Shape (x)\n c = Cast <to = {dtype}> (s)\n y = Cast <to = 7> (c)") is None


def test_division_rounds_down_what_is_not_negative() -> None:
    assert sizes(
        "s = Shape <start = 2> (x)\n t = Add (s, two)\n y = Div (t, four)",
        "int64[1] two = {2}, int64[1] four = {4}",
    ) == (2,)


def test_division_of_what_may_be_negative_is_not_claimed() -> None:
    body = "y = Div (minus, two)"
    assert sizes(body, "int64[1] minus = {-3}, int64[1] two = {2}") == (None,)


def test_the_largest_of_three_is_not_claimed() -> None:
    assert sizes("s = Shape <start = 1> (x)\n y = Max (s, s, two)") is None


def test_elements_of_a_concatenated_matrix_are_not_claimed() -> None:
    body = """s = Shape <start = 1> (x)
        column = Reshape (s, upright)
        matrix = Concat <axis = 1> (column, column)
        y = Reshape (matrix, flat)"""
    assert sizes(body, "int64[2] upright = {-1,1}, int64[1] flat = {-1}") is None


def test_a_constant_slice_of_a_symbolic_axis_has_no_known_length() -> None:
    body = "y = Slice (x, zero, one, one)"
    assert shape(body, "int64[1] zero = {0}, int64[1] one = {1}") is None


def test_a_slice_to_the_end_keeps_its_symbol() -> None:
    body = "y = Slice (x, zero, huge, one)"
    constants = "int64[1] zero = {0}, int64[1] one = {1}, int64[1] huge = {9223372036854775807}"
    assert shape(body, constants) == (B, S, 8)
