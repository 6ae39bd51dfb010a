"""The margin keeps its promise on made data: how often an edit that does too much is refused."""

from __future__ import annotations

import math
import re
import statistics
from typing import Any

import numpy as np
import pytest

from dechaff.search.confidence import Drop, Figures, drop_between, surely_above
from dechaff.search.driver import allowed_there_too
from dechaff.search.metric import Metric
from dechaff.search.metrics import UserMetric, make_metric
from dechaff.search.result import Point, SearchResult
from dechaff.search.search_settings import SearchSettings

ROUNDS = 400
_NORMAL = statistics.NormalDist()


def classifiers(
    generator: np.random.Generator, batches: int, rows: int, broken: float, mended: float
) -> tuple[list[Any], list[Any]]:
    """Results of two classifiers, of which the second breaks and mends shares of the rows."""
    before: list[Any] = []
    after: list[Any] = []
    for _ in range(batches):
        labels = generator.integers(0, 2, rows)
        right = generator.random(rows) < 0.85
        chance = generator.random(rows)
        changed = np.where(right, chance < broken / 0.85, chance < mended / 0.15)
        found = [np.where(each, labels, 1 - labels) for each in (right, right ^ changed)]
        for results, classes in zip((before, after), found, strict=True):
            results.append(({"logits": np.eye(2)[classes]}, {"labels": labels}, {}))
    return before, after


def share_refused(metric: Metric, margin: float, allowed: float) -> float:
    """How often a drop of truly two points is refused."""
    generator = np.random.default_rng(1)
    refused = 0
    for _ in range(ROUNDS):
        before, after = classifiers(generator, 20, 40, broken=0.05, mended=0.03)
        drop = drop_between(metric.figures(before), metric.figures(after))
        refused += drop.at_most(margin) > allowed
    return refused / ROUNDS


def promised(share: float) -> Any:
    """The share, give or take three standard errors of a count over all rounds, and a step."""
    spread = math.sqrt(share * (1 - share) / ROUNDS)
    return pytest.approx(share, abs=3 * spread + 0.02)


@pytest.mark.parametrize("margin", [0.0, 1.0, 2.0])
def test_a_drop_at_the_limit_is_refused_as_often_as_promised(margin: float) -> None:
    assert share_refused(make_metric("accuracy"), margin, 0.02) == promised(_NORMAL.cdf(margin))


def test_a_drop_beyond_the_limit_is_refused_more_often_and_one_within_it_less() -> None:
    metric = make_metric("accuracy")
    error = math.sqrt((0.08 - 0.02**2) / 800)
    for allowed in (0.01, 0.04):
        expected = _NORMAL.cdf(1.0 + (0.02 - allowed) / error)
        assert share_refused(metric, 1.0, allowed) == promised(expected)


def right_share(outputs: Any, batch: Any) -> float:
    return float((outputs["logits"].argmax(axis=1) == batch["labels"]).mean())


@pytest.mark.parametrize("metric", ["f1", right_share])
def test_metrics_without_rows_keep_the_promise_by_batches(metric: Any) -> None:
    assert share_refused(make_metric(metric), 1.0, 0.02) == promised(_NORMAL.cdf(1.0))


def test_the_jackknife_of_a_mean_is_the_error_of_a_mean() -> None:
    before, after = classifiers(np.random.default_rng(0), 12, 10, broken=0.1, mended=0.02)
    metric = UserMetric(right_share)
    drop = drop_between(metric.figures(before), metric.figures(after))
    values = [right_share(*a[:2]) - right_share(*b[:2]) for a, b in zip(before, after, strict=True)]
    assert (drop.count, drop.unit) == (12, "batches")
    assert drop.mean == pytest.approx(statistics.mean(values))
    assert drop.error == pytest.approx(statistics.stdev(values) / math.sqrt(12))


def test_pairs_tell_more_than_the_two_figures_do() -> None:
    before, after = classifiers(np.random.default_rng(0), 20, 40, broken=0.02, mended=0.01)
    metric = make_metric("accuracy")
    first, second = metric.figures(before), metric.figures(after)
    unpaired = math.hypot(*(each.parts.std() / math.sqrt(800) for each in (first, second)))
    assert drop_between(first, second).error < unpaired / 2
    assert str(drop_between(first, second)).endswith("on 800 rows")


def test_of_a_single_batch_no_error_can_be_told() -> None:
    figures = Figures.of_batches(0.5, np.array([math.nan]))
    drop = drop_between(figures, figures)
    assert drop.error == math.inf
    assert drop.at_most(0.0) == 0.0
    assert drop.at_most(1.0) == math.inf


@pytest.mark.parametrize(("mean", "ended"), [(0.0, range(1)), (0.035, range(101)), (0.1, [100])])
def test_a_race_ends_early_only_where_its_end_is_clear(mean: float, ended: Any) -> None:
    generator = np.random.default_rng(0)
    total, bound, lost, wrong = 1000, 0.03, 0, 0
    for _ in range(100):
        values = (generator.random(total) < mean).astype(np.float64)
        early = any(surely_above(values[:n], total, bound, 0, 3) for n in range(100, total, 100))
        lost += early
        wrong += early and values.mean() <= bound
    assert lost in ended
    assert wrong <= 3


def test_what_is_no_number_is_lost_at_once() -> None:
    assert surely_above(np.array([0.0, math.nan]), 100, 1.0, 0, 3)


@pytest.mark.parametrize(
    ("fallen", "kept"),
    [((0.0, 0.02, 0.01), 3), ((0.0, 0.01, 0.02), 2), ((0.02, 0.03, 0.04), 3), ((), 0)],
)
def test_held_out_data_has_the_last_word(fallen: tuple[float, ...], kept: int) -> None:
    original = Point("original", (), 0.9)
    points = [
        original,
        *(
            Point(f"{drop}", (), 0.9, held_out_drop=Drop(drop, 0.001, 100, "rows"))
            for drop in fallen
        ),
    ]
    assert len(allowed_there_too(points, SearchSettings(max_drop=0.01))) == 1 + kept


@pytest.mark.parametrize(("mode", "kept"), [("accuracy", 1), ("speed", 2)])
def test_for_accuracy_the_loss_on_held_out_data_has_a_word_too(mode: str, kept: int) -> None:
    none = Drop(0.0, 0.001, 100, "rows")
    rises = {"gains": Drop(-0.01, 0.01, 100, "rows"), "loses": Drop(0.02, 0.01, 100, "rows")}
    points = [
        Point("original", (), 0.9),
        *(Point(name, (), 0.9, None, 0.9, none, rise) for name, rise in rises.items()),
    ]
    assert len(allowed_there_too(points, SearchSettings(mode))) == 1 + kept


@pytest.mark.parametrize(
    ("kept", "refused", "message"),
    [
        ((), (0.02,), r"loses was refused in the end.*the mean loss rose by 0.0200 \+- 0.0100"),
        (
            (0.02,),
            (),
            r"on the held-out part the mean loss rose by 0.0200 \+- 0.01.*give more data",
        ),
        ((-0.01,), (), None),
    ],
)
def test_a_loss_that_rose_is_told(
    kept: tuple[float, ...], refused: tuple[float, ...], message: str | None
) -> None:
    none = Drop(0.0, 0.001, 100, "rows")
    original = Point("original", (), 0.9)
    points, bolder = (
        tuple(
            Point("loses", (), 0.9, none, 0.9, none, Drop(rise, 0.01, 100, "rows"))
            for rise in rises
        )
        for rises in (kept, refused)
    )
    result = SearchResult(
        *("accuracy", "accuracy", 0.0, 1.0, (), (), (original, *points), bolder),
        *(0.9, 0.9, True, 1.0),
    )
    warnings = " ".join(result.warnings())
    assert re.search(message, warnings) if message else not warnings
