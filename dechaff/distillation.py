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
_STEPS = 30


def fit_head(features: Floats, logits: Floats) -> tuple[LightHead, float]:
    """The linear head whose distribution over classes is nearest to the given one.

    Minimizes the cross-entropy against the softmax of ``logits`` with a penalty on the weights, on
    standardized features: the problem is convex.

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
    fits = [_minimize(x[~held_out], target[~held_out], penalty) for penalty in _PENALTIES]
    losses = [_cross_entropy(x[held_out] @ w[:-1] + w[-1], target[held_out]) for w in fits]
    best = fits[int(np.argmin(losses))]
    weight, bias = best[:-1], best[-1]
    guess = (x[held_out] @ weight + bias).argmax(axis=1)
    agreement = float((guess == target[held_out].argmax(axis=1)).mean())
    scaled = weight / spread[:, None]
    head = LightHead(scaled.T.astype(np.float32), (bias - mean @ scaled).astype(np.float32))
    return head, agreement


def _minimize(x: Floats, target: Floats, penalty: float) -> Floats:
    """Weights float[F + 1, C], the last row the bias: Newton's steps with a bound on the curvature.

    The second derivative of a softmax's cross-entropy is nowhere above half the second moments of
    the features (Boehning, 1992), so that one factorization serves all steps, and each goes down.
    """
    rows = np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1)
    shrink = np.full(rows.shape[1], penalty)
    shrink[-1] = 1e-6  # the bias is free
    bound = 0.5 * (rows.T @ rows) / len(rows) + np.diag(shrink)
    inverse = np.linalg.inv(bound).astype(x.dtype)
    weights = np.zeros((rows.shape[1], target.shape[1]), x.dtype)
    for _ in range(_STEPS):
        error = (_softmax(rows @ weights) - target) / len(rows)
        slope = rows.T @ error + shrink[:, None].astype(x.dtype) * weights
        weights -= inverse @ slope
    return weights


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _cross_entropy(logits: Floats, target: Floats) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-(target * logarithms).sum(axis=1).mean())
