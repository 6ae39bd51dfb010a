"""What edits save: time, measured once for each kind of edit, and weights."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from dechaff.arrays import Arrays
from dechaff.backends import Session, SessionSettings
from dechaff.ir import Module, graph_cost, num_parameters
from dechaff.passes import Pass, apply_pass

_ROUNDS = 7
_BATCHES = 3
NOTHING = 0.004
"""A share of the time below which nothing is saved that could be told from noise."""

_LEAST_SECONDS = 1e-3

Serve = Callable[[Module], Module]
"""Makes the module that would be served of one that a pass has made."""


_WORTH_OF_WEIGHTS = 0.1
"""What a share of the weights counts beside a share of the time, where that is wanted."""


class Savings:
    """What is saved of the module that the search began with, as a share of it.

    Where time is wanted, weights count a little: of two choices as fast, the smaller is better, and
    what costs no time may go when all else is done.
    """

    def __init__(
        self, start: Module, sizes: Mapping[str, float], mode: str, last: Sequence[Pass] = ()
    ) -> None:
        """Make ready.

        Args:
            start: the module before any edit of the pass.
            sizes: sizes at which operations are counted, by symbol.
            mode: ``size`` counts weights alone.
            last: exact passes behind all others, which take out operations that need not be done.
        """
        self._sizes, self._last = sizes, last
        self._by_size = mode == "size"
        self._operations = 1.0 if self._by_size else max(1.0, self._count(start))
        self._weights = max(1, num_parameters(start))
        self._rates: dict[str, float] = {}

    def _count(self, module: Module) -> float:
        done = module.clone() if self._last else module
        for step in self._last:
            apply_pass(done, step)
        flops, _ = graph_cost(done).at(self._sizes)
        return flops

    def _fewer_operations(self, variant: Module) -> float:
        return 1 - self._count(variant) / self._operations

    def of(self, kind: str, variant: Module) -> float:
        """What an edit saves; 0 if nothing.

        Args:
            kind: the edit's kind, of which the time may have been measured.
            variant: the module with the edit.
        """
        lighter = 1 - num_parameters(variant) / self._weights
        if self._by_size:
            return max(0.0, lighter)
        time_saved = self._rates.get(kind, 1.0) * self._fewer_operations(variant)
        return max(0.0, time_saved + _WORTH_OF_WEIGHTS * lighter)

    def measured(self, kind: str, variant: Module, share: float) -> None:
        """Take note of the time that edits of one kind save, all together.

        Operations tell edits of a kind from each other, and what is left of them after others;
        the time of one operation is that measured for the kind.

        Args:
            kind: the kind.
            variant: the module with the edits.
            share: of the time of the module before, what they save.
        """
        if math.isnan(share):
            return  # operations have to do
        fewer = self._fewer_operations(variant)
        useful = share > NOTHING and fewer > 0
        self._rates[kind] = share / fewer if useful else 0.0

    def saves(self, kind: str) -> bool:
        """Whether edits of the kind save anything, as far as is known."""
        return self._rates.get(kind, 1.0) > 0


def share_of_time_saved(
    base: Module, variant: Module, inputs: Sequence[Arrays], session: SessionSettings | None
) -> float:
    """How much less time a variant takes than the base, as a share of the base's.

    The two take turns on a few batches; the median over the rounds of the ratio in each does not
    depend on what else the machine does meanwhile, as long as that is the same for both. Not a
    number where a batch takes so little that it cannot be told.

    Args:
        base: a module as it would be served.
        variant: another.
        inputs: batches, of which some are run.
        session: threads, affinity and memory.
    """
    step = max(1, len(inputs) // _BATCHES)
    chosen = inputs[step // 2 :: step][:_BATCHES]
    sessions = [Session(module, settings=session) for module in (base, variant)]
    for each in sessions:
        started = time.perf_counter()
        for batch in (*chosen, *chosen):
            each.run(batch)
    if time.perf_counter() - started < _LEAST_SECONDS * 2 * len(chosen):
        return math.nan
    ratios: list[float] = []
    for number in range(_ROUNDS):
        seconds = [0.0, 0.0]
        for which in (0, 1) if number % 2 else (1, 0):
            started = time.perf_counter()
            for batch in chosen:
                sessions[which].run(batch)
            seconds[which] = time.perf_counter() - started
        ratios.append(seconds[1] / seconds[0])
    return 1 - statistics.median(ratios)
