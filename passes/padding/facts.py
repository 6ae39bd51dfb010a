"""What is known of one value of a mask computation, and how operators combine what is known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from .intervals import ANYTHING, Interval


@dataclasses.dataclass(frozen=True)
class Fact:
    """What is known of a value, relative to a padding mask. Axes count from the right (-1: last).

    Attributes:
        batch_axis: axis indexed by the mask's batch; None if the value does not depend on its row.
        valid: entries where every sequence index is a valid position, and, if there are
            ``causal_axes``, the key's position is not behind the query's.
        padded: for each axis indexed by the mask's sequence: entries where that index is a padded
            position, whatever the others are.
        future: entries where the key's position is behind the query's.
        causal_axes: the axes of query and key that ``future`` speaks of; None if the value is the
            same on both sides of the diagonal.
        position_axis: the axis whose index the value holds; None if it holds something else.
    """

    batch_axis: int | None
    valid: Interval
    padded: dict[int, Interval] = dataclasses.field(default_factory=dict)
    future: Interval | None = None
    causal_axes: tuple[int, int] | None = None
    position_axis: int | None = None

    @property
    def in_future(self) -> Interval:
        """Entries where the key is behind the query."""
        return self.valid if self.future is None else self.future

    @property
    def anywhere(self) -> Interval:
        """Entries at any position."""
        result = self.valid.hull(self.in_future)
        for interval in self.padded.values():
            result = result.hull(interval)
        return result

    def at(self, axis: int) -> Interval:
        """Entries where the index of ``axis`` is padding."""
        return self.padded.get(axis, self.anywhere)

    def without_diagonal(self) -> Fact:
        """The same, with what is known of the two sides of the diagonal taken together."""
        valid = self.valid.hull(self.in_future)
        return Fact(self.batch_axis, valid, self.padded, None, None, self.position_axis)

    def mapped(self, change: Callable[[Interval], Interval]) -> Fact:
        """The fact after a function of each entry."""
        return Fact(
            self.batch_axis,
            change(self.valid),
            {axis: change(interval) for axis, interval in self.padded.items()},
            None if self.future is None else change(self.future),
            self.causal_axes,
        )

    def moved(self, places: dict[int, int]) -> Fact | None:
        """The fact after axes have moved; None if an axis that matters is gone."""
        wanted = {axis for axis in (*self.padded, self.batch_axis) if axis is not None}
        if not wanted <= set(places):
            return None
        fact = self
        if self.causal_axes is not None and not set(self.causal_axes) <= set(places):
            fact = self.without_diagonal()
        causal = fact.causal_axes
        return Fact(
            None if fact.batch_axis is None else places[fact.batch_axis],
            fact.valid,
            {places[axis]: interval for axis, interval in fact.padded.items()},
            fact.future,
            None if causal is None else (places[causal[0]], places[causal[1]]),
            None if fact.position_axis is None else places.get(fact.position_axis),
        )


UNKNOWN = Fact(None, ANYTHING)


def combine(facts: list[Fact], change: Callable[..., Interval]) -> Fact | None:
    """The fact after an elementwise operator; operands align at the right, as broadcasting does."""
    batch_axes = {fact.batch_axis for fact in facts if fact.batch_axis is not None}
    if len(batch_axes) > 1:
        return None
    diagonals = {fact.causal_axes for fact in facts if fact.causal_axes is not None}
    if len(diagonals) > 1:
        facts, diagonals = [fact.without_diagonal() for fact in facts], set()
    axes = {axis for fact in facts for axis in fact.padded}
    return Fact(
        batch_axes.pop() if batch_axes else None,
        change(*(fact.valid for fact in facts)),
        {axis: change(*(fact.at(axis) for fact in facts)) for axis in axes},
        change(*(fact.in_future for fact in facts)) if diagonals else None,
        diagonals.pop() if diagonals else None,
    )


def constant_fact(tensor: ir.TensorProtocol) -> Fact:
    """What the entries of a constant show, the two sides of its diagonal apart."""
    array = tensor.numpy()
    if array.size == 0 or array.dtype.kind not in "biuf":
        return UNKNOWN
    everywhere = _span(array)
    if everywhere is None or array.ndim < 2 or array.shape[-1] != array.shape[-2]:
        return UNKNOWN if everywhere is None else Fact(None, everywhere)
    ahead = np.triu(np.ones(array.shape[-2:], bool), 1)
    valid, future = _span(array[..., ~ahead]), _span(array[..., ahead])
    if valid is None or future is None:
        return Fact(None, everywhere)
    return Fact(None, valid, {}, future, (-2, -1))


def _span(array: np.ndarray[Any, Any]) -> Interval | None:
    """Smallest and largest entry; None if there is none, or one that is not a number."""
    if array.size == 0:
        return None
    low, high = float(array.min()), float(array.max())
    return None if math.isnan(low) or math.isnan(high) else Interval(low, high)
