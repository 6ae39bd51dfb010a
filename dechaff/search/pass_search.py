"""The search over the edits of one pass, level by level."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence

from dechaff.backends import products_saturate
from dechaff.ir import Module
from dechaff.passes import Approximation, Edit, Pass, PassContext, apply_pass

from .journal import Outcome
from .result import Decision
from .savings import NOTHING, Savings, Serve, share_of_time_saved
from .searched_inputs import SearchedInputs
from .state import SearchState
from .trials import Limit

_Variant = tuple[Module, Approximation]
"""The module that an edit makes, and the pass that makes it."""
_LEAST_SAVED = 1e-9
_STALE = -1
"""In place of how many edits were kept when an edit was tried: it is to be tried again."""


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
        self._least_score = least_score
        self._inputs, self._serve = inputs, serve
        self._context = PassContext(inputs, products_saturate())
        self._taken: set[str] = set()
        self._start = module.clone() if step.is_idle else self._apply(step)
        self._base = self._start
        self._served: Module | None = None
        self._savings = Savings(self._start, state.sizes, state.settings.mode)
        state.trials.runner.rebase(self._base)

    def run(self) -> None:
        """Try all edits.

        Raises:
            OutOfTimeError: the budget is spent; what was kept until then is kept.
        """
        edits = list(self._step.edits(self._module.clone(), self._inputs))
        self._prepare(edits)
        if self._state.settings.mode == "accuracy":
            for _, level in itertools.groupby(edits, key=lambda edit: edit.level):
                self._keep_what_does_not_hurt(list(level))
        if len({edit.place or edit.name for edit in edits}) == 1:
            self._keep_first_allowed(edits)
            return
        if self._state.settings.mode != "size":
            self._measure(edits)
        self._keep_cheapest_first([edit for edit in edits if self._savings.saves(edit.kind)])

    def _prepare(self, edits: Sequence[Edit]) -> None:
        """Let the runner keep the values from which these edits' variants go on."""
        variants = (self._variant(edit) for edit in edits)
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
            self._savings.measured(kind, self._base, variant, self._share(variant, step))

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
        """AxFormer's rule: keep what leaves the loss no greater, in the order given."""
        for edit in edits:
            kept = True
            while kept and (made := self._variant(edit)) is not None:
                outcome = self._try(edit, made, Limit(self._least_score, self._state.loss))
                kept = outcome.score is not None and outcome.score >= self._least_score
                kept = kept and outcome.loss <= self._state.loss
                self._decide(edit, made, outcome, kept)
                kept = kept and edit.repeats

    def _keep_first_allowed(self, edits: Sequence[Edit]) -> None:
        """Alternatives, those that save most first: keep the first that the metric allows."""
        for edit in edits:
            made = self._variant(edit)
            if made is None:
                continue
            outcome = self._try(edit, made, Limit(self._least_score))
            kept = self._is_allowed(outcome) and self._is_faster(made)
            self._decide(edit, made, outcome, kept)

    def _is_faster(self, made: _Variant) -> bool:
        """Whether time is saved, where that is what is wanted: an exit costs time too."""
        if self._state.settings.mode == "size":
            return True
        variant, step = made
        return self._share(variant, step) > NOTHING

    def _keep_cheapest_first(self, edits: Sequence[Edit]) -> None:
        """Keep the edit of least harm for what it saves, again and again.

        What an edit was worth before others were kept stands for what it is worth now, until it
        comes to the front; then it is tried anew (lazy greedy search), and that trial ends as soon
        as the edit is surely worse than the next one was.
        """
        heap = list(self._first_worths(edits))
        heapq.heapify(heap)
        kept_edits = 0
        while heap:
            _, number, tried_after = heapq.heappop(heap)
            edit = edits[number]
            made = self._variant(edit)
            if made is None:
                continue
            saved = self._saved(edit, made[0])
            is_new = tried_after == kept_edits
            most = None if is_new or not heap else self._state.loss + _loss(heap[0][0], saved)
            outcome = self._try(edit, made, Limit(self._least_score, most))
            harm = _harm(outcome.loss - self._state.loss, saved)
            if outcome.score is None and most is not None and outcome.loss > most:
                heapq.heappush(heap, (harm, number, _STALE))
                continue
            allowed = self._is_allowed(outcome)
            if allowed and not is_new and heap and harm > heap[0][0]:
                heapq.heappush(heap, (harm, number, kept_edits))
                continue
            self._decide(edit, made, outcome, allowed)
            kept_edits += allowed
            if allowed and edit.repeats:
                heapq.heappush(heap, (harm, number, _STALE))

    def _first_worths(self, edits: Sequence[Edit]) -> Iterator[tuple[float, int, int]]:
        """Harm, number and 0 of each edit that is allowed by itself."""
        for number, edit in enumerate(edits):
            made = self._variant(edit)
            if made is None:
                continue
            outcome = self._try(edit, made, Limit(self._least_score))
            if self._is_allowed(outcome):
                harm = _harm(outcome.loss - self._state.loss, self._saved(edit, made[0]))
                yield harm, number, 0
            else:
                self._decide(edit, made, outcome, kept=False)

    def _is_allowed(self, outcome: Outcome) -> bool:
        """Whether the metric allows it; for accuracy the loss too must be no greater, surely.

        What earlier edits gained may be spent then, but for a standard error.
        """
        if outcome.score is None or outcome.score < self._least_score:
            return False
        bound = self._state.trials.original_loss - outcome.error
        return self._state.settings.mode != "accuracy" or outcome.loss <= bound

    def _saved(self, edit: Edit, variant: Module) -> float:
        return max(self._savings.of(edit.kind, self._base, variant), _LEAST_SAVED)

    def _before(self) -> str:
        return ",".join(map(str, self._state.passes[: self._index]))

    def _variant(self, edit: Edit) -> _Variant | None:
        """What an edit makes of the options so far; None if it no longer applies."""
        if edit.place and edit.place in self._taken:
            return None
        options = edit.change(self._step.options)
        if options is None:
            return None
        step = type(self._step)(options)
        return self._apply(step), step

    def _apply(self, step: Pass) -> Module:
        variant = self._module.clone()
        apply_pass(variant, step, context=self._context)
        return variant

    def _try(self, edit: Edit, made: _Variant, limit: Limit) -> Outcome:
        variant, step = made
        self._state.next_trial(f"{step.name} {edit.name}")
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
        self._base = variant
        if edit.place:
            self._taken.add(edit.place)
        self._state.keep(self._index, step, edit.name, outcome.loss, outcome.score)
        self._state.trials.runner.rebase(variant)


def _harm(loss: float, saved: float) -> float:
    """Loss for what is saved; an edit that lowers the loss comes first if it saves much."""
    return loss / saved if loss > 0 else loss * saved


def _loss(harm: float, saved: float) -> float:
    """The loss with which an edit does this harm."""
    return harm * saved if harm > 0 else harm / saved
