"""Which of several ways to the same result is the fastest here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

_LONG_RUN_SECONDS = 1.0


def fastest(candidates: Mapping[str, Callable[[], Any]]) -> str:
    """The name of the run that takes the least time once it has run; a run of seconds is itself."""

    def seconds(run: Callable[[], Any]) -> float:
        for _ in range(3):
            started = time.perf_counter()
            run()
            elapsed = time.perf_counter() - started
            if elapsed > _LONG_RUN_SECONDS:
                break
        return elapsed

    return min(candidates, key=lambda name: seconds(candidates[name]))
