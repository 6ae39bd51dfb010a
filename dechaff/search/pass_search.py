"""The search over the edits of one pass, level by level."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence

from dechaff.arrays import Array, Arrays
from dechaff.ir import Module, graph_cost, num_parameters
from dechaff.passes import Approximation, Edit, Pass, apply_pass
from dechaff.probing import fetch_values_of_batches

from .journal import Outcome
from .result import Decision
from .state import SearchState
from .trials import Limit

_Variant = tuple[Module, Approximation]
"""The module that an edit makes, and the pass that makes it."""


class SearchedInputs:
    """The searched batches, for passes that look at data."""

    def __init__(self, inputs: Sequence[Arrays]) -> None:
        self._inputs = inputs

    @property
    def inputs(self) -> Sequence[Arrays]:
        """Batches of graph inputs by name."""
        return self._inputs

    def values(self, module: Module, names: Sequence[str]) -> Iterator[dict[str, Array]]:
        """What values of the module hold on each batch, by name."""
        return fetch_values_of_batches(module, names, self._inputs)


class PassSearch:
    """The search over the edits of one pass."""

    def __init__(self, state: SearchState, index: int, module: Module, least_score: float) -> None:
        """Make ready.

        Args:
            state: what is known so far; it is updated.
            index: where the pass stands in the list.
            module: the module before the pass; it is not changed.
            least_score: what the metric must not fall below.
        """
        self._state, self._index, self._module = state, index, module
        step = state.passes[index]
        assert isinstance(step, Approximation)  # the caller has looked
        self._step = step
        self._least_score = least_score
        self._taken: set[str] = set()
        self._level = ""
        base = self._apply(step)
        self._cost = self._cost_of(base)
        state.trials.runner.rebase(base)

    def run(self, calibration: SearchedInputs) -> None:
        """Try all edits.

        Raises:
            OutOfTimeError: the budget is spent; what was kept until then is kept.
        """
        edits = self._step.edits(self._module.clone(), calibration)
        for level, group in itertools.groupby(edits, key=lambda edit: edit.level):
            self._level = self._step.levels[level]
            chosen = list(group)
            variants = (self._variant(edit) for edit in chosen)
            self._state.trials.runner.prepare(made[0] for made in variants if made is not None)
            if self._state.settings.mode == "accuracy":
                self._keep_what_does_not_hurt(chosen)
            elif len({edit.place or edit.name for edit in chosen}) == 1:
                self._keep_first_allowed(chosen)
            else:
                self._keep_cheapest_first(chosen)

    def _keep_what_does_not_hurt(self, edits: Sequence[Edit]) -> None:
        """AxFormer's rule: keep what leaves the loss no greater, in the order given."""
        for edit in edits:
            made = self._variant(edit)
            if made is None:
                continue
            outcome = self._try(edit, made, Limit(self._least_score, self._state.loss))
            kept = self._is_allowed(outcome) and outcome.loss <= self._state.loss
            self._decide(edit, made, outcome, kept)

    def _keep_first_allowed(self, edits: Sequence[Edit]) -> None:
        """Alternatives, those that save most first: keep the first that the metric allows."""
        for edit in edits:
            made = self._variant(edit)
            if made is None:
                continue
            outcome = self._try(edit, made, Limit(self._least_score))
            self._decide(edit, made, outcome, self._is_allowed(outcome))

    def _keep_cheapest_first(self, edits: Sequence[Edit]) -> None:
        """Keep the edit of least harm for what it saves, again and again.

        What an edit was worth before others were kept stands for what it is worth now, until it
        comes to the front; then it is tried anew (lazy greedy search).
        """
        heap = list(self._first_worths(edits))
        heapq.heapify(heap)
        kept_edits = 0
        while heap:
            _, number, tried_after = heapq.heappop(heap)
            made = self._variant(edits[number])
            if made is None:
                continue
            outcome = self._try(edits[number], made, Limit(self._least_score))
            allowed = self._is_allowed(outcome)
            harm = self._harm(outcome, made[0]) if allowed else 0.0
            if allowed and tried_after != kept_edits and heap and harm > heap[0][0]:
                heapq.heappush(heap, (harm, number, kept_edits))
                continue
            self._decide(edits[number], made, outcome, allowed)
            kept_edits += allowed

    def _first_worths(self, edits: Sequence[Edit]) -> Iterator[tuple[float, int, int]]:
        """Harm, number and 0 of each edit that is allowed by itself."""
        for number, edit in enumerate(edits):
            made = self._variant(edit)
            if made is None:
                continue
            outcome = self._try(edit, made, Limit(self._least_score))
            if self._is_allowed(outcome):
                yield self._harm(outcome, made[0]), number, 0
            else:
                self._decide(edit, made, outcome, kept=False)

    def _is_allowed(self, outcome: Outcome) -> bool:
        return outcome.score is not None and outcome.score >= self._least_score

    def _harm(self, outcome: Outcome, variant: Module) -> float:
        """Loss for what is saved; an edit that lowers the loss comes first if it saves much."""
        saved = max(self._cost - self._cost_of(variant), 1e-9 * self._cost)
        harm = outcome.loss - self._state.loss
        return harm / saved if harm > 0 else harm * saved

    def _cost_of(self, module: Module) -> float:
        """What the mode saves: weights, or operations, which stand for time in an order only."""
        if self._state.settings.mode == "size":
            return float(num_parameters(module))
        flops, _ = graph_cost(module).at(self._state.sizes)
        return flops

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
        apply_pass(variant, step)
        return variant

    def _try(self, edit: Edit, made: _Variant, limit: Limit) -> Outcome:
        variant, step = made
        self._state.next_trial(f"{step.name} {edit.name}")
        before = ",".join(map(str, self._state.passes[: self._index]))
        tried = f"{before},{step} at {limit.score:.9g} {limit.loss}"
        return self._state.trials.judge(variant, tried, limit)

    def _decide(self, edit: Edit, made: _Variant, outcome: Outcome, kept: bool) -> None:
        variant, step = made
        self._state.decisions.append(
            Decision(
                pass_name=step.name,
                level=self._level,
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
        self._cost = self._cost_of(variant)
        if edit.place:
            self._taken.add(edit.place)
        self._state.keep(self._index, step, edit.name, outcome.loss, outcome.score)
        self._state.trials.runner.rebase(variant)
