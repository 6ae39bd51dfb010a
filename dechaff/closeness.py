"""How close two arrays are, in figures that need no tolerance."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from .arrays import Array


@dataclasses.dataclass(frozen=True)
class Closeness:
    """Figures over the finite elements of two arrays of one shape.

    Attributes:
        max_abs_error: largest difference.
        mean_abs_error: mean difference.
        cosine: cosine of the angle between them as flat vectors; 1 where both are zero.
        argmax_agreement: share of rows (all axes but the last) whose largest element stands at the
            same place; None for arrays that have no rows of several numbers.
    """

    max_abs_error: float
    mean_abs_error: float
    cosine: float
    argmax_agreement: float | None


def measure_closeness(pairs: Sequence[tuple[Array, Array]]) -> Closeness | None:
    """Figures over pairs of arrays of numbers; None if the shapes of a pair differ."""
    if any(left.shape != right.shape or left.dtype.kind not in "biuf" for left, right in pairs):
        return None
    left = np.concatenate([_flat(pair[0]) for pair in pairs])
    right = np.concatenate([_flat(pair[1]) for pair in pairs])
    finite = np.isfinite(left) & np.isfinite(right)
    left, right = left[finite], right[finite]
    errors = np.abs(left - right)
    return Closeness(
        max_abs_error=float(errors.max(initial=0.0)),
        mean_abs_error=float(errors.mean()) if errors.size else 0.0,
        cosine=_cosine(left, right),
        argmax_agreement=_argmax_agreement(pairs),
    )


def _flat(array: Array) -> Array:
    return array.astype(np.float64).reshape(-1)


def _cosine(left: Array, right: Array) -> float:
    norms = float(np.linalg.norm(left)) * float(np.linalg.norm(right))
    if norms == 0.0:
        return 1.0 if np.array_equal(left, right) else 0.0
    return float(np.dot(left, right)) / norms


def _argmax_agreement(pairs: Sequence[tuple[Array, Array]]) -> float | None:
    same: list[Array] = []
    for left, right in pairs:
        if left.dtype.kind != "f" or left.ndim < 2 or left.shape[-1] < 2:
            return None
        same.append((left.argmax(axis=-1) == right.argmax(axis=-1)).reshape(-1))
    equal = np.concatenate(same) if same else np.empty(0, dtype=bool)
    return float(equal.mean()) if equal.size else None
