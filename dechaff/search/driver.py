"""From a model, a metric and data to a pass list that was searched, and measured."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from dechaff.backends import SessionSettings, products_saturate
from dechaff.calibration import Calibration
from dechaff.ir import Module, UsageError
from dechaff.passes import Pass, PassContext, apply_pass, tidy
from dechaff.progress import ProgressFunction
from dechaff.settings import Settings
from dechaff.target_lowering import lower_for_target

from .engine import Surroundings, search, without_idle
from .metric import Metric
from .metrics import MetricFunction, make_metric
from .pareto import measure_points
from .result import ROUNDING, Point, SearchResult
from .search_settings import SearchSettings
from .searched_inputs import SearchedInputs
from .validation import split_data


@dataclasses.dataclass(frozen=True)
class Request:
    """What the caller of ``optimize`` asks of a search.

    Attributes:
        metric: the name of a metric or a function of outputs and batch.
        data: batches, each a mapping from name to array, labels included.
        settings: mode, drop, budget, seed, folder.
    """

    metric: str | MetricFunction | Metric
    data: Iterable[Any]
    settings: SearchSettings


def make_request(
    metric: str | MetricFunction | Metric | None, data: Any, **settings: Any
) -> Request | None:
    """The request that the arguments of ``optimize`` make; None if they ask for no search.

    Raises:
        UsageError: one of metric and data is missing, or a setting cannot be read.
    """
    if metric is None and data is None:
        return None
    if metric is None:
        raise UsageError("data is given without a metric: metric='accuracy', or a function")
    if data is None:
        raise UsageError("a metric is given without data: batches of inputs and labels")
    return Request(metric, data, SearchSettings(**settings))


def searched_passes(passes: Any) -> Any:
    """The pass list to search: that of the caller, or all approximations in place of a default."""
    return "approximate" if passes == "default" else passes


def drive(
    module: Module,
    passes: Sequence[Pass],
    request: Request,
    settings: Settings,
    session: SessionSettings,
    report: ProgressFunction,
    calibration: Calibration | None = None,
) -> tuple[SearchResult, Calibration]:
    """Search, then measure what was found beside the original on data that the search never saw.

    Args:
        module: the imported model; it is not changed.
        passes: the pass list, with at least one approximation.
        request: metric, data and settings of the search.
        settings: target and cache.
        session: threads, affinity and memory.
        report: is told of the progress: seconds spent, seconds allowed, what is being tried.
        calibration: what passes may look at; None: the inputs of the searched part of the data.

    Returns:
        What was found, and what passes have looked at.

    Raises:
        UsageError: metric, data or passes do not do; the message says what would.
    """
    metric = make_metric(request.metric)
    data = split_data(module, request.data, request.settings.seed)
    original = module.clone()
    tidy(original)
    example = data.searched[0].inputs
    own = [item.inputs for item in data.searched]
    given = calibration or Calibration(own, "the searched part of the data")
    inputs = SearchedInputs(given.batches, given.source, given.tokens, use_cache=settings.cache)

    def serve(made: Module) -> Module:
        return lower_for_target(made, module, settings, example, session).module

    around = Surroundings(session, inputs, serve, settings.cache, report)
    found = search(original, passes, data, metric, request.settings, around)
    contexts = collections.defaultdict[str, PassContext](
        lambda: PassContext(inputs, products_saturate())
    )

    def build(chosen: Sequence[Pass]) -> Module:
        made = module.clone()
        tidy(made)
        for index, step in enumerate(chosen):
            # The models on the way are made alike up to a pass that was searched.
            before = ",".join(map(str, chosen[:index]))
            apply_pass(made, step, context=contexts[before])
        return serve(made)

    report(0, 1, "measuring what was found")
    has_loss = request.settings.mode == "accuracy"
    measured = measure_points(found.points, build, data.held_out, metric, session, losses=has_loss)
    points = allowed_there_too(measured, request.settings)
    first, last = points[0].held_out, points[-1].held_out
    assert first is not None  # measured just now
    assert last is not None
    result = SearchResult(
        metric=metric.name,
        mode=request.settings.mode,
        max_drop=request.settings.allowed_drop,
        margin=request.settings.margin,
        passes=found.passes if points == measured else without_idle(points[-1].passes),
        decisions=found.decisions,
        points=points,
        refused=measured[len(points) :],
        held_out_original=first,
        held_out=last,
        complete=found.complete,
        seconds=found.seconds,
    )
    return result, inputs


def allowed_there_too(points: Sequence[Point], settings: SearchSettings) -> tuple[Point, ...]:
    """The points up to the boldest that keeps to the drop on held-out data as well.

    A search makes hundreds of trials on the same rows, and some do well by chance. In mode
    ``accuracy`` the mean loss, which tells more than the metric, must be no greater there either.
    Where no point does, all are left, and the result warns.
    """
    for count in range(len(points), 1, -1):
        if _is_allowed(points[count - 1], settings):
            return tuple(points[:count])
    return tuple(points)


def _is_allowed(point: Point, settings: SearchSettings) -> bool:
    drop = point.held_out_drop
    if drop is None or drop.mean > settings.allowed_drop + ROUNDING:
        return False
    return settings.mode != "accuracy" or not point.has_greater_loss
