"""A module loaded into OpenVINO."""

from __future__ import annotations

import contextlib
import importlib.util
import pathlib
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from dechaff.backends.onnxruntime.session import Arrays, RuntimeFailedError
from dechaff.backends.onnxruntime.session_settings import SessionSettings
from dechaff.ir import Module, UsageError

_FILE = "model.onnx"


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


class OpenVinoSession:
    """A compiled model, with the interface of :class:`Session`.

    Numbers are float32 throughout, as the graph says: left to itself, OpenVINO computes in bfloat16
    on processors that have it. Calls from several threads run one after the other.

    Attributes:
        input_names: names of the graph inputs, in order.
        output_names: names of the graph outputs, in order.
    """

    def __init__(
        self,
        module: Module,
        *,
        settings: SessionSettings | None = None,
        share_threads: bool = False,
    ) -> None:
        """Load the module.

        Args:
            module: a lowered module.
            settings: threads and requests; the defaults if None. OpenVINO manages memory by itself.
            share_threads: whether several requests have a part of the threads each; else there is
                one, which has all.

        Raises:
            UsageError: OpenVINO is not installed, or threads shall be held to processors.
            RuntimeFailedError: OpenVINO rejects the model; the message is its own.
        """
        if not has_openvino():
            raise UsageError("OpenVINO is not installed: pip install 'dechaff[openvino]'")
        import openvino

        chosen = settings or SessionSettings()
        if chosen.affinity is not None:
            raise UsageError(
                "OpenVINO holds no thread to a processor of choice: leave affinity out"
            )
        self._source = module.source
        self._lock = threading.Lock()
        self.input_names = [value.name or "" for value in module.graph.inputs]
        self.output_names = [value.name or "" for value in module.graph.outputs]
        configuration: dict[str, Any] = {
            "PERFORMANCE_HINT": "THROUGHPUT" if share_threads else "LATENCY",
            "INFERENCE_NUM_THREADS": chosen.num_threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if share_threads and chosen.requests is not None:
            configuration["NUM_STREAMS"] = chosen.requests
        # Through a file, which OpenVINO maps: a protobuf message ends at 2 GB.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = pathlib.Path(folder) / _FILE
            ir.save(module.clone().model, path, external_data=f"{_FILE}.data")
            try:
                self._compiled = openvino.Core().compile_model(path, "CPU", configuration)
            except Exception as error:
                raise RuntimeFailedError(f"{self._source}: {_reason(error)}") from error
        count = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests: list[Any] = [
            self._compiled.create_infer_request() for _ in range(count if share_threads else 1)
        ]

    @property
    def num_requests(self) -> int:
        """How many requests run side by side."""
        return len(self._requests)

    def run(
        self, inputs: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None = None
    ) -> Arrays:
        """Run the model; see :meth:`Session.run`."""
        return self.run_side_by_side([inputs], outputs)[0]

    def run_side_by_side(
        self,
        batches: Sequence[Mapping[str, np.ndarray[Any, Any]]],
        outputs: Sequence[str] | None = None,
    ) -> list[Arrays]:
        """Run the model on as many batches at once as there are requests, or fewer.

        Args:
            batches: an array for each graph input, by name, for each.
            outputs: names of the outputs wanted; all if None.

        Raises:
            RuntimeFailedError: OpenVINO fails on one of them.
        """
        names = list(outputs) if outputs is not None else self.output_names
        places = [self.output_names.index(name) for name in names]
        given = [[np.ascontiguousarray(b[name]) for name in self.input_names] for b in batches]
        with self._lock:
            running = list(zip(self._requests, given, strict=False))
            try:
                for request, arrays in running:
                    request.start_async(arrays, share_inputs=True)
                found = [self._wait(request, places) for request, _ in running]
            except Exception as error:
                for request, _ in running:  # the others are not stopped by it
                    with contextlib.suppress(Exception):
                        request.wait()
                raise RuntimeFailedError(f"{self._source}: {_reason(error)}") from error
        return [dict(zip(names, arrays, strict=True)) for arrays in found]

    def _wait(self, request: Any, places: Sequence[int]) -> list[np.ndarray[Any, Any]]:
        request.wait()
        return [request.get_output_tensor(place).data.copy() for place in places]


def _reason(error: Exception) -> str:
    """The line that says what is wrong; those before it say where in OpenVINO's sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
