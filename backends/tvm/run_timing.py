"""How long a compiled function takes on tensors that lie on its device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from .cuda_graphs import runs_in_graph

_LEAST_RUNS, _LEAST_SECONDS, _MOST_RUNS = 5, 0.05, 200
_RUNS_IN_GRAPH = 20
"""Runs that one CUDA graph holds, so that its launch and the copy of its inputs count little."""


def seconds_of_run(function: Callable[..., Any], machine: Any, inputs: Sequence[Any]) -> float:
    """Median seconds of a call, after two that do not count.

    Args:
        function: of the virtual machine.
        machine: the virtual machine, for the capture of CUDA graphs.
        inputs: TVM's tensors on its device.
    """
    if inputs[0].device.type == "cpu":
        return _median(lambda: function(*inputs))
    runs = runs_in_graph(function, machine, inputs, _RUNS_IN_GRAPH)
    runs()  # two calls without a graph; the first of _median captures it
    runs()
    return _median(runs) / _RUNS_IN_GRAPH


def _median(run: Callable[[], Any]) -> float:
    for _ in range(2):
        run()
    times: list[float] = []
    while len(times) < _LEAST_RUNS or (sum(times) < _LEAST_SECONDS and len(times) < _MOST_RUNS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)
