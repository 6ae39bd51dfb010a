"""Ranges of activations from calibration data: smallest and largest, percentiles, entropy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Activations = npt.NDArray[np.float32]

METHODS = ("minmax", "percentile", "entropy")
_BINS = 2048
_LEVELS = 128
"""Levels on one side of zero that 8 bits have."""


def activation_range(
    activations: Activations, method: str, percentile: float
) -> tuple[float, float]:
    """The range that integers are to cover; zero is always in it, so that it is kept exactly.

    Args:
        activations: all that the calibration data gave, any shape.
        method: ``minmax`` takes all; ``percentile`` leaves the farthest out on each side;
            ``entropy`` clips where the distribution loses least information (Migacz, "8-bit
            Inference with TensorRT", GTC 2017).
        percentile: for that method, the share in percent of numbers within.
    """
    low, high = float(activations.min(initial=0.0)), float(activations.max(initial=0.0))
    if method == "percentile":
        outside = 100 - percentile
        found = np.percentile(activations, [outside, percentile])
        low, high = min(float(found[0]), 0.0), max(float(found[1]), 0.0)
    elif method == "entropy":
        limit = _entropy_limit(np.abs(activations).reshape(-1))
        low, high = max(low, -limit), min(high, limit)
    return low, high


def _entropy_limit(magnitudes: Activations) -> float:
    """The magnitude to clip at: of all histograms cut off, the one nearest to its 128 levels."""
    largest = float(magnitudes.max(initial=0.0))
    if largest == 0.0:
        return 0.0
    counts, _ = np.histogram(magnitudes, bins=_BINS, range=(0.0, largest))
    widths = range(_LEVELS, _BINS + 1, _LEVELS // 4)
    divergences = [_divergence(counts, width) for width in widths]
    return largest * widths[int(np.argmin(divergences))] / _BINS


def _divergence(counts: npt.NDArray[np.int64], width: int) -> float:
    """Kullback-Leibler divergence of a clipped histogram from itself in 128 levels."""
    clipped = counts[:width].astype(np.float64)
    clipped[-1] += counts[width:].sum()
    edges = np.linspace(0, width, _LEVELS + 1).astype(np.int64)
    kept = counts[:width].astype(np.float64)
    used = kept > 0
    sums = np.add.reduceat(kept, edges[:-1])
    filled = np.maximum(np.add.reduceat(used.astype(np.float64), edges[:-1]), 1)
    level = np.repeat(sums / filled, np.diff(edges)) * used
    if level.sum() == 0:
        return float("inf")
    p, q = clipped / clipped.sum(), level / level.sum()
    q = np.where(q > 0, q, 1e-12)
    mask = p > 0
    return float(np.sum(p[mask] * np.log(p[mask] / q[mask])))
