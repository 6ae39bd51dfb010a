from __future__ import annotations

import argparse
import dataclasses
import pathlib

import numpy as np

from benchmarks.early_exit import Sentences, markdown
from benchmarks.early_exit_plot import plot
from benchmarks.exit_points import Point


def measured(heads: str, accuracy: float, saved: float) -> Point:
    point = Point(heads, "entropy", 0.99, "default", [2.0], accuracy)
    point.milliseconds = {"1": 4.0, "16": 40.0}
    point.saved = {"1": saved, "16": saved / 2}
    return point


def test_batches_are_padded_to_their_longest_sentence() -> None:
    sentences = Sentences([[5, 6], [7], [8, 9, 10]], np.array([0, 1, 1]))
    first, second = sentences.batches(2)
    assert first["input_ids"].tolist() == [[5, 6], [7, 0]]
    assert first["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert second["input_ids"].tolist() == [[8, 9, 10]]


def test_table_and_plot_show_accuracy_and_time(tmp_path: pathlib.Path) -> None:
    base, points = measured("none", 0.8, 0.0), [measured("own head", 0.796, 0.5)]
    options = argparse.Namespace(model=pathlib.Path("minilm"), rounds=3)
    assert "| own head | entropy | 99% | 0.7960 | 99.5% | 2.00 | 50% | 25% |" in markdown(
        options, base, points
    )
    record = {
        "base": dataclasses.asdict(base),
        "points": [dataclasses.asdict(point) for point in points],
    }
    plot(record, tmp_path / "curve.svg")
    assert (tmp_path / "curve.svg").stat().st_size > 1000
