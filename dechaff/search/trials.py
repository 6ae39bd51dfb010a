"""Trials: how good a variant of the model is, and when it is clear that it will not do."""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Sequence

import numpy as np

from dechaff.arrays import Arrays
from dechaff.backends import SessionSettings
from dechaff.ir import Module, UsageError

from .incremental import IncrementalRunner
from .journal import Journal, Outcome
from .metrics import Losses, Metric, UserMetric
from .validation import LabelledInputs

_SURE = 3.0
"""Standard errors by which a trial must be behind before it is ended."""
_LEAST_ROWS = 64


@dataclasses.dataclass(frozen=True)
class Limit:
    """What a variant must not fall below, or is not worth finishing.

    Attributes:
        score: least metric.
        loss: greatest mean loss; None where only the metric counts.
    """

    score: float
    loss: float | None = None


class Trials:
    """Runs variants over the searched part of the data, and writes down what each was worth.

    Attributes:
        data: the searched part.
    """

    def __init__(
        self,
        original: Module,
        data: Sequence[LabelledInputs],
        metric: Metric,
        journal: Journal,
        seed: int,
        session: SessionSettings | None,
    ) -> None:
        self.data, self._metric, self._journal = data, metric, journal
        self.runner = IncrementalRunner([item.inputs for item in data], session)
        self._order = list(range(len(data)))
        random.Random(seed).shuffle(self._order)
        self.runner.rebase(original)
        self._originals = list(self.runner.run(original))
        results = [
            (outputs, item.batch, outputs)
            for outputs, item in zip(self._originals, data, strict=True)
        ]
        if isinstance(metric, UserMetric):
            metric.check_order(results)
        self.original_score = metric.score(results)
        self._losses = [metric.losses(*result) for result in results]
        self._gains = [metric.gains(*result) for result in results]
        self.original_loss = float(np.concatenate(self._losses).mean())
        self.seconds = 0.0
        self._counted: set[str] = set()
        if not math.isfinite(self.original_score + self.original_loss):
            raise UsageError(
                f"the metric {metric.name} of the original is {self.original_score:g}, its loss "
                f"{self.original_loss:g}: its outputs on the data are not numbers"
            )

    def judge(self, variant: Module, tried: str, limit: Limit) -> Outcome:
        """The worth of a variant.

        Args:
            variant: the module.
            tried: names the variant, and the limit it was tried with.
            limit: what it must reach; a trial that surely will not is ended.
        """
        known = self._journal.get(tried)
        if known is None:
            started = time.perf_counter()
            loss, score, error = self._run(variant, limit)
            known = Outcome(loss, score, time.perf_counter() - started, error)
            self._journal.add(tried, known)
        if tried not in self._counted:
            self._counted.add(tried)
            self.seconds += known.seconds
        return known

    def _run(self, variant: Module, limit: Limit) -> tuple[float, float | None, float]:
        """Loss, score if the trial went to its end, and standard error of the loss's difference."""
        results: dict[int, Arrays] = {}
        losses: list[Losses] = []
        worse: list[Losses] = []
        fallen: list[Losses] = []
        for index, outputs in self.runner.run_rows(variant, self._order):
            results[index] = outputs
            arguments = (outputs, self.data[index].batch, self._originals[index])
            found, gains, before = self._metric.losses(*arguments), None, self._gains[index]
            if before is not None:
                gains = self._metric.gains(*arguments)
            losses.append(found)
            worse.append(found - self._losses[index])
            if gains is not None and before is not None:
                fallen.append(before - gains)
            if self._is_hopeless(worse, fallen, limit):
                return self.original_loss + float(np.concatenate(worse).mean()), None, 0.0
        ordered = [
            (results[index], item.batch, self._originals[index])
            for index, item in enumerate(self.data)
        ]
        loss = float(np.concatenate(losses).mean())
        if not math.isfinite(loss):
            return math.inf, None, 0.0
        return loss, self._metric.score(ordered), _standard_error(np.concatenate(worse))

    def _is_hopeless(self, worse: Sequence[Losses], fallen: Sequence[Losses], limit: Limit) -> bool:
        """Whether the mean difference to the original, row by row, is surely beyond the limit."""
        if limit.loss is not None and _surely_above(worse, limit.loss - self.original_loss):
            return True
        mean_of_rows = self._metric.name != "f1"
        return (
            bool(fallen)
            and mean_of_rows
            and _surely_above(fallen, self.original_score - limit.score)
        )


def _surely_above(parts: Sequence[Losses], bound: float) -> bool:
    """Whether the mean of what is to come, too, is above the bound, by a margin of error."""
    values = np.concatenate(parts)
    if len(values) < _LEAST_ROWS:
        return False
    if not np.isfinite(values).all():
        return True
    return bool(values.mean() - _SURE * _standard_error(values) > bound)


def _standard_error(values: Losses) -> float:
    """Of the mean."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
