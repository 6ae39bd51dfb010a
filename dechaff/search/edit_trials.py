"""Edits of one pass as modules, tried, judged and written down."""

from __future__ import annotations

from collections.abc import Sequence

from dechaff.backends import products_saturate
from dechaff.ir import Module
from dechaff.passes import Approximation, Edit, Pass, PassContext, apply_pass

from .journal import Outcome
from .result import ROUNDING, Decision
from .searched_inputs import SearchedInputs
from .state import SearchState
from .trials import Limit

Variant = tuple[Module, Approximation]
"""The module that an edit makes, and the pass that makes it."""


class EditTrials:
    """What the ways to search over the edits of one pass have in common.

    Attributes:
        state: what is known so far; it is updated.
        step: the pass with the options found so far.
        start: the module with the pass as the search began.
        first_options: the options that edits are made of.
        allowed_drop: how far the metric may fall.
    """

    def __init__(
        self,
        state: SearchState,
        index: int,
        module: Module,
        allowed_drop: float,
        inputs: SearchedInputs,
    ) -> None:
        """Make ready.

        Args:
            state: what is known so far.
            index: where the pass stands in the list.
            module: the module before the pass; it is not changed.
            allowed_drop: how far the metric may fall.
            inputs: what the pass may look at.
        """
        self.state, self._index, self._module = state, index, module
        step = state.passes[index]
        assert isinstance(step, Approximation)  # the caller has looked
        self.step = step
        self.first_options = step.options
        self.allowed_drop = allowed_drop
        self._inputs = inputs
        self._context = PassContext(inputs, products_saturate())
        self._taken: set[str] = set()
        self.start = module.clone() if step.is_idle else self.apply(step)

    def edits(self) -> Sequence[Edit]:
        """All edits that the pass proposes."""
        return list(self.step.edits(self._module.clone(), self._inputs))

    @property
    def limit(self) -> Limit:
        """What a variant must keep to."""
        if self.state.settings.mode == "accuracy":
            return Limit(self.allowed_drop)
        return Limit(self.allowed_drop, self.state.settings.margin)

    def is_allowed(self, outcome: Outcome) -> bool:
        """Whether the metric allows it, with the margin on the drop.

        For accuracy neither the metric nor the loss, which tells more, may be worse in the mean:
        what does no harm could not be shown to be better. What earlier edits gained may be spent.
        """
        if outcome.drop is None:
            return False
        allowed = self.allowed_drop + ROUNDING
        if self.state.settings.mode == "accuracy":
            no_loss = outcome.loss <= self.state.trials.original_loss + ROUNDING
            return no_loss and outcome.drop.mean <= allowed
        return outcome.drop.at_most(self.state.settings.margin) <= allowed

    @property
    def before(self) -> str:
        """The passes before, as a pass list."""
        return ",".join(map(str, self.state.passes[: self._index]))

    def variant(self, edits: Sequence[Edit]) -> Variant | None:
        """What edits make of the options the search began with; None if one does not apply."""
        options = self.first_options
        for edit in edits:
            if edit.place and edit.place in self._taken:
                return None
            options = edit.change(options)
            if options is None:
                return None
        step = type(self.step)(options)
        return self.apply(step), step

    def apply(self, step: Pass) -> Module:
        """The module that a pass makes of the one before it."""
        variant = self._module.clone()
        apply_pass(variant, step, context=self._context)
        return variant

    def judge(self, name: str, made: Variant, limit: Limit, *, sampled: bool = False) -> Outcome:
        """What a variant is worth; the limit is that of the metric if none is given."""
        variant, step = made
        self.state.next_trial(f"{step.name} {name}")
        tried = f"{self.before},{step}"
        return self.state.trials.judge(variant, tried, limit, sampled=sampled)

    def decide(self, edit: Edit, made: Variant, outcome: Outcome, kept: bool) -> None:
        """Write down what became of an edit, and keep it if it is to be kept."""
        _, step = made
        self.state.decisions.append(
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
        self.step = step
        if edit.place:
            self._taken.add(edit.place)
        self.state.keep(self._index, step, edit.name, outcome)
