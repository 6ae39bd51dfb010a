"""One optimization in a process of its own: time per step, peak memory; or the making of a file.

``benchmarks.scaling`` starts it.
"""

from __future__ import annotations

import pathlib
import tempfile
import time
from typing import Any

import dechaff

from .child_process import child_result, child_task
from .exports import Exports, quiet
from .measure import peak_resident_bytes
from .models import ModelUnderTest, build_model

_EXAMPLE_SHAPE = (2, 8)


class _Clock:
    """Seconds between the steps that ``optimize`` reports."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._step, self._since = "", time.perf_counter()

    def __call__(self, done: int, total: int, step: str) -> None:
        now = time.perf_counter()
        if self._step:
            self.seconds[self._step] = self.seconds.get(self._step, 0.0) + now - self._since
        self._step, self._since = step, now


def _optimize_torch(name: str, layers: int, verify: str) -> dict[str, float]:
    import torch

    example = {
        key: torch.ones(_EXAMPLE_SHAPE, dtype=torch.int64)
        for key in ("input_ids", "attention_mask")
    }
    model, clock = build_model(name, layers), _Clock()
    with quiet():
        dechaff.optimize(model, example, verify=verify, progress=clock)
    return clock.seconds


def _optimize_file(source: str, verify: str) -> dict[str, float]:
    """From file to file."""
    clock = _Clock()
    optimized = dechaff.optimize(source, verify=verify, progress=clock)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=pathlib.Path(source).parent) as folder:
        optimized.save(pathlib.Path(folder) / "optimized.onnx", external_data=True)
    return clock.seconds | {"save": time.perf_counter() - started}


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Seconds by step, and the peak memory of the process in bytes.

    Where depths are compared also ``cold_seconds``: those of one layer, before. What is loaded, and
    what torch traces, for the first time is no cost per layer.

    Args:
        task: ``name`` and ``layers`` of a model, or the ``source`` file and the one to optimize
            ``before`` it, if any; ``verify``.
    """
    found: dict[str, Any] = {}
    if "source" in task:
        if "before" in task:
            found["cold_seconds"] = sum(_optimize_file(task["before"], task["verify"]).values())
        steps = _optimize_file(task["source"], task["verify"])
    else:
        cold = _optimize_torch(task["name"], 1, verify="off")
        steps = _optimize_torch(task["name"], task["layers"], task["verify"])
        found["cold_seconds"] = sum(cold.values())
    found |= {"steps": steps, "seconds": sum(steps.values()), "peak_bytes": peak_resident_bytes()}
    return found


def export(task: dict[str, Any]) -> str:
    """Export a model into a folder, and give the path of the file."""
    model = ModelUnderTest(task["name"], task["layers"])
    return str(Exports(model, pathlib.Path(task["export_to"])).plain(task["opset"]))


def main() -> None:
    """In the child: measure, or export the model to a folder."""
    task = child_task()
    child_result(export(task) if "export_to" in task else measure(task))


if __name__ == "__main__":
    main()
