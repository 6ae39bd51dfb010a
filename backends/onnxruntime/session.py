"""A module loaded into ONNX Runtime."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from google.protobuf.message import EncodeError

from dechaff.ir import DechaffError, Module, attach_functions, unload_mapped

from .run_limits import RunLimit, is_out_of_memory, stopped_after
from .session_settings import SessionSettings

_SHARED_WEIGHT_BYTES = 1024
"""Weights of at least this size are handed to the runtime in place, not through the protobuf."""

_FOLDER_OF_WEIGHTS = "session.model_external_initializers_file_folder_path"

_SIZED_BY_VALUES = frozenset({"Compress", "NonZero", "Unique"})

Arrays = dict[str, np.ndarray[Any, Any]]


class RuntimeFailedError(DechaffError):
    """ONNX Runtime could not load or run the model."""


class RunOverdueError(RuntimeFailedError):
    """A run on trial took far longer than a model of its size needs."""


class Session:
    """An inference session over a module.

    Weights are not serialized. Those that lie in a file the runtime maps itself, one after the
    other, and unmaps once it has packed them; the others it reads from the module's own memory.
    There is thus no 2 GB limit and no second copy before packing.

    A reference session, without graph optimizations, is fed the weights as inputs: the runtime
    would copy every initializer, which costs more than the few tokens that it is there to run.

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
        on_trial: bool = False,
    ) -> None:
        """Load the module.

        Args:
            module: a module; its dialect operators run as their reference functions.
            graph_optimizations: whether the runtime may rewrite the graph too; off for a reference.
            settings: threads, affinity and memory; the defaults if None.
            on_trial: whether runs are stopped that take far too long for the model's size, as those
                of a reference always are.

        Raises:
            RuntimeFailedError: the runtime rejects the model; the message is the runtime's own.
            MemoryError: there is too little memory for it.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised; the runtime need not print them too
        (settings or SessionSettings()).apply_to(options)
        options.enable_mem_pattern = not _has_sizes_from_values(module)
        if not graph_optimizations:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            # A weight packed ahead is summed in another order than one that is computed; and a
            # session for a few tokens is done before packing would pay.
            options.add_session_config_entry("session.disable_prepacking", "1")
            # For so few tokens, threads that wait busily cost more than they save.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if graph_optimizations:  # what references read of them would count beside copies
            unload_mapped(module.graph.initializers.values())
        proto, weights, folder = _without_weights(module, declare_inputs=not graph_optimizations)
        if folder is not None:
            options.add_session_config_entry(_FOLDER_OF_WEIGHTS, os.path.abspath(folder))
        self._fed: Arrays = {} if graph_optimizations else weights
        # The runtime keeps pointers into these arrays: they must live as long as the session.
        self._shared = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(array)
            for name, array in weights.items()
            if graph_optimizations
        }
        if self._shared:
            options.add_external_initializers(list(self._shared), list(self._shared.values()))
        try:
            self._session = onnxruntime.InferenceSession(
                proto, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise _failure(module.source, error) from error
        self._limit = RunLimit(module) if on_trial or not graph_optimizations else None
        if graph_optimizations:  # they are packed; a reference reads the weights where they lie
            unload_mapped(module.graph.initializers.values())
        self._source = module.source
        self.input_names = [
            value.name for value in self._session.get_inputs() if value.name not in self._fed
        ]
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
            RuntimeFailedError: the runtime fails on these inputs, or takes too long on trial.
            MemoryError: there is too little memory for the run.
        """
        import onnxruntime

        names = list(outputs) if outputs is not None else self.output_names
        feeds, options = {**self._fed, **inputs}, onnxruntime.RunOptions()
        seconds = None if self._limit is None else self._limit.seconds(inputs)
        with stopped_after(seconds, options) as overdue:
            try:
                return dict(zip(names, self._session.run(names, feeds, options), strict=True))
            except Exception as error:
                if overdue.is_set():
                    raise RunOverdueError(
                        f"{self._source}: stopped after {seconds:.3g} s, far more than a model of "
                        "this size needs"
                    ) from error
                raise _failure(self._source, error) from error


def _has_sizes_from_values(module: Module) -> bool:
    """Whether results have sizes that do not follow from the shapes of the inputs.

    For inputs of a shape it has seen, the runtime holds one block for all results, as large as they
    were the first time. Packed tokens are as many as the mask says: the block would not fit, and
    results would stand beside it.
    """
    return any(node.op_type in _SIZED_BY_VALUES for node in module.nodes())


def _failure(source: str, error: Exception) -> Exception:
    """What went wrong, as an error of ours that names the model."""
    text = f"{source}: {_first_line(error)}"
    return MemoryError(text) if is_out_of_memory(error) else RuntimeFailedError(text)


def _in_memory(tensor: ir.ExternalTensor) -> ir.Tensor[Any]:
    """A copy of the tensor. The tensor itself stays open: the module shares it with the copy."""
    return ir.Tensor(
        np.array(tensor.numpy()), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name
    )


def _without_weights(module: Module, *, declare_inputs: bool) -> tuple[bytes, Arrays, str | None]:
    """The serialized model with its larger weights declared external, and where they are.

    Args:
        module: the module.
        declare_inputs: declare them inputs instead; all of them are then in memory.

    Returns:
        The model; the weights that are in memory; and the folder of the files that hold the others.
    """
    copy = module.clone()
    attach_functions(copy)
    model = copy.model
    folder = None if declare_inputs else _folder_of_weights(module)
    weights: Arrays = {}
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes < _SHARED_WEIGHT_BYTES or not _is_plain(tensor.dtype):
            if isinstance(tensor, ir.ExternalTensor):  # the runtime would look for its file
                value.const_value = _in_memory(tensor)
            continue
        if isinstance(tensor, ir.ExternalTensor) and os.fspath(tensor.base_dir) == folder:
            continue
        weights[name] = np.ascontiguousarray(tensor.numpy())
        if declare_inputs:
            _declare_input(model.graph, value, tensor.dtype, weights[name].shape)
            continue
        value.const_value = ir.ExternalTensor(
            location="weights",
            offset=0,
            length=tensor.nbytes,
            dtype=tensor.dtype,
            shape=ir.Shape(weights[name].shape),
            name=name,
        )
    try:
        return ir.to_proto(model).SerializeToString(), weights, folder
    except EncodeError as error:  # the weights are not in it: what it lacks is memory
        raise MemoryError(f"{module.source}: {error}") from error


def _folder_of_weights(module: Module) -> str | None:
    """The folder that most weights in files are relative to; None if no weight is in a file."""
    folders = Counter(
        os.fspath(value.const_value.base_dir)
        for value in module.graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    )
    return folders.most_common(1)[0][0] if folders else None


def _declare_input(
    graph: ir.Graph, weight: ir.Value, dtype: ir.DataType, sizes: tuple[int, ...]
) -> None:
    graph.initializers.pop(weight.name or "")
    weight.const_value = None
    weight.dtype, weight.shape = dtype, ir.Shape(sizes)
    if not weight.is_graph_input():
        graph.inputs.append(weight)


def _is_plain(dtype: ir.DataType) -> bool:
    """Whether numpy has the type itself; the runtime takes no other arrays from Python."""
    return dtype not in (ir.DataType.STRING, ir.DataType.BFLOAT16) and dtype.bitwidth >= 8


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
