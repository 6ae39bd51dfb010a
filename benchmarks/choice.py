"""Which of several ways to the same result is the fastest here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

_LONG_RUN_SECONDS = 1.0
_ROUNDS = 5


def fastest(candidates: Mapping[str, Callable[[], Any]]) -> str:
    """The name of the run that takes the least time once it has run; they take turns.

    A run of seconds is itself, and tells after one round.
    """
    for run in candidates.values():
        run()
    least = dict.fromkeys(candidates, math.inf)
    for _ in range(_ROUNDS):
        for name, run in candidates.items():
            least[name] = min(least[name], _seconds(run))
        if max(least.values()) > _LONG_RUN_SECONDS:
            break
    return min(least, key=lambda name: least[name])


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
