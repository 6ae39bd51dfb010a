"""The search: edits of approximate passes are tried, and kept where the metric allows them."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import pathlib
import time
from collections.abc import Iterator, Sequence

from dechaff.arrays import Array, Arrays
from dechaff.backends import SessionSettings
from dechaff.ir import Module, UsageError, graph_cost, num_parameters
from dechaff.nominal_sizes import nominal_sizes
from dechaff.passes import Approximation, Edit, Pass, apply_pass
from dechaff.probing import fetch_values
from dechaff.progress import ProgressFunction

from .journal import Journal, Outcome, module_digest
from .metrics import Metric
from .result import Decision, Point
from .search_settings import SearchSettings
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


class _OutOfTimeError(Exception):
    """The budget is spent."""


class _Calibration:
    """The searched batches, for passes that look at data."""

    def __init__(self, inputs: Sequence[Arrays]) -> None:
        self._inputs = inputs

    @property
    def inputs(self) -> Sequence[Arrays]:
        return self._inputs

    def values(self, module: Module, names: Sequence[str]) -> list[dict[str, Array]]:
        return [fetch_values(module, names, batch) for batch in self._inputs]


class Search:
    """One search over the approximate passes of a list."""

    def __init__(
        self,
        module: Module,
        passes: Sequence[Pass],
        data: ValidationData,
        metric: Metric,
        settings: SearchSettings,
        session: SessionSettings | None,
        report: ProgressFunction,
    ) -> None:
        """Run the original, and check the metric on it.

        Raises:
            UsageError: no pass of the list can be searched; the metric fails on the original.
        """
        if not any(isinstance(step, Approximation) for step in passes):
            raise UsageError(
                "a metric is given, but no pass of the list trades accuracy for anything: name "
                "one, as in passes='approximate'"
            )
        self._settings, self._report = settings, report
        self._passes = list(passes)
        self._data = data
        self._module = module
        self._sizes = nominal_sizes(module, data.searched[0].inputs)
        folder = None if settings.folder is None else pathlib.Path(settings.folder)
        journal = Journal(folder, self._identity(metric))
        self._trials = Trials(module, data.searched, metric, journal, settings.seed, session)
        self._started = time.perf_counter()
        self._replayed = 0.0
        self._decisions: list[Decision] = []
        self._points = [Point("original", self._exact(), self._trials.original_score)]
        self._loss = self._trials.original_loss
        self._score = self._trials.original_score

    def run(self) -> Found:
        """Search pass by pass, in the order of the list."""
        module, complete = self._module.clone(), True
        searched = [step for step in self._passes if isinstance(step, Approximation)]
        for index, step in enumerate(self._passes):
            if isinstance(step, Approximation) and complete:
                share = (searched.index(step) + 1) / len(searched)
                try:
                    _PassSearch(self, index, module, share).run()
                except _OutOfTimeError:
                    complete = False
            apply_pass(module, self._passes[index])
        return Found(
            tuple(self._passes),
            tuple(self._decisions),
            tuple(self._points),
            complete,
            self._elapsed(),
        )

    def _identity(self, metric: Metric) -> dict[str, object]:
        return {
            "model": module_digest(self._module),
            "data": self._data.digest(),
            "passes": ",".join(map(str, self._passes)),
            "metric": metric.name,
            "mode": self._settings.mode,
            "max_drop": self._settings.max_drop,
            "seed": self._settings.seed,
        }

    def _exact(self) -> tuple[Pass, ...]:
        return tuple(step for step in self._passes if not isinstance(step, Approximation))

    def _elapsed(self) -> float:
        return max(time.perf_counter() - self._started, self._trials.seconds)

    def _check_time(self) -> None:
        if self._elapsed() > self._settings.budget_seconds:
            raise _OutOfTimeError


class _PassSearch:
    """The search over the edits of one pass."""

    def __init__(self, search: Search, index: int, module: Module, share: float) -> None:
        self._search, self._index = search, index
        self._module = module
        step = search._passes[index]
        assert isinstance(step, Approximation)
        self._step = step
        drop = 0.0 if search._settings.mode == "accuracy" else search._settings.max_drop * share
        self._least_score = search._trials.original_score - drop
        self._taken: set[str] = set()
        self._cost = self._cost_of(self._variant(step))

    def run(self) -> None:
        """Level by level."""
        calibration = _Calibration([item.inputs for item in self._search._data.searched])
        edits = self._step.edits(self._module.clone(), calibration)
        self._search._trials.runner.rebase(self._variant(self._step))
        for level, edits_of_level in itertools.groupby(edits, key=lambda edit: edit.level):
            self._level = self._step.levels[level]
            chosen = list(edits_of_level)
            self._search._trials.runner.prepare(variant for _, variant, _ in self._variants(chosen))
            if self._search._settings.mode == "accuracy":
                self._in_order(chosen)
            else:
                self._cheapest_first(chosen)

    def _in_order(self, edits: Sequence[Edit]) -> None:
        """AxFormer's rule: keep what leaves the loss no greater, in the order given."""
        for edit in edits:
            for _, variant, step in self._variants([edit]):
                limit = Limit(self._least_score, self._search._loss)
                outcome = self._try(edit, variant, step, limit)
                kept = (
                    outcome.score is not None
                    and outcome.score >= self._least_score
                    and outcome.loss <= self._search._loss
                )
                self._decide(edit, variant, step, outcome, kept)

    def _cheapest_first(self, edits: Sequence[Edit]) -> None:
        """Keep the edit of least harm for what it saves, again and again.

        What an edit was worth before others were kept stands for what it is worth now, until it
        comes to the front; then it is tried anew (lazy greedy search).
        """
        heap: list[tuple[float, int, int]] = []
        rounds = 0
        for edit, variant, step in self._variants(edits):
            outcome = self._try(edit, variant, step, Limit(self._least_score))
            if outcome.score is not None and outcome.score >= self._least_score:
                heap.append((self._harm(outcome, variant), edits.index(edit), rounds))
            else:
                self._decide(edit, variant, step, outcome, kept=False)
        heapq.heapify(heap)
        while heap:
            _, number, tried_in = heapq.heappop(heap)
            for edit, variant, step in self._variants([edits[number]]):
                outcome = self._try(edit, variant, step, Limit(self._least_score))
                if outcome.score is None or outcome.score < self._least_score:
                    self._decide(edit, variant, step, outcome, kept=False)
                    continue
                harm = self._harm(outcome, variant)
                if tried_in != rounds and heap and harm > heap[0][0]:
                    heapq.heappush(heap, (harm, number, rounds))
                    continue
                self._decide(edit, variant, step, outcome, kept=True)
                rounds += 1

    def _harm(self, outcome: Outcome, variant: Module) -> float:
        saved = max(self._cost - self._cost_of(variant), 1e-9 * self._cost)
        harm = outcome.loss - self._search._loss
        return harm / saved if harm > 0 else harm * saved

    def _cost_of(self, module: Module) -> float:
        """What the mode saves: weights, or operations where they stand for time in an order."""
        if self._search._settings.mode == "size":
            return float(num_parameters(module))
        flops, _ = graph_cost(module).at(self._search._sizes)
        return flops

    def _variants(self, edits: Sequence[Edit]) -> Iterator[tuple[Edit, Module, Approximation]]:
        """The edits that still apply, with the module and the pass that each makes."""
        for edit in edits:
            if edit.place and edit.place in self._taken:
                continue
            options = edit.change(self._step.options)
            if options is not None:
                step = type(self._step)(options)
                yield edit, self._variant(step), step

    def _variant(self, step: Pass) -> Module:
        variant = self._module.clone()
        apply_pass(variant, step)
        return variant

    def _try(self, edit: Edit, variant: Module, step: Pass, limit: Limit) -> Outcome:
        search = self._search
        search._check_time()
        search._report(
            int(search._elapsed()),
            int(search._settings.budget_seconds),
            f"{step.name} {edit.name}; so far {search._score:.4f} with "
            f"{len(search._points) - 1} edits",
        )
        kept = ",".join(map(str, search._passes[: self._index]))
        tried = f"{kept},{step} at {limit.score:.9g} {limit.loss}"
        return search._trials.judge(variant, tried, limit)

    def _decide(
        self, edit: Edit, variant: Module, step: Approximation, outcome: Outcome, kept: bool
    ) -> None:
        search = self._search
        search._decisions.append(
            Decision(
                step.name,
                self._level,
                edit.name,
                kept,
                outcome.score,
                outcome.loss,
                outcome.seconds,
            )
        )
        if not kept or outcome.score is None:
            return
        self._step = step
        search._passes[self._index] = step
        search._loss = outcome.loss
        search._score = outcome.score
        self._cost = self._cost_of(variant)
        if edit.place:
            self._taken.add(edit.place)
        search._trials.runner.rebase(variant)
        name = f"{step.name} {edit.name}"
        search._points.append(Point(name, tuple(search._passes), outcome.score))
