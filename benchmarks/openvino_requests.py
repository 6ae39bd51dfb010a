"""OpenVINO at its better setting: one request on all threads, or the rows shared out to streams."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from .choice import fastest
from .inputs import Array, Inputs

Run = Callable[[], list[list[Array]]]


def best_requests(
    path: pathlib.Path, inputs: Inputs, threads: int, compiled: dict[str, Any]
) -> tuple[str, Run]:
    """The performance hint that is faster on these inputs, and the run under it.

    Args:
        path: the ONNX file.
        inputs: the batch.
        threads: threads to run on.
        compiled: the models that were compiled before, by hint; new ones join them.

    Returns:
        The hint, and a function that runs the batch once and gives the outputs of each request,
        which hold consecutive rows.
    """
    hints = ("LATENCY", "THROUGHPUT")[: len(inputs["attention_mask"])]  # a row cannot be shared out
    for hint in hints:
        if hint not in compiled:
            compiled[hint] = _compile(path, hint, threads)
    candidates = {hint: _requests(compiled[hint], inputs) for hint in hints}
    hint = fastest(candidates)
    return hint, candidates[hint]


def join_rows(parts: list[list[Array]]) -> list[Array]:
    """The outputs of all requests as those of the batch."""
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _compile(path: pathlib.Path, hint: str, threads: int) -> Any:
    import openvino

    settings = {
        "PERFORMANCE_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    return openvino.Core().compile_model(str(path), "CPU", settings)


def _requests(compiled: Any, inputs: Inputs) -> Run:
    streams = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    shares = {name: np.array_split(array, streams) for name, array in inputs.items()}
    parts = [
        {name: share[index] for name, share in shares.items()}
        for index in range(min(streams, len(inputs["attention_mask"])))
    ]
    requests = [compiled.create_infer_request() for _ in parts]

    def run() -> list[list[Array]]:
        for request, part in zip(requests, parts, strict=True):
            request.start_async(part, share_inputs=True)
        for request in requests:
            request.wait()
        return [[tensor.data for tensor in request.output_tensors] for request in requests]

    return run
