"""Fitting linear heads to the answers of a model: self-distillation, without labels."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir

from dechaff.ir import Module, UsageError
from dechaff.passes.pass_context import CalibrationData
from dechaff.passes.rewriter import Rewriter

from .exit_plan import answer_of, token_layout
from .light_heads import LightHead, LightHeads, summarize
from .row_flow import RowFlow
from .stacks import Stack, find_stacks

Floats = np.ndarray[Any, Any]

MOST_ROWS = 4096
"""Rows that heads are fitted to at most."""
_LEAST_ROWS = 20
_HELD_OUT = 10
"""Each tenth row chooses the regularization."""
_PENALTIES = (1e-1, 1e-2, 1e-3)
_STEPS = 30


@dataclasses.dataclass(frozen=True)
class HeadProbe:
    """What heads are fitted to, as graph outputs.

    Attributes:
        summaries: for every layer but the last what its head reads, float[B, 2 * D].
        answer: the model's own logits, float[B, C].
    """

    summaries: tuple[ir.Value, ...]
    answer: ir.Value


def probe_heads(module: Module, stack_name: str, output: str) -> HeadProbe:
    """Make what heads are fitted to the outputs of the module, in place.

    Args:
        module: a module whose passes are done but for ``early-exit``.
        stack_name: the stack; empty or ``all`` for the only one.
        output: the graph output that holds the logits; empty where it is clear.

    Raises:
        UsageError: the model has no such stack or output.
    """
    rewriter = Rewriter(module)
    stacks = find_stacks(module.graph, rewriter)
    chosen = [stack for stack in stacks if stack_name in ("", "all", stack.name)]
    if len(chosen) != 1:
        found = ", ".join(repr(stack.name) for stack in chosen) or "none"
        raise UsageError(f"exit heads: expected one stack of layers, found {found}: stack=...")
    stack = chosen[0]
    answer = answer_of(module.graph, RowFlow(module), stack, output)
    if answer is None or answer.shape is None or len(answer.shape) != 2:
        raise UsageError("exit heads: name the output that holds logits [B, C]: output=...")
    summaries = _add_summaries(stack, rewriter)
    module.graph.outputs[:] = [*summaries, answer]
    return HeadProbe(tuple(summaries), answer)


def _add_summaries(stack: Stack, rewriter: Rewriter) -> list[ir.Value]:
    last = stack.boundaries[-1].producer()
    assert last is not None
    with rewriter.rewrite("exit-summaries", [last]) as builder:
        keep_mask, token_index = token_layout(stack, builder)
        return [summarize(builder, h, keep_mask, token_index) for h in stack.boundaries[:-1]]


def fit_heads(
    module: Module, stack_name: str, output: str, calibration: CalibrationData
) -> LightHeads:
    """A head for every layer but the last, fitted to the model's own answers on data.

    Args:
        module: a module whose passes are done but for ``early-exit``; it is not changed.
        stack_name: as for :func:`probe_heads`.
        output: likewise.
        calibration: inputs, of which some thousand rows are used.

    Raises:
        UsageError: the model has no such stack or output, or there are too few rows.
    """
    probed = module.clone()
    probe = probe_heads(probed, stack_name, output)
    names = [value.name or "" for value in (*probe.summaries, probe.answer)]
    gathered: dict[str, list[Floats]] = {name: [] for name in names}
    rows = 0
    for arrays in calibration.walk(probed).advance([*probe.summaries, probe.answer]):
        if rows < MOST_ROWS:
            rows += len(arrays[names[-1]])
            for name in names:
                gathered[name].append(arrays[name])
    *features, answers = (np.concatenate(gathered[name]) for name in names)
    return {layer: fit_head(summary, answers)[0] for layer, summary in enumerate(features, start=1)}


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
