"""By how much a metric fell, and how surely: the same data before and after, compared in pairs.

Two models on the same rows err on the same rows for the most part, so that the mean of the paired
differences is known far better than either figure: its standard error is that of a paired t test,
``std(d) / sqrt(n)``, which for shares of right answers is the one that McNemar's test uses
(Psychometrika 12, 1947; Dietterich, Neural Computation 10, 1998, section 3). A figure that is no
mean over rows, such as F1, is worked out once more without each batch of data in turn: the
delete-one jackknife (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 11).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

Losses = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclasses.dataclass(frozen=True)
class Figures:
    """A metric on data, and what tells how sure a difference to another's is.

    Attributes:
        score: the metric.
        parts: float64[rows], what each row adds to the score, which is their mean; or
            float64[batches], the score without each batch.
        unit: ``rows`` or ``batches``.
    """

    score: float
    parts: Losses
    unit: str

    @classmethod
    def of_rows(cls, gains: Losses) -> Figures:
        """Those of a mean over rows."""
        return cls(float(gains.mean()), gains, "rows")

    @classmethod
    def of_batches(cls, score: float, without: Losses) -> Figures:
        """Those of anything else: the score, and the scores without one batch each."""
        return cls(score, without, "batches")


@dataclasses.dataclass(frozen=True)
class Drop:
    """How far a metric fell, or a loss rose.

    Attributes:
        mean: the difference; less than zero where it is for the better.
        error: its standard error; infinite where the data is too little to tell.
        count: how many rows or batches were compared.
        unit: ``rows`` or ``batches``.
    """

    mean: float
    error: float
    count: int
    unit: str

    def at_most(self, margin: float) -> float:
        """What the drop is with a margin of so many standard errors."""
        return self.mean + margin * self.error if margin else self.mean

    def __str__(self) -> str:
        return f"{self.mean:.4f} +- {self.error:.4f} on {self.count:,} {self.unit}"


def drop_between(before: Figures, after: Figures) -> Drop:
    """How far the metric fell from one model to another on the same data."""
    differences = before.parts - after.parts
    mean, count = before.score - after.score, len(differences)
    if before.unit == "rows":
        return Drop(mean, standard_error(differences), count, before.unit)
    if count < 2:
        return Drop(mean, math.inf, count, before.unit)
    spread = float(((differences - differences.mean()) ** 2).sum())
    return Drop(mean, math.sqrt(spread * (count - 1) / count), count, before.unit)


def standard_error(values: Losses) -> float:
    """Of the mean; infinite for a single value."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf


def surely_above(seen: Losses, total: int, bound: float, margin: float, sureness: float) -> bool:
    """Whether the mean of all values, with the margin, will be above the bound, as far as is known.

    The mean of all is estimated from those seen; its error has the correction for a finite
    population, so that the end of a race is foreseen the better the nearer it is (Hoeffding races,
    Maron and Moore, NIPS 1993, with normal bounds).

    Args:
        seen: those seen so far, drawn at random.
        total: how many there will be.
        bound: what the mean must not be above.
        margin: standard errors of the final mean that count on top of it.
        sureness: standard errors of the estimate by which it must be above.
    """
    if not np.isfinite(seen).all():
        return True
    spread, count = float(seen.std(ddof=1)), len(seen)
    unknown = spread * math.sqrt(max(0.0, 1 / count - 1 / total))
    final = spread / math.sqrt(total)
    return bool(seen.mean() + margin * final - sureness * unknown > bound)
