"""How long a compiled function takes on tensors that lie on its device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from .cuda_graphs import CudaGraphs

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
    return _on_gpu(function, machine, inputs)


def _median(run: Callable[[], Any]) -> float:
    for _ in range(2):
        run()
    times: list[float] = []
    while len(times) < _LEAST_RUNS or (sum(times) < _LEAST_SECONDS and len(times) < _MOST_RUNS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _on_gpu(function: Callable[..., Any], machine: Any, inputs: Sequence[Any]) -> float:
    """By a CUDA graph of several runs: what a run costs in a model that is a graph as a whole."""
    import torch

    graphs = CudaGraphs(machine, copies_results=False)
    tensors = [torch.utils.dlpack.from_dlpack(item) for item in inputs]

    def several(own: Sequence[Any]) -> list[Any]:
        return [next(iter(function(*own))) for _ in range(_RUNS_IN_GRAPH)][-1:]

    def replayed() -> None:
        graphs(several, tensors, ())
        torch.cuda.synchronize()

    replayed()  # two runs without a graph, the first of _median captures it
    replayed()
    return _median(replayed) / _RUNS_IN_GRAPH
