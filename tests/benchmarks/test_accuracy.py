from __future__ import annotations

import numpy as np

from benchmarks.accuracy import max_error, padding_is_zero

MASK = np.array([[1, 1, 0], [1, 0, 0]])


def test_an_error_at_a_valid_position_counts() -> None:
    reference = np.zeros((2, 3, 4), np.float32)
    output = reference.copy()
    output[0, 1, 2] = 0.5
    assert max_error([output], [reference], MASK) == 0.5


def test_an_error_at_a_padded_position_does_not() -> None:
    reference = np.zeros((2, 3, 4), np.float32)
    output = reference.copy()
    output[0, 2] = 7
    assert max_error([output], [reference], MASK) == 0


def test_an_output_without_positions_counts_as_a_whole() -> None:
    reference = np.zeros((2, 4), np.float32)
    assert max_error([reference + 0.25], [reference], MASK) == 0.25


def test_the_worst_output_decides() -> None:
    zeros = np.zeros((2, 4), np.float32)
    assert max_error([zeros, zeros + 1], [zeros, zeros], MASK) == 1


def test_a_number_at_a_padded_position_is_not_zero_padding() -> None:
    output = np.zeros((2, 3, 4), np.float32)
    output[0, 0] = 1
    assert padding_is_zero([output], MASK)
    output[1, 1, 0] = 1e-30
    assert not padding_is_zero([output], MASK)


def test_what_is_not_a_number_does_not_pass_for_small() -> None:
    zeros = np.zeros((2, 4), np.float32)
    assert np.isnan(max_error([zeros, zeros + np.nan], [zeros, zeros], MASK))
