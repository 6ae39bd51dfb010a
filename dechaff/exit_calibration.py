"""``calibrate_exits``: thresholds that save most for an agreement or an accuracy to be kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dechaff.backends import Session, SessionSettings, lower
from dechaff.ir import UsageError
from dechaff.passes import PassList, passes_to_add_to, run_passes, tidy
from dechaff.passes.early_exit import EarlyExit
from dechaff.passes.exits.exit_options import EarlyExitOptions, with_setting
from dechaff.passes.exits.exit_probe import probe_exits
from dechaff.passes.exits.threshold_search import Setting, best_settings

from .arrays import Array, check_inputs
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
        return str(EarlyExit(with_setting(self.options, setting)))

    def at(self, keep: float) -> Setting:
        """The fastest setting that keeps a share of the model's right answers on the data."""
        allowed = [setting for setting in self.curve if setting.kept >= keep * self.full]
        return min(allowed, key=lambda setting: setting.cost)

    def __str__(self) -> str:
        lines = [f"{self.passes}", "layers run   kept   thresholds by layer"]
        for point in self.curve:
            written = ", ".join(f"{k}: {v:.4g}" for k, v in point.thresholds.items()) or "no exit"
            mark = "*" if point == self.setting else " "
            lines.append(
                f"{mark} {point.layers:9.2f}  {point.kept / (self.full or 1.0):.4f}   {written}"
            )
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
    module, _ = run_passes(import_model(model, dict(data[0])), passes_to_add_to(passes))
    probe = probe_exits(module, options)
    tidy(module)
    with show_progress(progress) as report:
        served = Session(lower(module), settings=session)
        found: list[dict[str, Array]] = []
        for number, batch in enumerate(data):
            found.append(served.run(check_inputs(module, batch)))
            report(number + 1, len(data), "run the model")
    scores = probe.read(found, labels)
    curve = best_settings(scores)
    found_all = ExitCalibration(curve[0], tuple(curve), scores.full_share, options)
    return dataclasses.replace(found_all, setting=found_all.at(keep))
