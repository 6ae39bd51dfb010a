"""Early exit: a row leaves a stack of layers as soon as its answer is good enough."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dechaff.ir import Module

from .approximation import Approximation, Calibration, Edit
from .exits.exit_builder import ExitBuilder
from .exits.exit_options import EarlyExitOptions
from .exits.exit_plan import plan_exits, reason_against
from .exits.other_stacks import gather_from_other_stacks
from .exits.row_flow import RowFlow
from .exits.skip_normalizations import split_skip_normalizations
from .exits.stacks import Stack, find_stacks
from .rewriter import Rewriter

__all__ = ["EarlyExit", "EarlyExitOptions"]

_TRIED_THRESHOLDS = {
    "similarity": (0.9, 0.95, 0.97, 0.98, 0.99, 0.995),
    "entropy": (0.65, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05),
    "gap": (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95),
    "patience": (1, 2, 3, 4),
}
"""Thresholds for all exits alike that a search tries, those that save most first."""


class EarlyExit(Approximation):
    """Let rows leave a stack of layers early, each by itself.

    After each chosen layer a test decides for each row whether its answer is good enough. A row
    that leaves keeps its state, and skips the other layers: what reads the state after the last
    layer, the model's own head among it, reads the state with which the row left. The layers
    between two exits stand in a branch that runs for the rows that go on, packed or padded, if
    there are any. With a threshold that is never reached, the results are those of the model, to
    the bit; no row's result depends on the other rows of the batch.

    Tests are ``similarity`` (the cosine of the states before and after a layer, over the row's
    tokens, is above the threshold: MuE, CVPR 2023), ``entropy`` of the answer below it (DeeBERT,
    ACL 2020), ``gap`` between the two largest probabilities above it (CALM, NeurIPS 2022), and
    ``patience``, so many exits in a row with the same answer (PABEE, NeurIPS 2020). They read the
    thresholds from a graph input, float[number of exits], with the option as its default: a caller
    may give others with each batch. A light head, where a file of them is given, answers for the
    rows that leave at its layer.

    Before::

        before (float[B,S,4] x) => (float[B,S,4] y) <float[4] g = {1, 2, 3, 4}>
        {
            h0 = LayerNormalization (x, g)
            c1 = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5> (h0, h0, h0)
            r1 = Add (c1, h0)
            h1 = LayerNormalization (r1, g)
            c2 = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5> (h1, h1, h1)
            r2 = Add (c2, h1)
            y = LayerNormalization (r2, g)
        }

    After::

        after (float[B,S,4] x, float[1] exit_thresholds = {2}) => (float[B,S,4] y)
        <float[4] g = {1, 2, 3, 4}, bool[1,1] every_token = {1}, int64 first = {0},
         int64[1] flat = {-1}, int64 zero = {0}, int64[1] axes = {1}>
        {
            h0 = LayerNormalization (x, g)
            c1 = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5> (h0, h0, h0)
            r1 = Add (c1, h0)
            h1 = LayerNormalization (r1, g)
            threshold = Gather <axis = 0> (exit_thresholds, first)
            similarity = dechaff.RowSimilarity (h1, h0, every_token)
            leaves = Greater (similarity, threshold)
            goes_on = Not (leaves)
            found = NonZero (goes_on)
            rows = Reshape (found, flat)
            count = Size (rows)
            anyone = Greater (count, zero)
            y = If (anyone) <
                then_branch = rows_go_on () => (float[B,S,4] merged) {
                    h = Gather <axis = 0> (h1, rows)
                    c = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5> (h, h, h)
                    r = Add (c, h)
                    own = LayerNormalization (r, g)
                    places = Unsqueeze (rows, axes)
                    merged = ScatterND (h1, places, own)
                },
                else_branch = no_row_left () => (float[B,S,4] unchanged) {
                    unchanged = Identity (h1)
                }
            >
        }
    """

    name = "early-exit"
    after = ("fuse-attention", "remove-padding", "fold-attention-bias")
    options_type = EarlyExitOptions
    levels = ("thresholds",)

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Find the stacks, and build the exits of those asked for."""
        split_skip_normalizations(module, rewriter)
        stacks = find_stacks(module.graph, rewriter)
        for stack in stacks:
            if self.options.stack in ("all", stack.name):
                flow = RowFlow(module)
                others = [other for other in stacks if other is not stack]
                reason = gather_from_other_stacks(flow, module.graph, stack, others)
                if reason is not None:
                    rewriter.miss(self.name, stack.attentions[0], reason)
                    continue
                self._insert(stack, flow, module, rewriter)
                module.graph.sort()

    def edits(self, module: Module, calibration: Calibration) -> Sequence[Edit]:
        """Thresholds for the exits that the options name; none where they name thresholds too."""
        if self.options.threshold != "never":
            return []
        tried = _TRIED_THRESHOLDS[self.options.criterion]
        return [_threshold_edit(self.options.criterion, value) for value in tried]

    def _insert(self, stack: Stack, flow: RowFlow, module: Module, rewriter: Rewriter) -> None:
        refusal = reason_against(stack, flow, module, self.options)
        if refusal is not None:
            rewriter.miss(self.name, *refusal)
            return
        made = [boundary.producer() for boundary in stack.boundaries]
        with rewriter.rewrite(self.name, [node for node in made if node is not None]) as builder:
            plan = plan_exits(stack, flow, module, self.options, builder)
            ExitBuilder(plan, flow, rewriter).run(builder)
        rewriter.note(
            f"early-exit: rows may leave {stack.name or 'the model'} after layer "
            f"{', '.join(map(str, plan.layers))} of {len(stack.boundaries)} by "
            f"{self.options.criterion}; the thresholds are the input {plan.thresholds.name!r}; "
            "FLOPs are counted of the layers before the first exit"
        )


def _threshold_edit(criterion: str, value: float) -> Edit:
    def change(options: EarlyExitOptions) -> EarlyExitOptions:
        return dataclasses.replace(options, threshold=str(value))

    return Edit(f"{criterion} {value}", 0, change, place="thresholds")
