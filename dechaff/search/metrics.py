"""Metrics by name, or of a function of the user's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dechaff.arrays import Array, Arrays, to_numpy
from dechaff.ir import UsageError

from .classification import Accuracy, MacroF1
from .confidence import Figures, Losses
from .metric import Batch, Metric, Results, first_output, labels_of

MetricFunction = Callable[[Any, Any], float]
"""``fn(outputs, batch) -> float``, greater is better: the model's outputs on a batch, as a mapping
from name to numpy array, and the batch as the user gave it."""


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
        wanted = np.concatenate([labels_of(batch, self.name) for _, batch, _ in results])
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
        found, before = first_output(outputs), first_output(original)
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


def _numbers(outputs: Arrays) -> Array:
    array = first_output(outputs)
    if array.size != len(array):
        raise UsageError(
            f"spearman expects one number a row, got {list(array.shape)}; "
            "give a function of outputs and batch as metric"
        )
    return array.reshape(-1)


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse])
