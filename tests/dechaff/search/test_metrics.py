"""Named metrics against figures worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dechaff.ir import UsageError
from dechaff.search.metrics import make_metric

LOGITS = {"logits": np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0], [0.0, 5.0]], np.float32)}
BATCH = {"labels": np.array([0, 1, 1, 1])}


def score(name: str, outputs: dict[str, Any], batch: dict[str, Any]) -> float:
    halves = [
        (
            {key: array[part] for key, array in outputs.items()},
            {key: array[part] for key, array in batch.items()},
            {key: array[part] for key, array in outputs.items()},
        )
        for part in (slice(0, 1), slice(1, None))
    ]
    return make_metric(name).score(halves)


def test_accuracy_is_the_share_of_right_rows_over_batches_of_any_size() -> None:
    assert score("accuracy", LOGITS, BATCH) == 0.75


def test_the_loss_of_accuracy_is_cross_entropy() -> None:
    losses = make_metric("accuracy").losses(LOGITS, BATCH, LOGITS)
    assert losses[0] == pytest.approx(np.log1p(np.exp(-2.0)))
    assert losses[2] == pytest.approx(np.log1p(np.exp(2.0)))


def test_f1_is_the_mean_over_the_classes() -> None:
    assert score("f1", LOGITS, BATCH) == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_spearman_looks_at_ranks_and_shares_those_of_ties() -> None:
    found = {"score": np.array([[0.1], [0.2], [0.4], [9.0]], np.float32)}
    assert score("spearman", found, {"labels": np.array([1, 2, 3, 4])}) == pytest.approx(1.0)
    assert score("spearman", found, {"labels": np.array([4, 3, 2, 1])}) == pytest.approx(-1.0)
    tied = score("spearman", found, {"labels": np.array([1, 1, 2, 3])})
    assert tied == pytest.approx(np.corrcoef([1, 2, 3, 4], [1.5, 1.5, 3, 4])[0, 1])


def test_cosine_counts_only_positions_that_the_mask_keeps() -> None:
    before = {"hidden": np.ones((2, 3, 4), np.float32)}
    after = {"hidden": before["hidden"].copy()}
    after["hidden"][:, 2] = -7
    mask = np.array([[1, 1, 0], [1, 1, 0]])
    metric = make_metric("cosine")
    assert metric.score([(after, {"attention_mask": mask}, before)]) == pytest.approx(1.0)
    assert metric.score([(after, {}, before)]) < 0.5


def test_a_row_of_zeros_is_like_itself_only() -> None:
    zeros, ones = {"h": np.zeros((1, 4))}, {"h": np.ones((1, 4))}
    metric = make_metric("cosine")
    assert metric.score([(zeros, {}, zeros)]) == 1
    assert metric.score([(ones, {}, zeros)]) == 0


@pytest.mark.parametrize(
    ("name", "outputs", "labels", "message"),
    [
        ("accuracy", {"x": np.zeros((4, 2, 2))}, [0, 0, 0, 0], r"expect logits of shape"),
        ("accuracy", LOGITS, [0, 1, 2, 0], "labels go from 0 to 2; the model has classes 0 to 1"),
        ("accuracy", LOGITS, [0, 1], "a batch has 2 labels and 4 rows"),
        ("spearman", LOGITS, [0, 1, 1, 1], "spearman expects one number a row"),
    ],
)
def test_what_a_metric_cannot_judge_is_refused(
    name: str, outputs: dict[str, Any], labels: list[int], message: str
) -> None:
    metric = make_metric(name)
    with pytest.raises(UsageError, match=message):
        metric.losses(outputs, {"labels": np.array(labels)}, outputs)


def test_to_be_less_sure_is_no_gain() -> None:
    """Three answers of four are right, and all are equally sure: too sure by far."""
    labels = np.arange(40) % 2
    said = np.where(np.arange(40) < 30, labels, 1 - labels)
    sure = np.where(np.arange(2) == said[:, None], 4.0, -4.0)
    batch = {"labels": labels}
    metric = make_metric("accuracy")

    def loss(logits: npt.NDArray[Any]) -> float:
        return float(metric.losses({"logits": logits}, batch, {"logits": sure}).mean())

    assert loss(sure / 2) < loss(sure)
    metric.begin([({"logits": sure}, batch, {"logits": sure})])
    assert loss(sure / 2) > loss(sure)
    np.testing.assert_allclose(loss(sure), -0.75 * np.log(0.75) - 0.25 * np.log(0.25), rtol=1e-6)
