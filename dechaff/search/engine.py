"""The search: edits of approximate passes are tried, and kept where the metric allows them."""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dechaff.backends import SessionSettings, machine_name, products_saturate
from dechaff.cache import cached
from dechaff.digests import module_digest
from dechaff.ir import Module, UsageError
from dechaff.nominal_sizes import nominal_sizes
from dechaff.passes import Approximation, Numerics, Pass, PassContext, apply_pass
from dechaff.progress import ProgressFunction
from dechaff.versions import package_versions

from .edit_trials import EditTrials
from .journal import Journal
from .metrics import Metric
from .pass_search import PassSearch
from .result import Decision, Point
from .savings import Serve
from .search_settings import SearchSettings
from .searched_inputs import SearchedInputs
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


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a search needs to know of where its result is to run.

    Attributes:
        session: threads, affinity and memory.
        inputs: what passes may look at.
        serve: makes of a module that the passes are done with the one to be served.
        use_cache: whether times that an earlier search measured will do.
        report: is told of the progress.
    """

    session: SessionSettings
    inputs: SearchedInputs
    serve: Serve
    use_cache: bool
    report: ProgressFunction


def search(
    module: Module,
    passes: Sequence[Pass],
    data: ValidationData,
    metric: Metric,
    settings: SearchSettings,
    around: Surroundings,
) -> Found:
    """Search over the approximate passes of a list, one after the other, in its order.

    Each may use up its share of the allowed drop, and what those before it left: the first of two
    half of it, the second all; likewise of the budget. Passes that cannot save what the mode wants
    are not searched.

    Args:
        module: the imported model, tidy; it is not changed.
        passes: the list.
        data: of which the searched part is looked at.
        metric: what must be kept.
        settings: what is asked for.
        around: where the result is to run.

    Raises:
        UsageError: no pass of the list can be searched; the metric fails on the original.
    """
    searchable = _searchable(passes, settings.mode)
    state = _begin(module, passes, data, metric, settings, around)
    context = PassContext(around.inputs, products_saturate())
    current = module.clone()
    for index in range(len(passes)):
        share = (searchable.index(index) + 1) / len(searchable) if index in searchable else 0.0
        if share and state.allow(share):
            allowed = share * settings.allowed_drop
            serve = functools.partial(_serve, state.passes[index + 1 :], context, around)
            try:
                trials = EditTrials(state, index, current, allowed, around.inputs)
                PassSearch(trials, serve).run()
            except OutOfTimeError:
                state.complete = False
        if not _is_idle(state.passes[index]):
            apply_pass(current, state.passes[index], context=context.fresh())
    _judge_whole(state, current)
    return Found(
        tuple(step for step in state.passes if not _is_idle(step)),
        tuple(state.decisions),
        tuple(state.points),
        state.complete,
        state.seconds,
    )


def _searchable(passes: Sequence[Pass], mode: str) -> list[int]:
    """Places of the passes whose edits serve the mode."""
    wanted = {"speed": "time", "size": "size"}.get(mode)
    approximate = [(i, step) for i, step in enumerate(passes) if isinstance(step, Approximation)]
    found = [i for i, step in approximate if wanted is None or wanted in step.saves]
    if not approximate:
        raise UsageError(
            "a metric is given, but no pass of the list trades accuracy for anything: name one, as "
            "in passes='approximate'"
        )
    if not found:
        names = ", ".join(step.name for _, step in approximate)
        raise UsageError(f"mode {mode}: {names} can save no {wanted}; add prune, or another mode")
    return found


def _is_idle(step: Pass) -> bool:
    return isinstance(step, Approximation) and step.is_idle


def _serve(
    rest: Sequence[Pass], context: PassContext, around: Surroundings, made: Module
) -> Module:
    """The module that is served in the end of one that some of the passes are done with."""
    served = made.clone()
    for step in rest:
        if not _is_idle(step):
            apply_pass(served, step, context=context.fresh())
    return around.serve(served)


def _judge_whole(state: SearchState, result: Module) -> None:
    """Judge the result where passes that are not searched, such as a quantization, changed it."""
    passes = tuple(state.passes)
    approximate = [step for step in passes if step.numerics is Numerics.APPROXIMATE]
    if all(isinstance(step, Approximation) for step in approximate):
        return
    tried = f"{','.join(map(str, passes))} whole"
    outcome = state.trials.judge(result, tried, Limit(math.inf))
    score = -math.inf if outcome.score is None else outcome.score
    state.points.append(Point("all passes", passes, score, outcome.drop))


def _begin(
    module: Module,
    passes: Sequence[Pass],
    data: ValidationData,
    metric: Metric,
    settings: SearchSettings,
    around: Surroundings,
) -> SearchState:
    """Run the original, and check the metric on it."""
    identity = {
        "model": module_digest(module),
        "data": data.digest(),
        "calibration": around.inputs.digest(),
        "passes": ",".join(map(str, passes)),
        "metric": metric.name,
        "mode": settings.mode,
        "max_drop": settings.max_drop,
        "margin": settings.margin,
        "seed": settings.seed,
    }
    folder = None if settings.folder is None else pathlib.Path(settings.folder)
    journal = Journal(folder, identity)
    trials = Trials(module, data.searched, metric, journal, settings.seed, around.session)
    trials.check_margin(settings.margin)
    exact = tuple(step for step in passes if step.numerics is not Numerics.APPROXIMATE)
    return SearchState(
        settings=settings,
        trials=trials,
        sizes=nominal_sizes(module, data.searched[0].inputs),
        session=around.session,
        measured=functools.partial(_measured, journal, identity, around),
        report=around.report,
        passes=list(passes),
        loss=trials.original_loss,
        score=trials.original_score,
        points=[Point("original", exact, trials.original_score)],
    )


def _measured(
    journal: Journal,
    identity: Mapping[str, Any],
    around: Surroundings,
    what: str,
    measure: Callable[[], float],
) -> float:
    """A share of time: from the journal, else from an earlier search, else measured now."""
    key = {
        "measured": "share of time saved",
        "of": what,
        "search": {name: identity[name] for name in ("model", "data", "passes")},
        "threads": around.session.num_threads,
        "machine": machine_name(),
        "onnxruntime": package_versions()["onnxruntime"],
    }
    return journal.measured(what, lambda: float(cached(key, measure, use=around.use_cache)))
