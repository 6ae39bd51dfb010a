"""A module loaded into OpenVINO."""

from __future__ import annotations

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

    def __init__(self, module: Module, *, settings: SessionSettings | None = None) -> None:
        """Load the module.

        Args:
            module: a lowered module.
            settings: threads; the defaults if None. OpenVINO manages memory by itself.

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
        configuration = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": chosen.num_threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        # Through a file, which OpenVINO maps: a protobuf message ends at 2 GB.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = pathlib.Path(folder) / _FILE
            ir.save(module.clone().model, path, external_data=f"{_FILE}.data")
            try:
                self._compiled = openvino.Core().compile_model(path, "CPU", configuration)
            except Exception as error:
                raise RuntimeFailedError(f"{self._source}: {_reason(error)}") from error
        self._request: Any = self._compiled.create_infer_request()

    def run(
        self, inputs: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None = None
    ) -> Arrays:
        """Run the model; see :meth:`Session.run`."""
        names = list(outputs) if outputs is not None else self.output_names
        places = [self.output_names.index(name) for name in names]
        given = [np.ascontiguousarray(inputs[name]) for name in self.input_names]
        with self._lock:
            try:
                self._request.infer(given, share_inputs=True)
                found = [self._request.get_output_tensor(place).data.copy() for place in places]
            except Exception as error:
                raise RuntimeFailedError(f"{self._source}: {_reason(error)}") from error
        return dict(zip(names, found, strict=True))


def _reason(error: Exception) -> str:
    """The line that says what is wrong; those before it say where in OpenVINO's sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
