"""Where two results differ by little more than rounding: float64 says which is nearer the truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .arrays import Array, Arrays
from .comparison import Difference
from .double_precision import NotInDoubleError

_NARROW = 1e4
"""How many times its limit an error may be for float64 to be asked: a mask of -1e6 rounds the
scores of a row that sees nothing else to a sixteenth."""

_ALIKE = 4.0
"""How many times as far from the truth a result may be that is rounded as the first is: two orders
of summation round alike, and by chance one of them comes nearer."""

Truth = Callable[[int], Arrays]
"""Outputs of a model in float64 for the case of that index."""


class Disputes:
    """Settles the narrow misses of one comparison.

    A miss is no fault if the two graphs agree in float64 and the second's result is as near the
    first's float64 result as the tolerance asks, or about as near as the first's own. The tolerance
    is the same; but it is held against the truth, of which the first result too is an
    approximation, and where it is a rough one (a row that sees nothing but a mask of -10000) no
    other order of summation can do better.
    """

    def __init__(
        self,
        first: Truth,
        second: Truth,
        reference: Sequence[Mapping[str, Array]],
        actual: Sequence[Mapping[str, Array]],
        masks: Sequence[Mapping[str, Array]],
    ) -> None:
        """Take the two sides.

        Args:
            first: the reference graph in float64, outputs by its names.
            second: the other graph in float64, outputs by the same names.
            reference: the first's outputs in the model's own types, for each case.
            actual: the second's outputs, for each case.
            masks: valid positions of outputs, [B, S] or [B], for each case.
        """
        self._truths = (first, second)
        self._reference = reference
        self._actual = actual
        self._masks = masks
        self._known: dict[int, tuple[Arrays, Arrays] | str] = {}

    def settle(self, output: str, case: int, difference: Difference) -> Difference:
        """The same difference, with what float64 says of it; without a problem if it is none."""
        error, limit = difference.max_abs_error, difference.limit
        if difference.problem is None or not limit < error <= _NARROW * limit:
            return difference
        truths = self._in_double(case)
        if isinstance(truths, str):
            text = f"{difference.problem}; float64 cannot settle it: {truths}"
            return dataclasses.replace(difference, problem=text)
        mask = self._masks[case].get(output)
        first, second = (_valid(truth[output], mask) for truth in truths)
        own = _distance(_valid(self._reference[case][output], mask), first)
        others = _distance(_valid(self._actual[case][output], mask), first)
        apart = _distance(second, first)
        text = (
            f"in float64 the two graphs differ by {apart:.3g}; from that truth the first result is "
            f"{own:.3g} away, the second {others:.3g}: the "
            f"{'second' if others <= own else 'first'} is nearer"
        )
        near = others <= max(limit, _ALIKE * own) or others <= _ALIKE * self._roughest(output)
        if apart <= limit and near:
            return dataclasses.replace(difference, problem=None, settled=text)
        return dataclasses.replace(difference, problem=f"{difference.problem}; {text}")

    def _roughest(self, output: str) -> float:
        """How far the first's results are from the truth, in the case where they are furthest."""
        distances = [0.0]
        for case, outputs in enumerate(self._reference):
            truths = self._in_double(case)
            if not isinstance(truths, str):
                mask = self._masks[case].get(output)
                pair = (_valid(array[output], mask) for array in (outputs, truths[0]))
                distances.append(_distance(*pair))
        return max(distance for distance in distances if np.isfinite(distance))

    def _in_double(self, case: int) -> tuple[Arrays, Arrays] | str:
        """Both graphs' outputs, or why there are none."""
        if case not in self._known:
            try:
                first, second = (truth(case) for truth in self._truths)
                self._known[case] = first, second
            except (NotInDoubleError, MemoryError) as error:
                self._known[case] = str(error) or "out of memory"
        return self._known[case]


def _valid(array: Array, mask: Array | None) -> Array:
    return array if mask is None else array[mask != 0]


def _distance(array: Array, truth: Array) -> float:
    """Largest difference of finite elements; infinite where the shapes or the others differ."""
    if array.shape != truth.shape:
        return float("inf")
    left, right = array.astype(np.float64), truth.astype(np.float64)
    finite = np.isfinite(left) & np.isfinite(right)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True):
        return float("inf")
    return float(np.abs(left[finite] - right[finite]).max(initial=0.0))
