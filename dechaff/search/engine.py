"""The search: edits of approximate passes are tried, and kept where the metric allows them."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence

from dechaff.backends import SessionSettings
from dechaff.ir import Module, UsageError
from dechaff.nominal_sizes import nominal_sizes
from dechaff.passes import Approximation, Numerics, Pass, apply_pass
from dechaff.progress import ProgressFunction

from .journal import Journal, module_digest
from .metrics import Metric
from .pass_search import PassSearch, SearchedInputs
from .result import Decision, Point
from .search_settings import SearchSettings
from .state import OutOfTimeError, SearchState
from .trials import Limit, Trials
from .validation import ValidationData


@dataclasses.dataclass(frozen=True)
class Found:
    """What the search decided, before anything is measured.

    Attributes:
        passes: the pass list.
        decisions: every trial.
        points: the original and each edit that was kept.
        complete: whether every edit was tried.
        seconds: time spent.
    """

    passes: tuple[Pass, ...]
    decisions: tuple[Decision, ...]
    points: tuple[Point, ...]
    complete: bool
    seconds: float


def search(
    module: Module,
    passes: Sequence[Pass],
    data: ValidationData,
    metric: Metric,
    settings: SearchSettings,
    session: SessionSettings | None,
    report: ProgressFunction,
) -> Found:
    """Search over the approximate passes of a list, one after the other, in its order.

    Each may use up its share of the allowed drop, and what those before it left: the first of two
    half of it, the second all.

    Args:
        module: the imported model, tidy; it is not changed.
        passes: the list.
        data: of which the searched part is looked at.
        metric: what must be kept.
        settings: what is asked for.
        session: threads, affinity and memory.
        report: is told of the progress.

    Raises:
        UsageError: no pass of the list can be searched; the metric fails on the original.
    """
    searchable = [index for index, step in enumerate(passes) if isinstance(step, Approximation)]
    if not searchable:
        raise UsageError(
            "a metric is given, but no pass of the list trades accuracy for anything: name one, as "
            "in passes='approximate'"
        )
    state = _begin(module, passes, data, metric, settings, session, report)
    calibration = SearchedInputs([item.inputs for item in data.searched])
    current, complete = module.clone(), True
    for index in range(len(passes)):
        if index in searchable and complete:
            share = (searchable.index(index) + 1) / len(searchable)
            least = state.points[0].searched - share * settings.allowed_drop
            try:
                PassSearch(state, index, current, least).run(calibration)
            except OutOfTimeError:
                complete = False
        apply_pass(current, state.passes[index])
    _judge_whole(state, current)
    return Found(
        tuple(state.passes), tuple(state.decisions), tuple(state.points), complete, state.seconds
    )


def _judge_whole(state: SearchState, result: Module) -> None:
    """Judge the result where passes that are not searched, such as a quantization, changed it."""
    passes = tuple(state.passes)
    approximate = [step for step in passes if step.numerics is Numerics.APPROXIMATE]
    if all(isinstance(step, Approximation) for step in approximate):
        return
    tried = f"{','.join(map(str, passes))} whole"
    outcome = state.trials.judge(result, tried, Limit(-math.inf))
    score = -math.inf if outcome.score is None else outcome.score
    state.points.append(Point("all passes", passes, score))


def _begin(
    module: Module,
    passes: Sequence[Pass],
    data: ValidationData,
    metric: Metric,
    settings: SearchSettings,
    session: SessionSettings | None,
    report: ProgressFunction,
) -> SearchState:
    """Run the original, and check the metric on it."""
    identity = {
        "model": module_digest(module),
        "data": data.digest(),
        "passes": ",".join(map(str, passes)),
        "metric": metric.name,
        "mode": settings.mode,
        "max_drop": settings.max_drop,
        "seed": settings.seed,
    }
    folder = None if settings.folder is None else pathlib.Path(settings.folder)
    journal = Journal(folder, identity)
    trials = Trials(module, data.searched, metric, journal, settings.seed, session)
    exact = tuple(step for step in passes if step.numerics is not Numerics.APPROXIMATE)
    return SearchState(
        settings=settings,
        trials=trials,
        sizes=nominal_sizes(module, data.searched[0].inputs),
        report=report,
        passes=list(passes),
        loss=trials.original_loss,
        score=trials.original_score,
        points=[Point("original", exact, trials.original_score)],
    )
