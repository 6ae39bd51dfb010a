"""``fit_exit_heads``: light heads for early exits, from unlabeled inputs, in seconds."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dechaff.backends import Session, SessionSettings, lower
from dechaff.ir import Module, UsageError
from dechaff.passes import PassList, passes_to_add_to, run_passes, tidy
from dechaff.passes.exits.head_fitting import MOST_ROWS, fit_head, probe_heads
from dechaff.passes.exits.light_heads import LightHead, save_heads

from .arrays import Array, check_inputs
from .model_import import import_model
from .progress import Progress, show_progress


@dataclasses.dataclass(frozen=True)
class FittedHeads:
    """What was fitted.

    Attributes:
        path: the file of heads, for ``early-exit{heads=PATH}``.
        rows: inputs that were looked at.
        agreement: by layer, the share of held-out rows for which the head's answer is the model's.
    """

    path: str
    rows: int
    agreement: Mapping[int, float]

    def __str__(self) -> str:
        shares = ", ".join(f"{layer}: {share:.3f}" for layer, share in self.agreement.items())
        return f"{self.path}: heads from {self.rows} rows; agreement by layer: {shares}"


def fit_exit_heads(
    model: Any,
    batches: Iterable[Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    passes: PassList = "default",
    stack: str = "",
    output: str = "",
    session: SessionSettings | None = None,
    progress: Progress = None,
) -> FittedHeads:
    """Fit a linear head for every layer but the last to the model's own answers.

    The heads read the first valid token's state beside the mean over valid tokens, and learn the
    model's distribution over classes (self-distillation, as FastBERT, ACL 2020, section 3.3); the
    model itself does not change. A tenth of the rows is held out to choose the regularization.

    Args:
        model: what :func:`dechaff.optimize` takes.
        batches: inputs by name, without labels; the first 4,096 rows are used.
        path: where the heads go, an ``.npz`` file.
        passes: the pass list that runs before.
        stack: the stack of layers, where the model has several.
        output: the graph output that holds the logits, float[B, C], where it is not clear.
        session: threads, affinity and memory of the runtime.
        progress: as for :func:`dechaff.optimize`.

    Raises:
        UsageError: the model has no such stack or output, or there are too few rows.
    """
    data = list(batches)
    if not data:
        raise UsageError("fit_exit_heads: there is no batch of inputs")
    imported = import_model(model, dict(data[0]))
    module, _ = run_passes(imported, passes_to_add_to(passes))
    probe = probe_heads(module, stack, output)
    tidy(module)
    summaries, answer = [value.name or "" for value in probe.summaries], probe.answer.name or ""
    with show_progress(progress) as report:
        rows, targets = _collect(module, data, summaries, answer, session, report)
        heads: dict[int, LightHead] = {}
        agreement: dict[int, float] = {}
        for layer, features in enumerate(rows, start=1):
            heads[layer], agreement[layer] = fit_head(features, targets)
            if report is not None:
                report(layer, len(rows), f"fit the head of layer {layer}")
    save_heads(heads, path)
    return FittedHeads(os.fspath(path), len(targets), agreement)


def _collect(
    module: Module,
    data: list[Mapping[str, Any]],
    summaries: list[str],
    answer: str,
    session: SessionSettings | None,
    report: Any,
) -> tuple[list[Array], Array]:
    """Summaries of each layer, float[n, 2 * D], and logits float[n, C]."""
    served = Session(lower(module), settings=session)
    found: list[dict[str, Array]] = []
    rows = 0
    for number, batch in enumerate(data):
        outputs = served.run(check_inputs(module, batch))
        found.append(outputs)
        rows += len(outputs[answer])
        if report is not None:
            report(number + 1, len(data), "run the model")
        if rows >= MOST_ROWS:
            break
    layers = [np.concatenate([outputs[name] for outputs in found]) for name in summaries]
    return layers, np.concatenate([outputs[answer] for outputs in found])
