"""The boldest choice of many edits that the metric allows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from dechaff.ir import Module
from dechaff.passes import Edit

from .edit_trials import EditTrials
from .journal import Outcome
from .savings import Savings
from .trials import Limit
from .upgrades import Worth, chosen, place_of, upgrades

_TAKEN_IN_A_ROUND = 2 / 3
"""Of the boldest choice that is allowed, before edits are compared anew beside what is taken."""


_SHARE_OF_LOSS = 0.1
"""What a loss counts beside the metric where both matter."""


class ChoiceSearch:
    """The search for a choice of edits, of which some may be alternatives to each other."""

    def __init__(self, trials: EditTrials, edits: Sequence[Edit], savings: Savings) -> None:
        """Make ready.

        Args:
            trials: makes variants and tries them.
            edits: those to choose from.
            savings: tells what they save.
        """
        self._trials, self._edits, self._savings = trials, edits, savings
        self._sampler = trials.state.trials.sampler
        self._best: list[Edit] = []
        self._saved: dict[str, float] = {}

    def run(self) -> None:
        """Rounds: edits are compared by themselves, then the boldest choice of them is searched.

        What edits do together is not what they do one by one. So each choice is tried, on all rows;
        and the next round compares what could be added to the better part of the last choice.
        """
        if not self._edits:
            return
        self._estimate()
        base: list[Edit] = []
        while True:
            steps = self._compare(base)
            count = self._boldest(base, steps)
            if not count:
                break
            base = chosen([*base, *steps[: math.ceil(_TAKEN_IN_A_ROUND * count)]])
        self._add_singly(steps)

    def _compare(self, base: Sequence[Edit]) -> list[Edit]:
        """Steps from a choice of edits to bolder ones; those of least harm for their saving first.

        Edits are tried on a sample of the rows, each kind in turns, and of each kind those first
        that seem the best bargains: when time runs out, no kind has been left out.
        """
        self._trials.state.begin_round()
        made = self._trials.variant(base)
        assert made is not None  # it was kept, or is nothing
        self._sampler.rebase(made[0])
        before = self._trials.judge("what was kept", made, Limit(math.inf), sampled=True)
        taken = {place_of(edit): self._saved[edit.name] for edit in base}
        candidates = [
            (edit, more)
            for edit in self._edits
            if (more := self._saved[edit.name] - taken.get(place_of(edit), 0.0)) > 0
        ]
        return upgrades(self._worths(_in_turns(candidates), base, self._used_up(before)))

    def _worths(
        self, candidates: Sequence[tuple[Edit, float]], base: Sequence[Edit], before: float
    ) -> Iterator[Worth]:
        """What each edit is worth beside the base, but for those that are surely not allowed."""
        for edit, saved in candidates:
            if not self._trials.state.has_time_to_compare():
                return
            made = self._trials.variant(chosen([*base, edit]))
            if made is None:
                continue
            outcome = self._trials.judge(edit.name, made, self._trials.limit, sampled=True)
            self._trials.decide(edit, made, outcome, kept=False)
            if outcome.drop is not None:
                yield Worth(edit, saved, self._used_up(outcome) - before)

    def _used_up(self, outcome: Outcome) -> float:
        """What a choice uses up of the drop that is allowed, as far as a sample can tell.

        That is how much it changes, and not which way: the drop itself is a few answers among some
        hundred, won or lost by chance. Its standard error says how many answers changed, that of
        the loss how far all of them moved; the latter grows with every part that goes, where the
        former jumps. The mean loss would not do: a block that goes makes a model less sure of
        itself, which lowers the cross-entropy of one that is too sure, whatever becomes of its
        answers. For accuracy, where it must be no greater, it decides between equals.
        """
        drop, state = outcome.drop, self._trials.state
        if drop is None:
            return 0.0
        changed = sum(error for error in (drop.error, outcome.error) if math.isfinite(error))
        more = outcome.loss - state.trials.original_loss
        return changed + (_SHARE_OF_LOSS * more if state.settings.mode == "accuracy" else 0.0)

    def _boldest(self, base: Sequence[Edit], steps: Sequence[Edit]) -> int:
        """How many of the steps the metric allows together, found by halving."""
        allowed, failed = 0, len(steps) + 1
        while failed - allowed > 1:
            middle = (allowed + failed) // 2
            if self._keep([*base, *steps[:middle]]):
                allowed = middle
            else:
                failed = middle
        return allowed

    def _add_singly(self, steps: Sequence[Edit]) -> None:
        """Add what can be added to the boldest choice, one step at a time."""
        hopeless = set[str]()
        for step in steps:
            if place_of(step) not in hopeless and not self._keep([*self._best, step]):
                hopeless.add(place_of(step))

    def _keep(self, steps: Sequence[Edit]) -> bool:
        """Try a choice of edits; keep it if it is allowed, and saves more than what was kept."""
        edits = chosen(steps)
        made = self._trials.variant(edits)
        if made is None:
            return False
        together = Edit(f"{len(edits)} edits, the last {steps[-1].name}", steps[-1].level, _same)
        outcome = self._trials.judge(together.name, made, self._trials.limit)
        allowed = self._trials.is_allowed(outcome)
        bolder = self._saving(edits) > self._saving(self._best)
        self._trials.decide(together, made, outcome, allowed and bolder)
        if allowed and bolder:
            self._best = edits
        return allowed

    def _saving(self, edits: Sequence[Edit]) -> float:
        return sum(self._saved[edit.name] for edit in edits)

    def _estimate(self) -> None:
        """What each edit saves by itself; let the sampler keep what their variants go on from."""
        self._sampler.rebase(self._trials.start)

        def variants() -> Iterator[Module]:
            for edit in self._edits:
                made = self._trials.variant([edit])
                self._saved[edit.name] = 0.0
                if made is not None:
                    saved = self._savings.of(edit.kind, made[0])
                    self._saved[edit.name] = saved
                    yield made[0]

        self._sampler.prepare(variants())


def _in_turns(candidates: Sequence[tuple[Edit, float]]) -> list[tuple[Edit, float]]:
    """Edits with what they save, the best bargain of each kind, then the second best of each."""
    kinds: dict[str, list[tuple[Edit, float]]] = {}
    for edit, saved in sorted(candidates, key=lambda pair: pair[0].harm / pair[1]):
        kinds.setdefault(edit.kind, []).append((edit, saved))
    turns = itertools.zip_longest(*kinds.values())
    return [candidate for turn in turns for candidate in turn if candidate is not None]


def _same(options: Any) -> Any:
    return options
