"""OpenVINO at its better setting: one request on all threads, or the rows shared out to streams."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from dechaff.backends.openvino.shared_rows import deal

from .choice import fastest
from .inputs import Array, Inputs


@dataclasses.dataclass(frozen=True)
class SharedOut:
    """The outputs of a batch whose rows were shared out to requests.

    Attributes:
        parts: the outputs of each request.
        order: the rows that the parts hold, one part after the other.
    """

    parts: list[list[Array]]
    order: Array


Run = Callable[[], SharedOut]


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
        The hint, and a function that runs the batch once and gives the outputs of each request.
    """
    hints = ("LATENCY", "THROUGHPUT")[: len(inputs["attention_mask"])]  # a row cannot be shared out
    for hint in hints:
        if hint not in compiled:
            compiled[hint] = _compile(path, hint, threads)
    candidates = {hint: _requests(compiled[hint], inputs) for hint in hints}
    hint = fastest(candidates)
    return hint, candidates[hint]


def join_rows(found: SharedOut) -> list[Array]:
    """The outputs of all requests as those of the batch."""
    back = np.argsort(found.order)
    return [np.concatenate(arrays)[back] for arrays in zip(*found.parts, strict=True)]


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
    shares = deal(inputs["attention_mask"].sum(axis=1), streams)
    known = {name for port in compiled.inputs for name in port.get_names()}
    parts = [
        {name: np.ascontiguousarray(array[rows]) for name, array in inputs.items() if name in known}
        for rows in shares
    ]
    order = np.concatenate(shares)
    requests = [compiled.create_infer_request() for _ in parts]

    def run() -> SharedOut:
        for request, part in zip(requests, parts, strict=True):
            request.start_async(part, share_inputs=True)
        for request in requests:
            request.wait()
        found = [[tensor.data for tensor in each.output_tensors] for each in requests]
        return SharedOut(found, order)

    return run
