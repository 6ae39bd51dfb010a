"""The fastest of several ways to launch the same work on a GPU, and when they may be measured."""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Launch = Callable[[], bool]
"""Launches on torch's current stream, and says whether it did."""

_LEAST_GAIN = 0.98
"""Another way than the first is taken below this share of its time."""

_RUNS, _ROUNDS = 10, 3
_CYCLES_AHEAD = 200_000
"""The GPU waits so long before each measured series, so that the launches are ahead of it."""

_MEASURES = contextvars.ContextVar("measures", default=False)


@contextlib.contextmanager
def measuring_launches() -> Iterator[None]:
    """What this thread calls within may be measured, if it has not been."""
    token = _MEASURES.set(True)
    try:
        yield
    finally:
        _MEASURES.reset(token)


def may_measure() -> bool:
    """Whether the call is within :func:`measuring_launches`."""
    return _MEASURES.get()


def fastest(ways: Sequence[Launch]) -> int | None:
    """Which of them takes the least time; the first if none is clearly faster, None if none runs.

    Each runs some thirty times.
    """
    times = [_microseconds(way) for way in ways]
    runs = [(time, place) for place, time in enumerate(times) if time is not None]
    if not runs:
        return None
    best, place = min(runs)
    keeps_first = times[0] is not None and best > _LEAST_GAIN * times[0]
    return 0 if keeps_first else place


def _microseconds(launch: Launch) -> float | None:
    """Median time of a run on the GPU; None if it does not run."""
    if not launch():
        return None
    torch: Any = importlib.import_module("torch")  # its events have no types
    times: list[float] = []
    for _ in range(_ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(_CYCLES_AHEAD)
        start.record()
        for _ in range(_RUNS):
            launch()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / _RUNS * 1e3)
    return statistics.median(times)
