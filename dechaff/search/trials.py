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

from .confidence import Drop, Losses, drop_between, standard_error, surely_above
from .incremental import IncrementalRunner
from .journal import Journal, Outcome
from .metric import Metric, Results
from .validation import LabelledInputs

_SURE = 3.0
"""Standard errors by which a trial must be behind before it is ended."""
_LEAST_ROWS = 64
_COMPARED_ROWS = 384
"""Rows on which edits are compared with each other; what is kept is judged on all rows."""


@dataclasses.dataclass(frozen=True)
class Limit:
    """What a variant must keep to, or is not worth finishing.

    Attributes:
        drop: how far the metric may fall.
        margin: standard errors of the drop that count as drop.
        loss: greatest mean loss; None where only the metric counts.
    """

    drop: float
    margin: float = 0.0
    loss: float | None = None

    def __str__(self) -> str:
        return f"{self.drop:.9g} {self.margin:g} {self.loss}"


class Trials:
    """Runs variants over the searched part of the data, and writes down what each was worth.

    Attributes:
        data: the searched part.
        runner: runs variants on all of it.
        sampler: runs variants on some of it, drawn at random, to compare edits.
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
        order = list(range(len(data)))
        random.Random(seed).shuffle(order)
        # In this order, so that the first ones are a sample and the start of each race.
        self._items = [data[index] for index in order]
        self.runner = IncrementalRunner([item.inputs for item in self._items], session)
        self.runner.rebase(original)
        self._originals = list(self.runner.run(original))
        results = self._results(self._originals)
        metric.begin(results)
        self._figures = metric.figures(results)
        self.original_score = self._figures.score
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
        sample = [item.inputs for item in self._items[: _sample_size(self._items)]]
        whole = len(sample) == len(self._items)
        self.sampler = self.runner if whole else IncrementalRunner(sample, session)
        self.sampler.rebase(original)

    def check_margin(self, margin: float) -> None:
        """Refuse data of which no error can be told.

        Raises:
            UsageError: there is a single batch, and the metric has no rows.
        """
        if margin and self._figures.unit == "batches" and len(self.data) == 1:
            raise UsageError(
                f"the metric {self._metric.name} is compared batch by batch, and one batch is left "
                "to search by: give data in more batches of fewer rows, ten at least, or margin=0"
            )

    def judge(self, variant: Module, tried: str, limit: Limit, *, sampled: bool = False) -> Outcome:
        """The worth of a variant.

        Args:
            variant: the module.
            tried: names the variant.
            limit: what it must reach; a trial that surely will not is ended.
            sampled: look at a sample of the rows only.
        """
        name = f"{tried} at {limit}{' of a sample' if sampled else ''}"
        known = self._journal.get(name)
        if known is None:
            started = time.perf_counter()
            found = self._run(variant, limit, self.sampler if sampled else self.runner)
            known = dataclasses.replace(found, seconds=time.perf_counter() - started)
            self._journal.add(name, known)
        if name not in self._counted:
            self._counted.add(name)
            self.seconds += known.seconds
        return known

    def _run(self, variant: Module, limit: Limit, runner: IncrementalRunner) -> Outcome:
        found: list[Arrays] = []
        worse: list[Losses] = []
        fallen: list[Losses] = []
        for outputs, item, original, losses, before in zip(
            runner.run(variant),
            self._items,
            self._originals,
            self._losses,
            self._gains,
            strict=False,  # the runner's inputs may be a sample, the first ones
        ):
            found.append(outputs)
            worse.append(self._metric.losses(outputs, item.batch, original) - losses)
            gains = self._metric.gains(outputs, item.batch, original)
            if gains is not None and before is not None:
                fallen.append(before - gains)
            if self._is_hopeless(worse, fallen, limit):
                return Outcome(self.original_loss + float(np.concatenate(worse).mean()), None)
        differences = np.concatenate(worse)
        loss = self.original_loss + float(differences.mean())
        if not math.isfinite(loss):
            return Outcome(math.inf, None)
        figures, drop = self._fallen(found)
        return Outcome(loss, figures, error=standard_error(differences), drop=drop)

    def _fallen(self, found: Sequence[Arrays]) -> tuple[float, Drop]:
        """The metric of a variant's outputs, and how far it fell on these batches."""
        after = self._metric.figures(self._results(found))
        whole = len(found) == len(self._originals)
        before = self._figures
        if not whole:
            before = self._metric.figures(self._results(self._originals[: len(found)]))
        return after.score, drop_between(before, after)

    def _results(self, outputs: Sequence[Arrays]) -> Results:
        items = self._items[: len(outputs)]
        originals = self._originals[: len(outputs)]
        return [
            (each, item.batch, original)
            for each, item, original in zip(outputs, items, originals, strict=True)
        ]

    def _is_hopeless(self, worse: Sequence[Losses], fallen: Sequence[Losses], limit: Limit) -> bool:
        """Whether the mean difference to the original, row by row, is surely beyond the limit."""
        if limit.loss is not None and self._loses(worse, limit.loss - self.original_loss, 0.0):
            return True
        return bool(fallen) and self._loses(fallen, limit.drop, limit.margin)

    def _loses(self, parts: Sequence[Losses], bound: float, margin: float) -> bool:
        """Whether a race is lost: on all rows the mean will surely be above the bound."""
        seen, total = np.concatenate(parts), sum(map(len, self._losses))
        return len(seen) >= _LEAST_ROWS and surely_above(seen, total, bound, margin, _SURE)


def _sample_size(items: Sequence[LabelledInputs]) -> int:
    """Batches that hold the rows on which edits are compared."""
    rows = 0
    for number, item in enumerate(items):
        rows += len(next(iter(item.inputs.values()), ()))
        if rows >= _COMPARED_ROWS:
            return number + 1
    return len(items)
