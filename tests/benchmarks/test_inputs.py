from __future__ import annotations

import numpy as np
import pytest

from benchmarks.inputs import make_inputs, paragraph_lengths, single_sequences, valid_share


def test_uniform_lengths_lie_between_a_fifth_and_all_of_the_sequence() -> None:
    lengths = make_inputs(200, 50, "uniform", vocabulary=9)["attention_mask"].sum(axis=1)
    assert lengths.min() == 10
    assert lengths.max() == 50
    assert len(set(lengths)) == 41


@pytest.mark.parametrize(("batch", "sequence"), [(2, 64), (4, 32), (16, 128), (32, 512)])
def test_uniform_lengths_leave_three_fifths_of_the_positions_valid(
    batch: int, sequence: int
) -> None:
    inputs = make_inputs(batch, sequence, "uniform", vocabulary=9)
    assert valid_share(inputs) == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_one_row_always_has_the_full_length(batch: int) -> None:
    assert make_inputs(batch, 32, "uniform", vocabulary=9)["attention_mask"].all(axis=1).any()


def test_full_lengths_have_no_padding() -> None:
    assert valid_share(make_inputs(4, 8, "full", vocabulary=9)) == 1


def test_padding_lies_right_and_holds_token_zero() -> None:
    inputs = make_inputs(8, 32, "uniform", vocabulary=9)
    mask = inputs["attention_mask"]
    assert (np.diff(mask, axis=1) <= 0).all()
    assert ((inputs["input_ids"] == 0) == (mask == 0)).all()


def test_every_run_has_the_same_inputs() -> None:
    first, second = (make_inputs(4, 16, "uniform", vocabulary=9) for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)


def test_single_sequences_are_the_valid_tokens_of_each_row() -> None:
    inputs = make_inputs(4, 16, "uniform", vocabulary=9)
    singles = single_sequences(inputs)
    assert all(single["attention_mask"].all() for single in singles)
    tokens = np.concatenate([single["input_ids"][0] for single in singles])
    assert (tokens == inputs["input_ids"][inputs["attention_mask"] == 1]).all()


def test_text_has_the_lengths_of_paragraphs_and_no_column_unused() -> None:
    inputs = make_inputs(16, 64, "text", vocabulary=9)
    lengths = inputs["attention_mask"].sum(axis=1)
    assert set(lengths) <= {min(length, 64) for length in paragraph_lengths()}
    assert inputs["input_ids"].shape == (16, lengths.max())
    assert len(set(lengths)) > 4


def test_text_is_cut_to_the_sequence() -> None:
    assert make_inputs(16, 8, "text", vocabulary=9)["input_ids"].shape == (16, 8)
