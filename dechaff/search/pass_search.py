"""The search over the edits of one pass, level by level."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from dechaff.backends import products_saturate
from dechaff.ir import Module
from dechaff.passes import Approximation, Edit, Pass, PassContext, apply_pass

from .journal import Outcome
from .result import Decision
from .savings import NOTHING, Savings, Serve, share_of_time_saved
from .searched_inputs import SearchedInputs
from .state import SearchState
from .trials import Limit
from .upgrades import Worth, chosen, upgrades

_Variant = tuple[Module, Approximation]
"""The module that an edit makes, and the pass that makes it."""


class PassSearch:
    """The search over the edits of one pass."""

    def __init__(
        self,
        state: SearchState,
        index: int,
        module: Module,
        least_score: float,
        inputs: SearchedInputs,
        serve: Serve,
    ) -> None:
        """Make ready.

        Args:
            state: what is known so far; it is updated.
            index: where the pass stands in the list.
            module: the module before the pass; it is not changed.
            least_score: what the metric must not fall below.
            inputs: what the pass may look at.
            serve: makes of a module that the pass has made the one to be served.
        """
        self._state, self._index, self._module = state, index, module
        step = state.passes[index]
        assert isinstance(step, Approximation)  # the caller has looked
        self._step = step
        self._first_options = step.options
        self._least_score = least_score
        self._inputs, self._serve = inputs, serve
        self._context = PassContext(inputs, products_saturate())
        self._taken: set[str] = set()
        self._start = module.clone() if step.is_idle else self._apply(step)
        self._served: Module | None = None
        self._savings = Savings(self._start, state.sizes, state.settings.mode)
        state.trials.runner.rebase(self._start)

    def run(self) -> None:
        """Try all edits.

        Raises:
            OutOfTimeError: the budget is spent; what was kept until then is kept.
        """
        edits = list(self._step.edits(self._module.clone(), self._inputs))
        if len({edit.place or edit.name for edit in edits}) == 1:
            self._prepare(edits[:1])
            self._keep_first_allowed(edits)
            return
        self._prepare(edits)
        mode = self._state.settings.mode
        if mode != "size":
            self._measure(edits)
        if mode == "accuracy":
            self._keep_what_does_not_hurt([e for e in edits if not self._savings.saves(e.kind)])
        self._keep_boldest([edit for edit in edits if self._savings.saves(edit.kind)])

    def _prepare(self, edits: Sequence[Edit]) -> None:
        """Let the runner keep the values from which these edits' variants go on."""
        variants = (self._variant([edit]) for edit in edits)
        self._state.trials.runner.prepare(made[0] for made in variants if made is not None)

    def _measure(self, edits: Sequence[Edit]) -> None:
        """Measure the time that each kind of edit saves, all edits of the kind together."""
        for kind in dict.fromkeys(edit.kind for edit in edits if edit.kind):
            options, places = self._step.options, set[str]()
            for edit in (edit for edit in edits if edit.kind == kind):
                if edit.place not in places:
                    options = edit.change(options) or options
                places.add(edit.place or edit.name)
            step = type(self._step)(options)
            self._state.next_trial(f"{self._step.name}, time of {kind}")
            variant = self._apply(step)
            self._savings.measured(kind, self._start, variant, self._share(variant, step))

    def _share(self, variant: Module, step: Pass) -> float:
        """The share of the time that a variant saves of the module that the search began with."""

        def measure() -> float:
            inputs = [item.inputs for item in self._state.trials.data]
            if self._served is None:
                self._served = self._serve(self._start)
            variant_served = self._serve(variant)
            return share_of_time_saved(self._served, variant_served, inputs, self._state.session)

        return self._state.measured(f"{self._before()},{step}", measure)

    def _keep_what_does_not_hurt(self, edits: Sequence[Edit]) -> None:
        """Edits for the metric's sake alone: keep what leaves the loss no greater, in order."""
        for edit in edits:
            made = self._variant([edit])
            if made is None:
                continue
            outcome = self._try(edit.name, made, Limit(self._least_score, self._state.loss))
            kept = outcome.score is not None and outcome.score >= self._least_score
            self._decide(edit, made, outcome, kept and outcome.loss <= self._state.loss)
            self._first_options = self._step.options

    def _keep_first_allowed(self, edits: Sequence[Edit]) -> None:
        """Alternatives, those that save most first: keep the first that the metric allows."""
        for edit in edits:
            made = self._variant([edit])
            if made is None:
                continue
            outcome = self._try(edit.name, made, Limit(self._least_score))
            kept = self._is_allowed(outcome) and self._is_faster(made)
            self._decide(edit, made, outcome, kept)

    def _is_faster(self, made: _Variant) -> bool:
        """Whether time is saved, where that is what is wanted: an exit costs time too."""
        if self._state.settings.mode == "size":
            return True
        variant, step = made
        share = self._share(variant, step)
        return math.isnan(share) or share > NOTHING

    def _keep_boldest(self, edits: Sequence[Edit]) -> None:
        """Try each edit by itself; then choices of them, the boldest that the metric allows.

        What edits do together is not what they do one by one, so each choice is tried. The boldest
        is found by halving, then further edits are added to it one at a time.
        """
        steps = upgrades(self._worths(edits))
        kept, failed = 0, len(steps) + 1
        while failed - kept > 1:
            middle = (kept + failed) // 2
            if self._keep(steps[:middle]):
                kept = middle
            else:
                failed = middle
        best, hopeless = list(steps[:kept]), set[str]()
        for step in steps[kept:]:
            place = step.place or step.name
            if place in hopeless:
                continue
            if self._keep([*best, step]):
                best.append(step)
            else:
                hopeless.add(place)

    def _worths(self, edits: Sequence[Edit]) -> Iterator[Worth]:
        """What each edit is worth by itself, but for those that are not allowed by themselves."""
        for edit in edits:
            if not self._state.has_time_to_compare():
                return
            made = self._variant([edit])
            if made is None:
                continue
            outcome = self._try(edit.name, made, Limit(self._least_score))
            self._decide(edit, made, outcome, kept=False)
            if outcome.score is not None and outcome.score >= self._least_score:
                saved = self._savings.of(edit.kind, self._start, made[0])
                yield Worth(edit, saved, outcome.loss - self._state.loss)

    def _keep(self, steps: Sequence[Edit]) -> bool:
        """Try a choice of edits, and keep it if it is allowed."""
        edits = chosen(steps)
        made = self._variant(edits)
        if made is None:
            return False
        together = Edit(f"{len(edits)} edits, the last {steps[-1].name}", steps[-1].level, _same)
        outcome = self._try(together.name, made, Limit(self._least_score))
        allowed = self._is_allowed(outcome)
        self._decide(together, made, outcome, allowed)
        return allowed

    def _is_allowed(self, outcome: Outcome) -> bool:
        """Whether the metric allows it; for accuracy the loss too must be no greater, surely.

        What earlier edits gained may be spent then, but for a standard error.
        """
        if outcome.score is None or outcome.score < self._least_score:
            return False
        bound = self._state.trials.original_loss - outcome.error
        return self._state.settings.mode != "accuracy" or outcome.loss <= bound

    def _before(self) -> str:
        return ",".join(map(str, self._state.passes[: self._index]))

    def _variant(self, edits: Sequence[Edit]) -> _Variant | None:
        """What edits make of the options the search began with; None if one does not apply."""
        options = self._first_options
        for edit in edits:
            if edit.place and edit.place in self._taken:
                return None
            options = edit.change(options)
            if options is None:
                return None
        step = type(self._step)(options)
        return self._apply(step), step

    def _apply(self, step: Pass) -> Module:
        variant = self._module.clone()
        apply_pass(variant, step, context=self._context)
        return variant

    def _try(self, name: str, made: _Variant, limit: Limit) -> Outcome:
        variant, step = made
        self._state.next_trial(f"{step.name} {name}")
        tried = f"{self._before()},{step} at {limit.score:.9g} {limit.loss}"
        return self._state.trials.judge(variant, tried, limit)

    def _decide(self, edit: Edit, made: _Variant, outcome: Outcome, kept: bool) -> None:
        variant, step = made
        self._state.decisions.append(
            Decision(
                pass_name=step.name,
                level=step.levels[edit.level],
                edit=edit.name,
                kept=kept,
                score=outcome.score,
                loss=outcome.loss,
                seconds=outcome.seconds,
            )
        )
        if not kept or outcome.score is None:
            return
        self._step = step
        if edit.place:
            self._taken.add(edit.place)
        self._state.keep(self._index, step, edit.name, outcome.loss, outcome.score)
        self._state.trials.runner.rebase(variant)


def _same(options: Any) -> Any:
    return options
