"""Fitting a linear head to the answers of a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from dechaff.ir import UsageError
from dechaff.passes.exits.light_heads import LightHead

Floats = np.ndarray[Any, Any]

_LEAST_ROWS = 20
_HELD_OUT = 10
"""Each tenth row chooses the regularization."""
_PENALTIES = (1e-1, 1e-2, 1e-3)
_STEPS = 100


def fit_head(features: Floats, logits: Floats) -> tuple[LightHead, float]:
    """The linear head whose distribution over classes is nearest to the given one.

    Minimizes the cross-entropy against the softmax of ``logits`` with a penalty on the weights, by
    Nesterov's accelerated gradient on standardized features: the problem is convex.

    Args:
        features: float[n, F].
        logits: float[n, C], the model's own.

    Returns:
        The head, and on held-out rows the share whose largest logit is the model's.

    Raises:
        UsageError: there are fewer than 20 rows.
    """
    if len(features) < _LEAST_ROWS:
        raise UsageError(f"exit heads need at least {_LEAST_ROWS} rows, got {len(features)}")
    held_out = np.arange(len(features)) % _HELD_OUT == 0
    x = features.astype(np.float32)
    mean, spread = x[~held_out].mean(axis=0), x[~held_out].std(axis=0) + 1e-6
    x = (x - mean) / spread
    target = _softmax(logits.astype(np.float32))
    curvature = _largest_eigenvalue(x[~held_out])
    best: tuple[float, Floats, Floats] | None = None
    for penalty in _PENALTIES:
        weight, bias = _minimize(x[~held_out], target[~held_out], penalty, curvature)
        loss = _cross_entropy(x[held_out] @ weight + bias, target[held_out])
        if best is None or loss < best[0]:
            best = loss, weight, bias
    assert best is not None
    _, weight, bias = best
    guess = (x[held_out] @ weight + bias).argmax(axis=1)
    agreement = float((guess == target[held_out].argmax(axis=1)).mean())
    scaled = weight / spread[:, None]
    head = LightHead(scaled.T.astype(np.float32), (bias - mean @ scaled).astype(np.float32))
    return head, agreement


def _minimize(x: Floats, target: Floats, penalty: float, curvature: float) -> tuple[Floats, Floats]:
    shape = (x.shape[1], target.shape[1])
    weight, bias = np.zeros(shape), np.zeros(shape[1])
    ahead, ahead_bias = weight, bias
    # Half the largest eigenvalue bounds the curvature of the cross-entropy of a softmax.
    step = 1 / (0.5 * curvature + penalty)
    for count in range(_STEPS):
        error = (_softmax(x @ ahead + ahead_bias) - target) / len(x)
        new = ahead - step * (x.T @ error + penalty * ahead)
        new_bias = ahead_bias - step * error.sum(axis=0)
        momentum = count / (count + 3)
        ahead = new + momentum * (new - weight)
        ahead_bias = new_bias + momentum * (new_bias - bias)
        weight, bias = new, new_bias
    return weight, bias


def _largest_eigenvalue(x: Floats) -> float:
    """Of the second moments of the rows with a one appended, by power iteration."""
    direction = np.ones(x.shape[1] + 1)
    largest = 1.0
    for _ in range(30):
        projected = x @ direction[:-1] + direction[-1]
        direction = np.append(x.T @ projected, projected.sum()) / len(x)
        largest = float(np.linalg.norm(direction))
        direction /= largest
    return largest * 1.05


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _cross_entropy(logits: Floats, target: Floats) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-(target * logarithms).sum(axis=1).mean())
