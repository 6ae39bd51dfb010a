"""Whether two arrays agree, by a criterion that depends on declared numerics and dtype alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dechaff.passes import Numerics

from .arrays import Array

_Doubles = np.ndarray[Any, np.dtype[np.float64]]


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """``|a - b| <= absolute + relative * scale``, scale being the reference's largest magnitude.

    The scale is that of the whole output: sums in another order err by a fraction of their largest
    terms, so an element near zero may be off by many times itself and still be right.
    """

    relative: float
    absolute: float

    def limit(self, scale: float) -> float:
        """The largest allowed difference for an output of that scale."""
        return self.absolute + self.relative * scale


_DOUBLE = Tolerance(1e-12, 1e-15)
_SINGLE = Tolerance(1e-5, 1e-7)
_HALF = Tolerance(1e-2, 1e-4)

TOLERANCES: dict[tuple[Numerics, str], Tolerance] = {
    (Numerics.EXACT, "float64"): _DOUBLE,
    (Numerics.EXACT, "float32"): _SINGLE,
    (Numerics.EXACT, "float16"): _HALF,
    (Numerics.EXACT, "bfloat16"): _HALF,
    (Numerics.REASSOCIATES, "float64"): _DOUBLE,
    (Numerics.REASSOCIATES, "float32"): _SINGLE,
    (Numerics.REASSOCIATES, "float16"): _HALF,
    (Numerics.REASSOCIATES, "bfloat16"): _HALF,
}
"""Tolerances by numerics and dtype of the output.

``exact`` stands in the graph, not in the runtime: its kernels choose the order of a sum by the
shape of the operands, so that even an exact rewrite moves the last bits. The absolute part is one
rounding of intermediate values of size 1. ``approximate`` has no row: it has no tolerance, and
answers to the user's metric instead. Integers and bools must be equal.
"""


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far an array is from its reference.

    Attributes:
        max_abs_error: largest difference over compared, finite elements.
        limit: largest difference allowed.
        scale: largest magnitude of the reference over compared, finite elements.
        problem: why the arrays disagree, or None if they agree.
        settled: why what seems a difference is none: what float64 says of an error above the
            limit, or that the original is not a number there; None elsewhere.
    """

    max_abs_error: float
    limit: float
    scale: float
    problem: str | None
    settled: str | None = None


def compare_arrays(
    reference: Array, actual: Array, mask: Array | None, numerics: Numerics
) -> Difference:
    """Compare an output with its reference.

    Args:
        reference: the original's output.
        actual: the output to judge, of the same shape and dtype.
        mask: [B, S], not zero where positions are meaningful; elsewhere ``actual`` must be exactly
            zero, whatever the reference holds. In rows with padding a reference that is not a
            number says nothing: a padded query that may see no key makes it so, and what reads it
            under the weight zero. [B], not zero where rows are; other rows may hold anything
            finite. None: every position is meaningful.
        numerics: what was declared; approximate results are measured, not judged.
    """
    if reference.shape != actual.shape:
        return _refused(f"expected shape {reference.shape}, got {actual.shape}")
    if reference.dtype != actual.dtype:
        return _refused(f"expected dtype {reference.dtype}, got {actual.dtype}")
    if mask is not None and np.ndim(mask) == 1:
        if not np.isfinite(actual[mask == 0]).all():
            return _refused("a row without valid positions is not finite")
        reference, actual = reference[mask != 0], actual[mask != 0]
    elif mask is not None:
        if actual.ndim < 2:
            return _refused(f"has valid positions [B, S] but shape {actual.shape}")
        keep = np.broadcast_to(np.asarray(mask) != 0, actual.shape[:2])
        stray = np.argwhere((actual != 0) & ~keep.reshape(keep.shape + (1,) * (actual.ndim - 2)))
        if len(stray):
            place = stray[0].tolist()
            return _refused(f"padded position {place} is {actual[tuple(place)]}, expected 0")
        padded_rows = np.broadcast_to(~keep.all(axis=1, keepdims=True), keep.shape)[keep]
        reference, actual = reference[keep], actual[keep]
        if reference.dtype.kind == "f":
            return _compare_beside_padding(reference, actual, padded_rows, numerics)
    if reference.dtype.kind in "biuSUO":
        return _compare_exactly(reference, actual)
    return _compare_floats(reference, actual, numerics)


def _compare_beside_padding(
    reference: Array, actual: Array, padded_rows: Array, numerics: Numerics
) -> Difference:
    """Compare valid positions, where padding has not made the reference no number at all."""
    poisoned = np.isnan(reference) & np.isfinite(actual)
    poisoned &= padded_rows.reshape(-1, *[1] * (reference.ndim - 1))
    if not poisoned.any():
        return _compare_floats(reference, actual, numerics)
    compared = _compare_floats(np.where(poisoned, actual, reference), actual, numerics)
    return dataclasses.replace(
        compared,
        settled=f"the original gives NaN for {int(poisoned.sum())} valid elements of rows with "
        "padding, which were not compared",
    )


def _refused(problem: str) -> Difference:
    return Difference(float("inf"), 0.0, 0.0, problem)


def _compare_exactly(reference: Array, actual: Array) -> Difference:
    different = np.argwhere(reference != actual)
    if not len(different):
        return Difference(0.0, 0.0, 0.0, None)
    place = tuple(different[0].tolist())
    problem = f"expected {reference[place]}, got {actual[place]} at {list(place)}"
    return _refused(f"{len(different)} of {reference.size} elements differ: {problem}")


def _compare_floats(reference: Array, actual: Array, numerics: Numerics) -> Difference:
    dtype = reference.dtype.name
    finite = np.isfinite(reference)
    if finite.all() and np.isfinite(actual).all():
        return _compare_finite(_widen(reference), _widen(actual), dtype, numerics)
    reference, actual = _widen(reference), _widen(actual)
    unlike = np.argwhere(~_same_kind(reference, actual))
    if len(unlike) and numerics is not Numerics.APPROXIMATE:
        place = tuple(unlike[0].tolist())
        return _refused(f"expected {reference[place]}, got {actual[place]} at {list(place)}")
    both = finite & np.isfinite(actual)
    return _compare_finite(np.where(both, reference, 0), np.where(both, actual, 0), dtype, numerics)


def _compare_finite(
    reference: _Doubles, actual: _Doubles, dtype: str, numerics: Numerics
) -> Difference:
    """Compare arrays that hold finite numbers, zeros where they hold others."""
    errors = np.abs(actual - reference)
    error = float(errors.max(initial=0.0))
    scale = float(max(reference.max(initial=0.0), -reference.min(initial=0.0)))
    tolerance = TOLERANCES.get((numerics, dtype))
    if tolerance is None:
        return Difference(error, float("inf"), scale, None)
    limit = tolerance.limit(scale)
    if error <= limit:
        return Difference(error, limit, scale, None)
    place = np.unravel_index(int(errors.argmax()), errors.shape)
    problem = (
        f"maximum absolute error {error:.3g} (expected {reference[place]:.6g}, "
        f"got {actual[place]:.6g}) is above {limit:.3g}, "
        f"the tolerance for {dtype} at scale {scale:.3g}"
    )
    return Difference(error, limit, scale, problem)


def _widen(array: Array) -> _Doubles:
    return array.astype(np.float64)


def _same_kind(reference: Array, actual: Array) -> Array:
    """Where both are finite, both NaN, or both the same infinity."""
    finite = np.isfinite(reference) & np.isfinite(actual)
    nan = np.isnan(reference) & np.isnan(actual)
    infinite = np.isinf(reference) & (reference == actual)
    return np.asarray(finite | nan | infinite)
