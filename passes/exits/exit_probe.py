"""What exits would do: scores and answers of all of them, made visible without any exit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from dechaff.ir import Module, UsageError
from dechaff.passes.rewriter import Rewriter

from .exit_builder import ExitBuilder
from .exit_options import EarlyExitOptions
from .exit_plan import ExitPlan, plan_exits, reason_against
from .light_heads import LightHeads
from .row_flow import RowFlow
from .skip_normalizations import split_skip_normalizations
from .stacks import find_stacks
from .threshold_search import ExitScores

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class ExitProbe:
    """The outputs that tell what exits would do.

    Attributes:
        plan: the exits.
        scores: for each exit what its test compares with the threshold.
        answers: for each exit the logits there.
        last: the model's own logits.
    """

    plan: ExitPlan
    scores: tuple[ir.Value, ...]
    answers: tuple[ir.Value, ...]
    last: ir.Value

    @property
    def outputs(self) -> list[ir.Value]:
        """All of them."""
        return [*self.scores, *self.answers, self.last]

    def read(
        self, found: Sequence[Mapping[str, Array]], labels: Sequence[int] | Array | None = None
    ) -> ExitScores:
        """What the outputs say.

        Args:
            found: the outputs of each batch, by name.
            labels: the right class of each row; None: the model's own answer.

        Raises:
            UsageError: the answer is no class of each row, or the labels do not fit.
        """

        def column(values: Sequence[ir.Value], classes: bool) -> Array:
            arrays = [np.concatenate([o[value.name or ""] for o in found]) for value in values]
            return np.stack([a.argmax(axis=-1) if classes else a for a in arrays], axis=1)

        answers = column((*self.answers, self.last), classes=True)
        if answers.ndim != 2:
            raise UsageError("early-exit: the answer must be logits of each row, float[B, C]")
        right = answers[:, -1] if labels is None else np.asarray(labels)
        if right.shape != (len(answers),):
            raise UsageError(f"early-exit: {len(answers)} rows, labels of shape {right.shape}")
        by_patience = self.plan.criterion == "patience"
        scores = _agreements(answers[:, :-1]) if by_patience else column(self.scores, classes=False)
        return ExitScores(
            self.plan.layers,
            len(self.plan.stack.boundaries),
            scores.astype(np.float64),
            answers == right[:, None],
            rising=self.plan.criterion != "entropy",
            one_threshold=by_patience,
        )


def probe_exits(
    module: Module, options: EarlyExitOptions, heads: LightHeads | None = None
) -> ExitProbe:
    """Make scores and answers of all exits the outputs of the module, in place.

    Args:
        module: a module whose passes are done but for ``early-exit``.
        options: which exits.
        heads: light heads that were fitted, where the options ask for these.

    Raises:
        UsageError: the model cannot be left early, or has several stacks or answers.
    """
    rewriter = Rewriter(module)
    split_skip_normalizations(module, rewriter)
    flow = RowFlow(module)
    stacks = [s for s in find_stacks(module.graph, rewriter) if options.stack in ("all", s.name)]
    if len(stacks) != 1:
        found = ", ".join(repr(s.name) for s in stacks) or "none"
        raise UsageError(f"early-exit: expected one stack of layers, found {found}: stack=...")
    refusal = reason_against(stacks[0], flow, module, options)
    if refusal is not None:
        raise UsageError(f"early-exit: {refusal[1]}")
    last = stacks[0].boundaries[-1].producer()
    assert last is not None
    with rewriter.rewrite("probe-exits", [last]) as builder:
        plan = plan_exits(stacks[0], flow, module, options, builder, heads)
        if plan.logits is None:
            raise UsageError("early-exit: name the output that answers: output=...")
        pairs = ExitBuilder(plan, flow, rewriter).probe(builder)
        copies = [(builder.op("Identity", [a]), builder.op("Identity", [b])) for a, b in pairs]
    scores, answers = (tuple(pair[which] for pair in copies) for which in (0, 1))
    probe = ExitProbe(plan, scores, answers, plan.logits)
    module.graph.outputs[:] = probe.outputs
    return probe


def _agreements(answers: Array) -> Array:
    """How many exits in a row gave the same answer, up to each exit."""
    counts = np.zeros(answers.shape)
    for exit_index in range(1, answers.shape[1]):
        same = answers[:, exit_index] == answers[:, exit_index - 1]
        counts[:, exit_index] = np.where(same, counts[:, exit_index - 1] + 1, 0)
    return counts
