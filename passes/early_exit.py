"""Early exit: a row leaves a stack of layers as soon as its answer is good enough."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dechaff.ir import Module, UsageError

from .approximation import Approximation, Array, Calibration, Edit
from .exits.exit_builder import ExitBuilder
from .exits.exit_options import EarlyExitOptions, with_setting
from .exits.exit_plan import plan_exits, reason_against
from .exits.exit_probe import probe_exits
from .exits.head_fitting import fit_heads
from .exits.light_heads import LightHeads
from .exits.other_stacks import gather_from_other_stacks
from .exits.row_flow import RowFlow
from .exits.skip_normalizations import split_skip_normalizations
from .exits.stacks import Stack, find_stacks
from .exits.threshold_search import ExitScores, Setting, best_settings, stricter, undominated
from .pass_context import PassContext
from .pass_manager import tidy
from .rewriter import Rewriter

__all__ = ["EarlyExit", "EarlyExitOptions"]

_TRIED_THRESHOLDS = {
    "similarity": (0.9, 0.95, 0.97, 0.98, 0.99, 0.995),
    "entropy": (0.65, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05),
    "gap": (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95),
    "patience": (1, 2, 3, 4),
}
"""Thresholds for all exits alike that a search tries, those that save most first."""
_MOST_SETTINGS = 16
"""Settings of layers and thresholds that a search tries at most."""
_PROBED_ROWS = 1024
"""Rows of data at which settings are compared at most."""


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
        for stack in find_stacks(module.graph, rewriter):
            if self.options.stack in ("all", stack.name):
                flow = RowFlow(module)
                reason = gather_from_other_stacks(flow, module.graph, stack)
                if reason is not None:
                    rewriter.miss(self.name, stack.attentions[0], reason)
                    continue
                self._insert(stack, flow, module, rewriter)
                module.graph.sort()

    @property
    def saves(self) -> frozenset[str]:
        """Time; every layer stays, for the rows that need it."""
        return frozenset(["time"])

    @property
    def is_idle(self) -> bool:
        """Whether no row will ever leave."""
        return str(self.options.threshold) == "never"

    def edits(self, module: Module, calibration: Calibration) -> Sequence[Edit]:
        """Exits and thresholds, the boldest first; none where the options name thresholds.

        Where the answers are classes they are those that save most layers for the rows that are
        answered otherwise than by the whole model, on the data, and stricter ones for other data;
        without options, light heads that are fitted compete with the similarity of states. Else
        they are some thresholds for all exits alike.
        """
        if self.options.threshold != "never" or not find_stacks(module.graph, Rewriter(module)):
            return []
        tried = [self.options]
        if self.options == EarlyExitOptions():
            tried.append(EarlyExitOptions(criterion="entropy", heads="fit"))
        try:
            scores = {options: _scores(module, options, calibration) for options in tried}
        except UsageError:
            thresholds = _TRIED_THRESHOLDS[self.options.criterion]
            return [_threshold_edit(self.options.criterion, value) for value in thresholds]
        found = [(setting, o) for o in tried for setting in best_settings(scores[o])]
        best = undominated([setting for setting, _ in found])
        chosen = [(setting, o) for setting, o in found if setting in best and setting.thresholds]
        chosen.sort(key=lambda pair: pair[0].cost)
        chosen = chosen[:: -(-len(chosen) // _MOST_SETTINGS) or 1]
        for setting, o in chosen[-1:]:
            chosen += [(careful, o) for careful in stricter(scores[o], setting)]
        return [_setting_edit(*pair) for pair in chosen]

    def _insert(self, stack: Stack, flow: RowFlow, module: Module, rewriter: Rewriter) -> None:
        refusal = reason_against(stack, flow, module, self.options)
        if refusal is not None:
            rewriter.miss(self.name, *refusal)
            return
        made = [boundary.producer() for boundary in stack.boundaries]
        heads = self._fitted_heads(stack, module, rewriter.context)
        with rewriter.rewrite(self.name, [node for node in made if node is not None]) as builder:
            plan = plan_exits(stack, flow, module, self.options, builder, heads)
            ExitBuilder(plan, flow, rewriter).run(builder)
        rewriter.note(
            f"early-exit: rows may leave {stack.name or 'the model'} after layer "
            f"{', '.join(map(str, plan.layers))} of {len(stack.boundaries)} by "
            f"{self.options.criterion}; the thresholds are the input {plan.thresholds.name!r}; "
            "FLOPs are counted of the layers before the first exit"
        )

    def _fitted_heads(
        self, stack: Stack, module: Module, context: PassContext
    ) -> LightHeads | None:
        if self.options.heads != "fit":
            return None
        data = context.calibration_for("early-exit{heads=fit}")
        return context.once(
            f"heads of {stack.name}",
            lambda: fit_heads(module, stack.name, self.options.output, data),
        )


def _scores(module: Module, options: EarlyExitOptions, calibration: Calibration) -> ExitScores:
    """What every exit says of the rows of the data.

    Raises:
        UsageError: the model has no answer of classes, or several stacks.
    """
    heads = None
    if options.heads == "fit":
        heads = fit_heads(module, options.stack, options.output, calibration)
    probed = module.clone()
    probe = probe_exits(probed, options, heads)
    tidy(probed)
    names = [value.name or "" for value in probe.outputs]
    arrays: list[dict[str, Array]] = []
    for found in calibration.values(probed, names):
        arrays.append(found)
        if sum(len(each[names[-1]]) for each in arrays) >= _PROBED_ROWS:
            break
    return probe.read(arrays)


def _setting_edit(setting: Setting, options: EarlyExitOptions) -> Edit:
    name = f"{options.criterion}, {options.heads} heads, {setting.layers:.2f} layers in the mean"

    def change(_: EarlyExitOptions) -> EarlyExitOptions:
        return with_setting(options, setting)

    return Edit(name, 0, change, place="thresholds", kind="exits")


def _threshold_edit(criterion: str, value: float) -> Edit:
    def change(options: EarlyExitOptions) -> EarlyExitOptions:
        return dataclasses.replace(options, threshold=str(value))

    return Edit(f"{criterion} {value}", 0, change, place="thresholds")
