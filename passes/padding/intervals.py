"""Intervals of real numbers: what a mask's entries can be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Interval:
    """All numbers from ``low`` to ``high``; booleans are 0 and 1."""

    low: float
    high: float

    @property
    def exact(self) -> float | None:
        """The number, if there is only one."""
        return self.low if self.low == self.high else None

    def hull(self, other: Interval) -> Interval:
        """The smallest interval that holds both."""
        return Interval(min(self.low, other.low), max(self.high, other.high))

    def corners(self, other: Interval, combine: Callable[[float, float], float]) -> Interval:
        """The image of a function that is monotone in each operand; not a number gives anything."""
        values = [combine(a, b) for a in (self.low, self.high) for b in (other.low, other.high)]
        if any(math.isnan(value) for value in values):
            return ANYTHING
        return Interval(min(values), max(values))


ANYTHING = Interval(-math.inf, math.inf)
ZERO = Interval(0.0, 0.0)
ONE = Interval(1.0, 1.0)
BOOLEAN = Interval(0.0, 1.0)


def truth(interval: Interval) -> Interval:
    """The truth of a number: 1 where it cannot be 0."""
    if interval == ZERO:
        return ZERO
    return ONE if interval.low > 0 or interval.high < 0 else BOOLEAN


def compare(left: Interval, right: Interval, op_type: str) -> Interval:
    """The result of a comparison operator, where it is certain."""
    if op_type in ("Greater", "GreaterOrEqual"):
        return compare(right, left, "Less" if op_type == "Greater" else "LessOrEqual")
    if op_type == "Less":
        certain, impossible = left.high < right.low, left.low >= right.high
    elif op_type == "LessOrEqual":
        certain, impossible = left.high <= right.low, left.low > right.high
    else:
        certain = left.exact is not None and left.exact == right.exact
        impossible = left.high < right.low or right.high < left.low
    return ONE if certain else ZERO if impossible else BOOLEAN
