"""Exit tests: whether a row's answer is good enough after some layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from dechaff.ir import DOMAIN
from dechaff.passes.matching import rank
from dechaff.passes.rewriter import GraphBuilder

CRITERIA = ("similarity", "entropy", "gap", "patience")

NEVER = {"similarity": 2.0, "entropy": -1.0, "gap": 2.0, "patience": 1e9}
"""Thresholds with which no row ever exits."""


@dataclasses.dataclass(frozen=True)
class RowState:
    """What an exit test may look at: n rows after a layer.

    Attributes:
        h: their state, float[n, S, D] or packed float[t, D].
        previous: their state one layer before.
        logits: makes what the model would answer from ``h``, float[n, C] or float[n, S, C].
        token_index: for packed states, int64[t], flat positions; else None.
        keep_mask: bool[n, S] or what broadcasts to it; the tokens that count.
        memory: what the test remembers of the rows, from the exit before; see ``memory_size``.
    """

    h: ir.Value
    previous: ir.Value
    logits: Callable[[], ir.Value]
    token_index: ir.Value | None
    keep_mask: ir.Value
    memory: tuple[ir.Value, ...] = ()


@dataclasses.dataclass(frozen=True)
class ExitDecision:
    """The answer of an exit test for n rows.

    Attributes:
        leaves: bool[n], which rows are done.
        memory: what to remember of all n rows, each value with n as its first size.
    """

    leaves: ir.Value
    memory: tuple[ir.Value, ...] = ()


def decide(
    criterion: str, builder: GraphBuilder, state: RowState, threshold: ir.Value
) -> ExitDecision:
    """Build the exit test.

    Args:
        criterion: one of ``CRITERIA``.
        builder: where the nodes go.
        state: the rows.
        threshold: float, a scalar.
    """
    if criterion == "patience":
        return _patience(builder, state, threshold)
    compare = "Less" if criterion == "entropy" else "Greater"
    return ExitDecision(builder.op(compare, [score(criterion, builder, state), threshold]))


def score(criterion: str, builder: GraphBuilder, state: RowState) -> ir.Value:
    """What the test compares with the threshold, float[n]; for ``patience``, the logits."""
    if criterion == "similarity":
        return _similarity(builder, state)
    if criterion == "entropy":
        entropy = builder.op("SoftmaxEntropy", [state.logits()], domain=DOMAIN)
        return _worst(builder, entropy, "ReduceMax")
    if criterion == "gap":
        gap = builder.op("SoftmaxGap", [state.logits()], domain=DOMAIN)
        return _worst(builder, gap, "ReduceMin")
    return state.logits()


def _similarity(builder: GraphBuilder, state: RowState) -> ir.Value:
    if state.token_index is None:
        operands = [state.h, state.previous, state.keep_mask]
        return builder.op("RowSimilarity", operands, domain=DOMAIN)
    packed = [state.h, state.previous, state.token_index, state.keep_mask]
    return builder.op("PackedRowSimilarity", packed, domain=DOMAIN)


def _worst(builder: GraphBuilder, score: ir.Value, reduction: str) -> ir.Value:
    """A row with a score for each position is as sure as the least sure of them."""
    if rank(score) == 1:
        return score
    axes = builder.constant(np.array([1], np.int64), "axes")
    return builder.op(reduction, [score, axes], {"keepdims": 0})


def _patience(builder: GraphBuilder, state: RowState, threshold: ir.Value) -> ExitDecision:
    """PABEE (NeurIPS 2020, section 3.2): the answer has not changed for so many exits."""
    logits = state.logits()
    answer = builder.op("ArgMax", [logits], {"axis": -1, "keepdims": 0})
    zero = builder.constant(np.array(0, np.float32), "zero")
    same = builder.op("Equal", [answer, state.memory[1]]) if state.memory else None
    if same is not None:
        as_number = builder.op("Cast", [same], {"to": int(ir.DataType.FLOAT)})
        agrees = _worst(builder, as_number, "ReduceMin")
        one = builder.constant(np.array(1, np.float32), "one")
        more = builder.op("Add", [state.memory[0], one])
        count = builder.op("Mul", [more, agrees])
    else:
        shape = builder.op("Shape", [logits], {"start": 0, "end": 1})
        count = builder.op("Expand", [zero, shape])
    leaves = builder.op("GreaterOrEqual", [count, threshold])
    return ExitDecision(leaves, (count, answer))
