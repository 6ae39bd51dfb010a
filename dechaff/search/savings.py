"""What edits save: time, measured once for each kind of edit, or weights."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from dechaff.arrays import Arrays
from dechaff.backends import Session, SessionSettings
from dechaff.ir import Module, graph_cost, num_parameters

_ROUNDS = 7
_BATCHES = 3
NOTHING = 0.004
"""A share of the time below which nothing is saved that could be told from noise."""

_LEAST_SECONDS = 1e-3

Serve = Callable[[Module], Module]
"""Makes the module that would be served of one that a pass has made."""


class Savings:
    """What is saved between two modules, as a share of the module that the search began with."""

    def __init__(self, start: Module, sizes: Mapping[str, float], mode: str) -> None:
        """Make ready.

        Args:
            start: the module before any edit of the pass.
            sizes: sizes at which operations are counted, by symbol.
            mode: ``size`` counts weights; else it is time.
        """
        self._sizes, self._mode = sizes, mode
        self._whole = max(1.0, self._count(start))
        self._rates: dict[str, float] = {}

    def _count(self, module: Module) -> float:
        if self._mode == "size":
            return float(num_parameters(module))
        flops, _ = graph_cost(module).at(self._sizes)
        return flops

    def of(self, kind: str, before: Module, after: Module) -> float:
        """What an edit saves; 0 if nothing.

        Args:
            kind: the edit's kind, of which the time may have been measured.
            before: the module without the edit.
            after: the module with it.
        """
        fewer = (self._count(before) - self._count(after)) / self._whole
        return max(0.0, self._rates.get(kind, 1.0) * fewer)

    def measured(self, kind: str, start: Module, variant: Module, share: float) -> None:
        """Take note of the time that edits of one kind save, all together.

        Operations tell edits of a kind from each other, and what is left of them after others;
        the time of one operation is that measured for the kind.

        Args:
            kind: the kind.
            start: the module before.
            variant: the module with the edits.
            share: of the time of ``start``, what they save.
        """
        if math.isnan(share):
            return  # operations have to do
        fewer = (self._count(start) - self._count(variant)) / self._whole
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
