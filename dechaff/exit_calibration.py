"""``calibrate_exits``: thresholds that save most for an agreement or an accuracy to be kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dechaff.backends import Session, SessionSettings, lower
from dechaff.ir import Module, UsageError
from dechaff.passes import PassList, Rewriter, parse_pass_list, run_passes, tidy
from dechaff.passes.exits.exit_builder import ExitBuilder
from dechaff.passes.exits.exit_options import EarlyExitOptions
from dechaff.passes.exits.exit_plan import ExitPlan, plan_exits, reason_against
from dechaff.passes.exits.row_flow import RowFlow
from dechaff.passes.exits.skip_normalizations import split_skip_normalizations
from dechaff.passes.exits.stacks import find_stacks

from .arrays import Array, check_inputs
from .exit_search import ExitScores, Setting, best_settings
from .model_import import import_model
from .progress import Progress, show_progress


@dataclasses.dataclass(frozen=True)
class ExitCalibration:
    """Thresholds, and what they cost and save on the data they were chosen on.

    Attributes:
        setting: the fastest setting that keeps what was asked for.
        curve: settings from the slowest to the fastest, none of which beats another in both.
        full: the share of right answers of the whole model; 1 without labels.
        options: what was asked for.
    """

    setting: Setting
    curve: tuple[Setting, ...]
    full: float
    options: EarlyExitOptions

    @property
    def passes(self) -> str:
        """The pass with layers and thresholds written out, for a pass list."""
        return self.passes_for(self.setting)

    def passes_for(self, setting: Setting) -> str:
        """The pass for a setting of the curve."""
        return _written(self.options, setting)

    def at(self, keep: float) -> Setting:
        """The fastest setting that keeps a share of the model's right answers on the data."""
        allowed = [setting for setting in self.curve if setting.kept >= keep * self.full]
        return min(allowed, key=lambda setting: setting.cost)

    def __str__(self) -> str:
        lines = [f"{self.passes}", "layers run   kept   thresholds by layer"]
        for point in self.curve:
            written = ", ".join(f"{k}: {v:.4g}" for k, v in point.thresholds.items()) or "no exit"
            mark = "*" if point == self.setting else " "
            lines.append(f"{mark} {point.layers:9.2f}  {point.kept / self.full:.4f}   {written}")
        return "\n".join(lines)


def calibrate_exits(
    model: Any,
    batches: Iterable[Mapping[str, Any]],
    *,
    labels: Sequence[int] | Array | None = None,
    keep: float = 0.99,
    criterion: str = "entropy",
    layers: str = "all",
    heads: str = "own",
    stack: str = "all",
    output: str = "",
    passes: PassList = "default",
    session: SessionSettings | None = None,
    progress: Progress = None,
) -> ExitCalibration:
    """Choose layers and thresholds for ``early-exit`` on data of the user's.

    Every input runs once through all layers; what any thresholds would do follows from the scores.
    The search starts with no exit and lowers and raises one threshold at a time.

    Args:
        model: what :func:`dechaff.optimize` takes.
        batches: inputs by name.
        labels: the right class of every row; without them, agreement with the model counts.
        keep: the share of the model's accuracy, or of its answers, to be kept on this data.
        criterion: the exit test; this and the next four are options of ``early-exit``.
        layers: after which layers rows may leave.
        heads: ``own`` or a file of light heads.
        stack: the stack of layers, where the model has several.
        output: the graph output that answers, where it is not clear.
        passes: the pass list that runs before it.
        session: threads, affinity and memory of the runtime.
        progress: as for :func:`dechaff.optimize`.

    Raises:
        UsageError: no data, labels of another length, or a model that cannot be left early.
    """
    data = list(batches)
    if not data:
        raise UsageError("calibrate_exits: there is no batch of inputs")
    options = EarlyExitOptions(
        layers=layers, criterion=criterion, heads=heads, stack=stack, output=output
    )
    module, _ = run_passes(import_model(model, dict(data[0])), parse_pass_list(passes))
    plan, names = _probe(module, options)
    with show_progress(progress) as report:
        served = Session(lower(module), settings=session)
        found: list[dict[str, Array]] = []
        for number, batch in enumerate(data):
            found.append(served.run(check_inputs(module, batch)))
            report(number + 1, len(data), "run the model")
    scores = _scores(plan, names, found, labels)
    curve = best_settings(scores)
    found_all = ExitCalibration(curve[0], tuple(curve), scores.full_share, options)
    return dataclasses.replace(found_all, setting=found_all.at(keep))


def _probe(
    module: Module, options: EarlyExitOptions
) -> tuple[ExitPlan, tuple[list[str], list[str], str]]:
    """Make scores and answers of all exits the graph outputs, and the model's answer the last."""
    rewriter = Rewriter(module)
    split_skip_normalizations(module, rewriter)
    flow = RowFlow(module)
    stacks = [s for s in find_stacks(module.graph, rewriter) if options.stack in ("all", s.name)]
    if len(stacks) != 1:
        found = ", ".join(repr(s.name) for s in stacks) or "none"
        raise UsageError(f"calibrate_exits: expected one stack of layers, found {found}: stack=...")
    refusal = reason_against(stacks[0], flow, module, options)
    if refusal is not None:
        raise UsageError(f"calibrate_exits: {refusal[1]}")
    last = stacks[0].boundaries[-1].producer()
    assert last is not None
    with rewriter.rewrite("probe-exits", [last]) as builder:
        plan = plan_exits(stacks[0], flow, module, options, builder)
        if plan.logits is None:
            raise UsageError("calibrate_exits: name the output that answers: output=...")
        pairs = ExitBuilder(plan, flow, rewriter).probe(builder)
        copies = [(builder.op("Identity", [a]), builder.op("Identity", [b])) for a, b in pairs]
    module.graph.outputs[:] = [*(v for pair in copies for v in pair), plan.logits]
    tidy(module)
    scores, answers = ([pair[i].name or "" for pair in copies] for i in (0, 1))
    return plan, (scores, answers, plan.logits.name or "")


def _scores(
    plan: ExitPlan,
    names: tuple[list[str], list[str], str],
    found: Sequence[Mapping[str, Array]],
    labels: Sequence[int] | Array | None,
) -> ExitScores:
    score_names, answer_names, last = names
    answers = np.stack(
        [
            np.concatenate([outputs[name].argmax(axis=-1) for outputs in found])
            for name in (*answer_names, last)
        ],
        axis=1,
    )
    if answers.ndim != 2:
        raise UsageError("calibrate_exits: the answer must be logits of each row, float[B, C]")
    right = answers[:, -1] if labels is None else np.asarray(labels)
    if right.shape != (len(answers),):
        raise UsageError(f"calibrate_exits: {len(answers)} rows, labels of shape {right.shape}")
    if plan.criterion == "patience":
        scores = _agreements(answers[:, :-1])
    else:
        scores = np.stack([np.concatenate([o[name] for o in found]) for name in score_names], 1)
    rising = plan.criterion != "entropy"
    return ExitScores(
        plan.layers,
        len(plan.stack.boundaries),
        scores.astype(np.float64),
        answers == right[:, None],
        rising,
        one_threshold=plan.criterion == "patience",
    )


def _agreements(answers: Array) -> Array:
    """How many exits in a row gave the same answer, up to each exit."""
    counts = np.zeros(answers.shape)
    for exit_index in range(1, answers.shape[1]):
        same = answers[:, exit_index] == answers[:, exit_index - 1]
        counts[:, exit_index] = np.where(same, counts[:, exit_index - 1] + 1, 0)
    return counts


def _written(options: EarlyExitOptions, setting: Setting) -> str:
    """The pass as a pass list has it; a setting without exits keeps all, never reached."""
    parts = {"criterion": options.criterion}
    if setting.thresholds:
        parts["layers"] = "+".join(map(str, setting.thresholds))
        parts["threshold"] = "+".join(f"{value:.6g}" for value in setting.thresholds.values())
    for name in ("heads", "stack", "output"):
        if getattr(options, name) != EarlyExitOptions.__dataclass_fields__[name].default:
            parts[name] = getattr(options, name)
    return f"early-exit{{{','.join(f'{key}={value}' for key, value in parts.items())}}}"
