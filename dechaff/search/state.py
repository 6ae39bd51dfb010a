"""How far a search has come: the passes so far, the trials, the time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping

from dechaff.backends import SessionSettings
from dechaff.passes import Pass
from dechaff.progress import ProgressFunction

from .journal import Outcome
from .result import Decision, Point
from .search_settings import SearchSettings
from .trials import Trials

_SHARE_TO_COMPARE = 0.6
"""Of what is left of the time, in each round of comparing edits and trying them together."""


class OutOfTimeError(Exception):
    """The budget is spent."""


@dataclasses.dataclass
class SearchState:
    """What the searches over the passes of one list share.

    Attributes:
        settings: what was asked for.
        trials: runs variants.
        sizes: sizes at which costs are compared, by symbol.
        session: threads, affinity and memory of what is run.
        measured: gives a share of time by what was measured, and what measures it: it is measured
            once, so that a search that goes on, or runs again, decides as it did.
        report: is told of the progress.
        passes: the list, with the options found so far.
        loss: loss of the module so far, on the searched part.
        score: its metric.
        decisions: what became of every edit.
        points: the original, and the module after each edit that was kept.
        complete: whether every edit was tried, so far.
        allowed_seconds: when the pass that is searched has to be done, of the time spent.
        started: when the search began, by ``time.perf_counter``.
    """

    settings: SearchSettings
    trials: Trials
    sizes: Mapping[str, float]
    session: SessionSettings | None
    measured: Callable[[str, Callable[[], float]], float]
    report: ProgressFunction
    passes: list[Pass]
    loss: float
    score: float
    decisions: list[Decision] = dataclasses.field(default_factory=list)
    points: list[Point] = dataclasses.field(default_factory=list)
    complete: bool = True
    allowed_seconds: float = 0.0
    _compared_seconds: float = 0.0
    started: float = dataclasses.field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Time spent, that of earlier runs of the same search included."""
        return max(time.perf_counter() - self.started, self.trials.seconds)

    def allow(self, share: float) -> bool:
        """Let the next pass be searched until this share of the budget is spent.

        Returns:
            Whether any of it is left.
        """
        self.allowed_seconds = share * self.settings.budget_seconds
        self.complete = self.complete and self.seconds < self.allowed_seconds
        return self.seconds < self.allowed_seconds

    def begin_round(self) -> None:
        """Let edits be compared by themselves from now on."""
        left = self.allowed_seconds - self.seconds
        self._compared_seconds = self.seconds + _SHARE_TO_COMPARE * left

    def has_time_to_compare(self) -> bool:
        """Whether to go on trying edits by themselves: some time is for trying them together."""
        has_time = self.seconds < self._compared_seconds
        self.complete = self.complete and has_time
        return has_time

    def next_trial(self, name: str) -> None:
        """Say what is tried next.

        Raises:
            OutOfTimeError: the time of this pass is spent.
        """
        if self.seconds > self.allowed_seconds:
            raise OutOfTimeError
        budget = self.settings.budget_seconds
        kept = len(self.points) - 1
        text = f"{name}; so far {self.score:.4f} with {kept} edits"
        self.report(int(self.seconds), int(budget), text)

    def keep(self, index: int, step: Pass, name: str, outcome: Outcome) -> None:
        """Let the pass at this place have these options from now on."""
        assert outcome.score is not None  # only what went to its end is kept
        self.passes[index] = step
        self.loss, self.score = outcome.loss, outcome.score
        point = Point(f"{step.name} {name}", tuple(self.passes), outcome.score, outcome.drop)
        self.points.append(point)
