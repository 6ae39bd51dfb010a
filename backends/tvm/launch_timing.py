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

_RUNS, _ROUNDS = 10, 5

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

    Each runs some fifty times, in a CUDA graph as it will in the model: what a way launches beside
    its kernel, such as clearing memory, costs more there than launches on a stream that queue up.
    The current stream must not be the default one.
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
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin(capture_error_mode="relaxed")
    try:
        for _ in range(_RUNS):
            launch()
    finally:
        graph.capture_end()
    graph.replay()
    times: list[float] = []
    for _ in range(_ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / _RUNS * 1e3)
    return statistics.median(times)
