from __future__ import annotations

import numpy as np
import pytest

from dechaff.comparison import compare_arrays
from dechaff.passes import Numerics

_MASK = np.array([[1, 0]])


def _problem(
    reference: object, actual: object, mask: np.ndarray | None = None, dtype: str = "float32"
) -> str | None:
    left, right = np.array(reference, dtype=dtype), np.array(actual, dtype=dtype)
    return compare_arrays(left, right, mask, Numerics.REASSOCIATES).problem


@pytest.mark.parametrize(
    ("dtype", "passing", "failing"), [("float32", 5e-6, 5e-5), ("float16", 5e-3, 5e-2)]
)
def test_floats_agree_within_a_share_of_the_outputs_scale(
    dtype: str, passing: float, failing: float
) -> None:
    for scale in (1.0, 100.0):
        reference = np.array([scale, 0.0])
        assert _problem(reference, np.array([scale, passing * scale]), dtype=dtype) is None
        problem = _problem(reference, np.array([scale, failing * scale]), dtype=dtype)
        assert problem is not None
        assert "maximum absolute error" in problem


def test_a_tiny_output_is_not_excused_by_its_size() -> None:
    assert _problem([1e-4], [1.1e-4]) is not None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_values_must_stand_at_the_same_places(value: float) -> None:
    assert _problem([value, 1.0], [value, 1.0]) is None
    assert _problem([value, 1.0], [1.0, value]) is not None
    assert _problem([value, 1.0], [1.0, 1.0]) is not None
    assert _problem([1.0, 1.0], [value, 1.0]) is not None


def test_infinities_of_opposite_sign_differ() -> None:
    assert _problem([np.inf], [-np.inf]) is not None


@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_integers_and_bools_must_be_equal(dtype: str) -> None:
    assert _problem([1, 0], [1, 0], dtype=dtype) is None
    problem = _problem([1, 0], [1, 1], dtype=dtype)
    assert problem is not None
    assert "1 of 2 elements differ" in problem


def test_positions_outside_the_mask_may_hold_anything_in_the_reference() -> None:
    assert _problem([[[1.0], [np.nan]]], [[[1.0], [0.0]]], _MASK) is None


def test_positions_outside_the_mask_must_be_exactly_zero() -> None:
    assert _problem([[[1.0], [0.0]]], [[[1.0], [1e-30]]], _MASK) is not None
    assert _problem([[[1.0], [np.nan]]], [[[1.0], [np.nan]]], _MASK) is not None


def test_a_reference_that_padding_made_no_number_says_nothing() -> None:
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    reference = np.array([[[np.nan], [2.0], [np.nan]], [[3.0], [4.0], [5.0]]], np.float32)
    actual = np.array([[[1.0], [2.0], [0.0]], [[3.0], [4.0], [5.0]]], np.float32)
    found = compare_arrays(reference, actual, mask, Numerics.REASSOCIATES)
    assert found.problem is None
    assert found.settled is not None
    assert "NaN for 1 valid elements" in found.settled
    actual[0, 1] = 7.0  # what is a number is compared as ever
    assert compare_arrays(reference, actual, mask, Numerics.REASSOCIATES).problem is not None


def test_no_number_in_a_row_without_padding_is_a_problem() -> None:
    assert _problem([[[np.nan], [2.0]]], [[[1.0], [2.0]]], np.array([[1, 1]])) is not None
    assert _problem([[[1.0], [2.0]]], [[[np.nan], [0.0]]], _MASK) is not None


def test_positions_inside_the_mask_are_compared() -> None:
    assert _problem([[[1.0], [0.0]]], [[[2.0], [0.0]]], _MASK) is not None


def test_another_shape_or_dtype_is_a_problem() -> None:
    left = np.zeros((2, 1), dtype=np.float32)
    exact = Numerics.EXACT
    assert compare_arrays(left, left.T, None, exact).problem == "expected shape (2, 1), got (1, 2)"
    wider = compare_arrays(left, left.astype(np.float64), None, exact)
    assert wider.problem == "expected dtype float32, got float64"


def test_an_approximate_result_is_measured_and_not_judged() -> None:
    one, two = np.ones(1, dtype=np.float32), np.full(1, 2.0, dtype=np.float32)
    difference = compare_arrays(one, two, None, Numerics.APPROXIMATE)
    assert (difference.problem, difference.max_abs_error) == (None, 1.0)
