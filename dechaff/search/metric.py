"""What a metric is: a figure that the user wants kept, and losses to search by."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dechaff.arrays import Array, Arrays, to_numpy
from dechaff.ir import UsageError

from .confidence import Figures, Losses

Batch = Mapping[str, Any]

Results = Sequence[tuple[Arrays, Batch, Arrays]]
"""Outputs, batch, and the original's outputs, of each batch."""

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


def first_output(outputs: Arrays) -> Array:
    """The output named ``logits``, else the first, as float64."""
    array = outputs.get("logits", next(iter(outputs.values())))
    return array.astype(np.float64)


def labels_of(batch: Batch, metric: str) -> Array:
    """The labels of a batch.

    Raises:
        UsageError: it has none.
    """
    for name in _LABELS:
        if name in batch:
            return to_numpy(batch[name]).reshape(-1)
    raise UsageError(
        f"the metric {metric} needs labels: each batch of data holds them as 'labels', "
        f"one a row; this one has {', '.join(map(str, batch))}. Without labels: metric='cosine'"
    )
