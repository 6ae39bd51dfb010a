"""A module loaded into ONNX Runtime."""

from __future__ import annotations

import mmap
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from dechaff.ir import DechaffError, Module, attach_functions

from .session_settings import SessionSettings

_SHARED_WEIGHT_BYTES = 1024
"""Weights of at least this size are handed to the runtime in place, not through the protobuf."""

_FOLDER_OF_WEIGHTS = "session.model_external_initializers_file_folder_path"

Arrays = dict[str, np.ndarray[Any, Any]]


class RuntimeFailedError(DechaffError):
    """ONNX Runtime could not load or run the model."""


class Session:
    """An inference session over a module.

    Weights are not serialized. Those that lie in a file the runtime maps itself, one after the
    other, and unmaps once it has packed them; the others it reads from the module's own memory.
    There is thus no 2 GB limit and no second copy before packing.

    Attributes:
        input_names: names of the graph inputs, in order.
        output_names: names of the graph outputs, in order.
    """

    def __init__(
        self,
        module: Module,
        *,
        graph_optimizations: bool = True,
        settings: SessionSettings | None = None,
    ) -> None:
        """Load the module.

        Args:
            module: a module; its dialect operators run as their reference functions.
            graph_optimizations: whether the runtime may rewrite the graph too; off for a reference.
            settings: threads, affinity and memory; the defaults if None.

        Raises:
            RuntimeFailedError: the runtime rejects the model; the message is the runtime's own.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised; the runtime need not print them too
        (settings or SessionSettings()).apply_to(options)
        if not graph_optimizations:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            # A weight packed ahead is summed in another order than one that is computed; and a
            # session for a few tokens is done before packing would pay.
            options.add_session_config_entry("session.disable_prepacking", "1")
        proto, weights, folder = _without_weights(module)
        if folder is not None:
            options.add_session_config_entry(_FOLDER_OF_WEIGHTS, os.path.abspath(folder))
        # The runtime keeps pointers into these arrays: they must live as long as the session.
        self._weights = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in weights.items()
        }
        if self._weights:
            options.add_external_initializers(list(self._weights), list(self._weights.values()))
        try:
            self._session = onnxruntime.InferenceSession(
                proto, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise RuntimeFailedError(f"{module.source}: {_first_line(error)}") from error
        _unload_mapped_weights(module)
        self._source = module.source
        self.input_names = [value.name for value in self._session.get_inputs()]
        self.output_names = [value.name for value in self._session.get_outputs()]

    def run(
        self, inputs: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None = None
    ) -> Arrays:
        """Run the model.

        Args:
            inputs: an array for each graph input, by name.
            outputs: names of the outputs wanted; all if None.

        Returns:
            An array for each output wanted, by name.

        Raises:
            RuntimeFailedError: the runtime fails on these inputs.
        """
        names = list(outputs) if outputs is not None else self.output_names
        try:
            return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except Exception as error:
            raise RuntimeFailedError(f"{self._source}: {_first_line(error)}") from error


def _without_weights(module: Module) -> tuple[bytes, Arrays, str | None]:
    """The serialized model with its larger weights declared external, and where they are.

    Returns:
        The model; the weights that are in memory; and the folder of the files that hold the others.
    """
    copy = module.clone()
    attach_functions(copy)
    model = copy.model
    folder = _folder_of_weights(module)
    weights: Arrays = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < _SHARED_WEIGHT_BYTES or not _is_plain(tensor.dtype):
            if isinstance(tensor, ir.ExternalTensor):  # the runtime would look for its file
                value.const_value = ir.external_data.convert_tensors_from_external([tensor])[0]
            continue
        if isinstance(tensor, ir.ExternalTensor) and os.fspath(tensor.base_dir) == folder:
            continue
        weights[name] = np.ascontiguousarray(tensor.numpy())
        value.const_value = ir.ExternalTensor(
            location="weights",
            offset=0,
            length=tensor.nbytes,
            dtype=tensor.dtype,
            shape=ir.Shape(weights[name].shape),
            name=name,
        )
    return ir.to_proto(model).SerializeToString(), weights, folder


def _folder_of_weights(module: Module) -> str | None:
    """The folder that most weights in files are relative to; None if no weight is in a file."""
    folders = Counter(
        os.fspath(value.const_value.base_dir)
        for value in module.graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    )
    return folders.most_common(1)[0][0] if folders else None


def _unload_mapped_weights(module: Module) -> None:
    """Give back the memory of weights that lie in a file; what is read again comes from there.

    The runtime has packed the matrices into copies of its own by now, and reads most originals no
    more: without this they would count twice.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    for value in module.graph.initializers.values():
        mapped = getattr(value.const_value, "raw", None)
        if isinstance(mapped, mmap.mmap):
            mapped.madvise(mmap.MADV_DONTNEED)


def _is_plain(dtype: ir.DataType) -> bool:
    """Whether numpy has the type itself; the runtime takes no other arrays from Python."""
    return dtype not in (ir.DataType.STRING, ir.DataType.BFLOAT16) and dtype.bitwidth >= 8


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
