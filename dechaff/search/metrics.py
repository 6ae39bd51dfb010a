"""Metrics: what the user wants kept, and a smoother loss that the search looks at."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dechaff.arrays import Array, Arrays, to_numpy
from dechaff.ir import UsageError

from .confidence import Figures, Losses

Batch = Mapping[str, Any]
MetricFunction = Callable[[Any, Any], float]
"""``fn(outputs, batch) -> float``, greater is better: the model's outputs on a batch, as a mapping
from name to numpy array, and the batch as the user gave it."""

Results = Sequence[tuple[Arrays, Batch, Arrays]]
"""Outputs, batch, and the original's outputs, of each batch."""

_HALVINGS = 30
_LABELS = ("labels", "label", "targets", "target")


class Metric(abc.ABC):
    """A figure of a model on data, greater is better, and losses to search by, less is better.

    Attributes:
        name: what it is called in reports.
    """

    name: str

    @abc.abstractmethod
    def losses(self, outputs: Arrays, batch: Batch, original: Arrays) -> Losses:
        """A loss for each row, float64[rows]; for each batch, float64[1], where rows have none."""

    @abc.abstractmethod
    def score(self, results: Results) -> float:
        """The figure over all batches."""

    def gains(self, outputs: Arrays, batch: Batch, original: Arrays) -> Losses | None:
        """What each row adds to the score, where the score is their mean; else None."""
        return None

    def begin(self, results: Results) -> None:  # noqa: B027  (most metrics need not look)
        """Look at the original's results, before any other are compared with them.

        Raises:
            UsageError: the metric does not do for a search.
        """

    def figures(self, results: Results) -> Figures:
        """The figure over all batches, with what it is made of: rows, else batches left out."""
        gains = [self.gains(*result) for result in results]
        rows = [gain for gain in gains if gain is not None]
        if rows:
            return Figures.of_rows(np.concatenate(rows))
        return Figures.of_batches(self.score(results), self._without_each(results))

    def _without_each(self, results: Results) -> Losses:
        if len(results) == 1:
            return np.array([math.nan])
        rest = ([*results[:n], *results[n + 1 :]] for n in range(len(results)))
        return np.array([self.score(part) for part in rest])


def make_metric(metric: str | MetricFunction | Metric) -> Metric:
    """The metric of a name or of a user's function.

    Raises:
        UsageError: there is no metric of that name.
    """
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        return UserMetric(metric)
    named: dict[str, type[Metric]] = {
        kind.name: kind for kind in (Accuracy, MacroF1, Spearman, Cosine)
    }
    if metric not in named:
        raise UsageError(
            f"there is no metric {metric!r}: choose {', '.join(named)}, "
            "or give a function of outputs and batch"
        )
    return named[metric]()


class Classification(Metric):
    """Of classes by the greatest logit; the loss is cross-entropy at the original's temperature.

    A fine-tuned model is mostly too sure of itself. What makes it less so, as the loss of a block
    does, would then lower its cross-entropy, whatever becomes of its answers. So logits are
    divided by the temperature at which the original's are neither too sure nor too modest (Guo et
    al., ICML 2017, section 4.2).
    """

    _sharpness = 1.0

    def begin(self, results: Results) -> None:
        """Fit the temperature; a model that is too modest is left so."""
        logits = np.concatenate([_logits(outputs) for outputs, _, _ in results])
        labels = np.concatenate([_labels(batch, self.name) for _, batch, _ in results])
        _check_rows(logits, labels)
        self._sharpness = _best_sharpness(logits, labels.astype(np.int64))

    def losses(self, outputs: Arrays, batch: Batch, original: Arrays) -> Losses:
        """Cross-entropy in nats, float64[rows]."""
        logits, labels = _logits(outputs), _labels(batch, self.name).astype(np.int64)
        _check_rows(logits, labels)
        shifted = self._sharpness * (logits - logits.max(axis=1, keepdims=True))
        log_sum = np.log(np.exp(shifted).sum(axis=1))
        return np.asarray(log_sum - shifted[np.arange(len(labels)), labels])


class Accuracy(Classification):
    """Share of rows whose greatest logit is that of the label."""

    name = "accuracy"

    def gains(self, outputs: Arrays, batch: Batch, original: Arrays) -> Losses:
        """1 for each row that is right, 0 for the others."""
        right = _logits(outputs).argmax(axis=1) == _labels(batch, self.name)
        return np.asarray(right, np.float64)

    def score(self, results: Results) -> float:
        """Share of rows that are right."""
        return float(np.concatenate([self.gains(*result) for result in results]).mean())


class MacroF1(Classification):
    """The mean over the classes of their F1."""

    name = "f1"

    def score(self, results: Results) -> float:
        """Mean over the classes that occur of the harmonic mean of precision and recall."""
        found = np.concatenate([_logits(outputs).argmax(axis=1) for outputs, _, _ in results])
        wanted = np.concatenate([_labels(batch, self.name) for _, batch, _ in results])
        scores = [
            2
            * np.sum((found == each) & (wanted == each))
            / ((found == each).sum() + (wanted == each).sum())
            for each in np.union1d(found, wanted)
        ]
        return float(np.mean(scores))


class Spearman(Metric):
    """Rank correlation of the first output with the labels; the loss is the squared error."""

    name = "spearman"

    def losses(self, outputs: Arrays, batch: Batch, original: Arrays) -> Losses:
        """Squared distance from the original's output, float64[rows]: ranks have no rows."""
        found, before = _numbers(outputs), _numbers(original)
        return np.asarray((found - before) ** 2)

    def score(self, results: Results) -> float:
        """Spearman's rho; ties share their mean rank."""
        found = np.concatenate([_numbers(outputs) for outputs, _, _ in results])
        wanted = np.concatenate([_labels(batch, self.name) for _, batch, _ in results])
        left, right = _ranks(found), _ranks(wanted)
        if left.std() == 0 or right.std() == 0:
            return 0.0
        return float(np.corrcoef(left, right)[0, 1])


class Cosine(Metric):
    """Likeness to the original's first output, for data without labels."""

    name = "cosine"

    def losses(self, outputs: Arrays, batch: Batch, original: Arrays) -> Losses:
        """1 less the cosine of each row with the original's, float64[rows]."""
        return np.asarray(1.0 - self.gains(outputs, batch, original))

    def gains(self, outputs: Arrays, batch: Batch, original: Arrays) -> Losses:
        """Cosine of each row; of all positions that the batch's mask keeps, if there is one."""
        found, before = _first(outputs), _first(original)
        mask = to_numpy(batch["attention_mask"]) if "attention_mask" in batch else None
        if mask is not None and found.shape[: mask.ndim] == mask.shape:
            kept = (mask != 0).reshape(*mask.shape, *[1] * (found.ndim - mask.ndim))
            found, before = np.where(kept, found, 0), np.where(kept, before, 0)
        found, before = found.reshape(len(found), -1), before.reshape(len(before), -1)
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(before, axis=1)
        dots = (found * before).sum(axis=1)
        same = (found == before).all(axis=1).astype(np.float64)
        return np.asarray(np.divide(dots, lengths, out=same, where=lengths != 0))

    def score(self, results: Results) -> float:
        """Mean cosine."""
        return float(np.concatenate([self.gains(*result) for result in results]).mean())


class UserMetric(Metric):
    """A function of the user's: the mean of what it gives for each batch, weighted by rows."""

    def __init__(self, function: MetricFunction) -> None:
        self.name = getattr(function, "__name__", type(function).__name__)
        self._function = function

    def losses(self, outputs: Arrays, batch: Batch, original: Arrays) -> Losses:
        """The metric of the batch with its sign turned, float64[1]."""
        return np.array([-self._call(outputs, batch)])

    def score(self, results: Results) -> float:
        """The mean over the batches, each by its rows."""
        return self.figures(results).score

    def figures(self, results: Results) -> Figures:
        """The mean, and the means without each batch."""
        values = np.array([self._call(outputs, batch) for outputs, batch, _ in results])
        rows = np.array([len(next(iter(outputs.values()))) for outputs, _, _ in results])
        parts = values * rows
        rest = np.maximum(rows.sum() - rows, 1)
        return Figures.of_batches(
            float(parts.sum() / rows.sum()), np.asarray((parts.sum() - parts) / rest)
        )

    def begin(self, results: Results) -> None:
        """Call it for all batches in both orders; each batch must be worth the same.

        Raises:
            UsageError: it is not, so that trials could not be compared.
        """
        forward = [self._call(outputs, batch) for outputs, batch, _ in results]
        backward = [self._call(outputs, batch) for outputs, batch, _ in reversed(results)][::-1]
        for number, (first, second) in enumerate(zip(forward, backward, strict=True)):
            if not math.isclose(first, second, rel_tol=1e-6, abs_tol=1e-9):
                raise UsageError(
                    f"the metric {self.name} gives {first:g} for batch {number}, and {second:g} "
                    "for the same outputs when the batches come in the opposite order; it must "
                    "depend on its two arguments alone: keep no state between calls"
                )

    def _call(self, outputs: Arrays, batch: Batch) -> float:
        try:
            value = self._function(outputs, batch)
        except Exception as error:
            given = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
            raise UsageError(
                f"the metric {self.name} raised {type(error).__name__}: {error}; it was called "
                f"with the outputs {given}, and a batch with {', '.join(map(str, batch))}"
            ) from error
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise UsageError(
                f"the metric {self.name} gave a {type(value).__name__}, expected a number"
            ) from None
        if not math.isfinite(number):
            raise UsageError(
                f"the metric {self.name} gave {number}: expected a finite number for every batch, "
                "also where a model is wrong throughout"
            )
        return number


def _first(outputs: Arrays) -> Array:
    array = outputs.get("logits", next(iter(outputs.values())))
    return array.astype(np.float64)


def _best_sharpness(logits: Array, labels: Array) -> float:
    """What logits are multiplied by, at most 1, for the least cross-entropy: it is convex in it."""
    own = logits[np.arange(len(labels)), labels]
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        sharpness = (low + high) / 2
        shares = np.exp(sharpness * (logits - logits.max(axis=1, keepdims=True)))
        expected = (shares * logits).sum(axis=1) / shares.sum(axis=1)
        low, high = (low, sharpness) if expected.mean() > own.mean() else (sharpness, high)
    return high


def _logits(outputs: Arrays) -> Array:
    logits = _first(outputs)
    if logits.ndim != 2:
        raise UsageError(
            f"accuracy and f1 expect logits of shape [rows, classes], got {list(logits.shape)}; "
            "give a function of outputs and batch as metric"
        )
    return logits


def _numbers(outputs: Arrays) -> Array:
    array = _first(outputs)
    if array.size != len(array):
        raise UsageError(
            f"spearman expects one number a row, got {list(array.shape)}; "
            "give a function of outputs and batch as metric"
        )
    return array.reshape(-1)


def _labels(batch: Batch, metric: str) -> Array:
    for name in _LABELS:
        if name in batch:
            return to_numpy(batch[name]).reshape(-1)
    raise UsageError(
        f"the metric {metric} needs labels: each batch of data holds them as 'labels', "
        f"one a row; this one has {', '.join(map(str, batch))}. Without labels: metric='cosine'"
    )


def _check_rows(logits: Array, labels: Array) -> None:
    if len(logits) != len(labels):
        raise UsageError(f"a batch has {len(labels)} labels and {len(logits)} rows of outputs")
    if len(labels) and not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise UsageError(
            f"labels go from {labels.min()} to {labels.max()}; the model has classes 0 to "
            f"{logits.shape[1] - 1}"
        )


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse])
