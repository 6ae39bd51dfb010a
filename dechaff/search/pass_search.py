"""The search over the edits of one pass: which way suits them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dechaff.ir import Module
from dechaff.passes import Edit, Pass

from .choice_search import ChoiceSearch
from .edit_trials import EditTrials, Variant
from .savings import NOTHING, Savings, Serve, share_of_time_saved
from .trials import Limit
from .upgrades import place_of


class PassSearch:
    """The search over the edits of one pass."""

    def __init__(self, trials: EditTrials, serve: Serve) -> None:
        """Make ready.

        Args:
            trials: makes variants of the pass and tries them.
            serve: makes of a module that the pass has made the one to be served.
        """
        self._trials, self._serve = trials, serve
        self._state = trials.state
        self._served: Module | None = None
        last = [step for step in self._state.passes if step.runs_last]
        self._savings = Savings(trials.start, self._state.sizes, self._state.settings.mode, last)

    def run(self) -> None:
        """Try all edits.

        Raises:
            OutOfTimeError: the budget is spent; what was kept until then is kept.
        """
        edits = self._trials.edits()
        if len({place_of(edit) for edit in edits}) == 1:
            self._keep_first_allowed(edits)
            return
        mode = self._state.settings.mode
        if mode != "size":
            self._measure(edits)
        if mode == "accuracy":
            self._keep_what_does_not_hurt([e for e in edits if not self._savings.saves(e.kind)])
        useful = [edit for edit in edits if self._savings.saves(edit.kind)]
        ChoiceSearch(self._trials, useful, self._savings).run()

    def _prepare(self, edits: Sequence[Edit]) -> None:
        """Let the runner keep the values from which these edits' variants go on."""
        runner = self._state.trials.runner
        runner.rebase(self._trials.start)
        variants = (self._trials.variant([edit]) for edit in edits)
        runner.prepare(made[0] for made in variants if made is not None)

    def _measure(self, edits: Sequence[Edit]) -> None:
        """Measure the time that each kind of edit saves, all edits of the kind together."""
        for kind in dict.fromkeys(edit.kind for edit in edits if edit.kind):
            options, places = self._trials.step.options, set[str]()
            for edit in (edit for edit in edits if edit.kind == kind):
                if edit.place not in places:
                    options = edit.change(options) or options
                places.add(place_of(edit))
            step = type(self._trials.step)(options)
            self._state.next_trial(f"{self._trials.step.name}, time of {kind}")
            variant = self._trials.apply(step)
            self._savings.measured(kind, variant, self._share(variant, step))

    def _share(self, variant: Module, step: Pass) -> float:
        """The share of the time that a variant saves of the module that the search began with."""

        def measure() -> float:
            inputs = [item.inputs for item in self._state.trials.data]
            if self._served is None:
                self._served = self._serve(self._trials.start)
            variant_served = self._serve(variant)
            return share_of_time_saved(self._served, variant_served, inputs, self._state.session)

        return self._state.measured(f"{self._trials.before},{step}", measure)

    def _keep_what_does_not_hurt(self, edits: Sequence[Edit]) -> None:
        """Edits for the metric's sake alone: keep what leaves the loss no greater, in order."""
        self._prepare(edits)
        for edit in edits:
            made = self._trials.variant([edit])
            if made is None:
                continue
            limit = Limit(self._trials.allowed_drop, loss=self._state.loss)
            outcome = self._trials.judge(edit.name, made, limit)
            unharmed = outcome.loss <= self._state.loss
            kept = outcome.drop is not None and outcome.drop.mean <= self._trials.allowed_drop
            self._trials.decide(edit, made, outcome, kept and unharmed)
            if kept and unharmed:
                self._state.trials.runner.rebase(made[0])
            self._trials.first_options = self._trials.step.options

    def _keep_first_allowed(self, edits: Sequence[Edit]) -> None:
        """Alternatives, those that save most first: keep the first that the metric allows."""
        self._prepare(edits[:1])
        for edit in edits:
            made = self._trials.variant([edit])
            if made is None:
                continue
            outcome = self._trials.judge(edit.name, made, self._trials.limit)
            kept = self._trials.is_allowed(outcome) and self._is_faster(made)
            self._trials.decide(edit, made, outcome, kept)

    def _is_faster(self, made: Variant) -> bool:
        """Whether time is saved, where that is what is wanted: an exit costs time too."""
        if self._state.settings.mode == "size":
            return True
        variant, step = made
        share = self._share(variant, step)
        return math.isnan(share) or share > NOTHING
