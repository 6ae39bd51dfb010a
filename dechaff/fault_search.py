"""Which pass, and which single rewrite within it, makes a model wrong; in logarithmic checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from dechaff.ir import DechaffError, Module, UsageError
from dechaff.passes import Pass, PassRecord, Rewrite, run_passes

from .judges import Judge


@dataclasses.dataclass(frozen=True)
class Fault:
    """The first rewrite after which a model is wrong.

    Attributes:
        culprit: the pass as written in a pass list, or the lowering.
        rewrite: the rewrite, or None if the fault is in no single one.
        number: which of the pass's rewrites it is, from 1; 0 if none.
        count: how many the pass applies; None if it fails before it ends.
        problem: what is wrong after it.
        checks: how many models were checked.
        before: the model before the rewrite, which is right.
        after: the model after it; None if the pass fails outright.
    """

    culprit: str
    rewrite: Rewrite | None
    number: int
    count: int | None
    problem: str
    checks: int
    before: Module
    after: Module | None

    def __str__(self) -> str:
        if self.rewrite is None:
            return self.culprit
        total = "" if self.count is None else f" of {self.count}"
        return f"{self.culprit}, rewrite {self.number}{total} ({rewrite_text(self.rewrite)})"


def rewrite_text(rewrite: Rewrite) -> str:
    """The rule, and the nodes of the imported graph that it replaced."""
    shown = ", ".join(rewrite.origins[:3])
    more = len(rewrite.origins) - 3
    return f"{rewrite.rule} at {shown or 'the graph'}{f' and {more} more' if more > 0 else ''}"


@dataclasses.dataclass(frozen=True, eq=False)
class _Stage:
    """A model on its way: after a pass, or after some of its rewrites."""

    module: Module | None
    record: PassRecord | None
    problem: str | None = None


class FaultSearch:
    """One search; looks at each model once."""

    def __init__(self, original: Module, passes: Sequence[Pass], judge: Judge) -> None:
        self._original = original
        self._passes = passes
        self._judge = judge
        self._verdicts: dict[_Stage, str | None] = {}

    def run(self) -> Fault | None:
        """The fault, or None if the model is right after all passes.

        Raises:
            UsageError: the check finds fault with the unchanged model too.
        """
        stages = self._stages()
        if len(stages) < 2 or self._problem(stages[-1]) is None:
            return None
        start = stages[0]
        problem = self._problem(start)
        if problem is not None:
            raise UsageError(f"the check fails on the unchanged model too: {problem}")
        index = _first_wrong(len(stages) - 1, lambda i: self._problem(stages[i]) is not None)
        before = stages[index - 1].module
        assert before is not None
        return self._within(self._passes[index - 1], before, stages[index])

    def _stages(self) -> list[_Stage]:
        """The model as it was, and after each pass, up to one that fails outright."""
        stages = [self._apply(self._original, [], None)]
        for step in self._passes:
            before = stages[-1].module
            if before is None:
                break
            stages.append(self._apply(before, [step], None))
        return stages

    def _apply(self, before: Module, steps: Sequence[Pass], limit: int | None) -> _Stage:
        try:
            module, records = run_passes(before.clone(), steps, limit=limit)
        except DechaffError as error:
            return _Stage(None, None, str(error).splitlines()[0])
        return _Stage(module, records[0] if records else None)

    def _problem(self, stage: _Stage) -> str | None:
        if stage.module is None:
            return stage.problem
        if stage not in self._verdicts:
            self._verdicts[stage] = self._judge.judge(stage.module)
        return self._verdicts[stage]

    def _within(self, step: Pass, before: Module, whole: _Stage) -> Fault:
        count = len(whole.record.rewrites) if whole.record is not None else None
        if count == 0:  # it edits past the rewriter: there is nothing to choose from
            return self._fault(step, before, whole, 0, count)
        stages = {count: whole} if count is not None else {}

        def stage(limit: int) -> _Stage:
            if limit not in stages:
                stages[limit] = self._apply(before, [step], limit)
            return stages[limit]

        def is_wrong(limit: int) -> bool:
            return self._problem(stage(limit)) is not None

        most = count if count is not None else _doubled(is_wrong)
        number = _first_wrong(most, is_wrong)
        right = before if number == 1 else stage(number - 1).module
        return self._fault(step, right or before, stage(number), number, count)

    def _fault(
        self, step: Pass, before: Module, wrong: _Stage, number: int, count: int | None
    ) -> Fault:
        record = wrong.record
        rewrite = record.rewrites[number - 1] if record is not None and number else None
        problem = self._problem(wrong) or ""
        return Fault(
            str(step), rewrite, number, count, problem, len(self._verdicts), before, wrong.module
        )


def _first_wrong(last: int, is_wrong: Callable[[int], bool]) -> int:
    """The first of 1..last that is wrong, if ``last`` is; 0 counts as right."""
    right, wrong = 0, last
    while wrong - right > 1:
        middle = (right + wrong) // 2
        if is_wrong(middle):
            wrong = middle
        else:
            right = middle
    return wrong


def _doubled(is_wrong: Callable[[int], bool]) -> int:
    """Some number that is wrong, found by doubling."""
    number = 1
    while not is_wrong(number):
        number *= 2
    return number


def find_fault(original: Module, passes: Sequence[Pass], judge: Judge) -> Fault | None:
    """The first rewrite after which the model is wrong; None if it is right after all passes.

    Passes are searched by halving, and then the rewrites of the pass found, which runs with a
    limit on how many it may apply.

    Args:
        original: the model before all passes; it is not changed.
        passes: the passes, in order.
        judge: decides whether a model is right.

    Raises:
        UsageError: the judge finds fault with the unchanged model too.
    """
    return FaultSearch(original, passes, judge).run()
