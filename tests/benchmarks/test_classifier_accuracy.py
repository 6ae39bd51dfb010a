from __future__ import annotations

import numpy as np
import pytest

from benchmarks.classifier_accuracy import Sentences, compare


def logits_of(answers: list[int]) -> np.ndarray:
    return np.eye(2, dtype=np.float32)[answers]


def test_answers_are_compared_in_pairs_on_all_sentences() -> None:
    labels, is_dev = np.array([0, 1, 1, 0]), np.array([True, True, False, False])
    first = (logits_of([0, 1, 1, 1]), 800)
    row = compare("p", Sentences([], labels, is_dev), first, (logits_of([0, 0, 1, 0]), 200))
    assert (row.dev, row.all, row.smaller) == (0.5, 0.75, 4.0)
    # One right answer lost and one gained: no drop, but not a sure one.
    assert row.drop.mean == 0.0
    assert row.drop.error == pytest.approx((2 / 3) ** 0.5 / 2)
    assert row.error == pytest.approx(1.0)
    assert str(row) == "| `p` | 50.00% | 75.00% | 0.00 +- 40.82 | 1.0000 | 0.00 | 4.000 |"


def test_the_first_list_beside_itself_lost_nothing() -> None:
    found = (logits_of([0, 1]), 100)
    row = compare("p", Sentences([], np.array([0, 1]), np.array([True, True])), found, found)
    assert (row.drop.mean, row.drop.error, row.error, row.smaller) == (0.0, 0.0, 0.0, 1.0)
