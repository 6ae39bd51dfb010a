"""A model compiled by TVM: it runs, shows its code, and is saved as a library."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

from dechaff.ir import DechaffError, ModelRejectedError, UsageError

from . import library_calls as _library_calls  # noqa: F401  # it registers what a library may call
from .cuda_graphs import CudaGraphs, HostNumbers, InputPlaces, is_cuda_tensor
from .generated_kernels import generated_kernels
from .relax_module import ENTRY
from .run_timing import seconds_of_run
from .signature import Signature
from .signature_function import SIGNATURE_FUNCTION
from .token_counting import COUNT_TOKENS, room_for
from .tuning.application import Application

Arrays = dict[str, np.ndarray[Any, Any]]


class CompiledRunFailedError(DechaffError):
    """The compiled model could not run on these inputs."""


class CompiledModel:
    """A compiled model; calls may come from several threads, and run one after another.

    Weights are constants of the library: they are copied to the device once, on the first run.

    Attributes:
        signature: inputs and outputs.
        input_names: names of the inputs, in order.
        output_names: names of the outputs, in order.
        kernels: how many nodes run by hand-written kernels, by operator; empty for a loaded model.
        tuned: what a tuning log gave; None without one, and for a loaded model.
        library_calls: how many matrix products call a library; 0 for a loaded model.
    """

    def __init__(
        self,
        executable: Any,
        signature: Signature,
        kernels: Mapping[str, int] | None = None,
        tuned: Application | None = None,
        library_calls: int = 0,
    ) -> None:
        self.signature = signature
        self.input_names = [port.name for port in signature.inputs]
        self.output_names = [port.name for port in signature.outputs]
        self.kernels = dict(kernels or {})
        self.tuned = tuned
        self.library_calls = library_calls
        self._executable = executable
        self._machine: Any = None
        self._graphs: CudaGraphs | None = None
        self._count_graphs: CudaGraphs | None = None
        self._places = InputPlaces()
        self._to_host = HostNumbers()
        self._counts: bool | None = None
        self._lock = threading.Lock()

    @property
    def target(self) -> Any:
        """TVM's target."""
        return tvm.target.Target(self.signature.target)

    @property
    def target_text(self) -> str:
        """The target on one line: ``cuda sm_90``, ``llvm znver4``."""
        target = self.target
        detail = target.attrs["arch" if target.kind.name == "cuda" else "mcpu"]
        return f"{target.kind.name} {detail}"

    def check_device(self) -> None:
        """Nothing, if the model can run on this machine.

        Raises:
            UsageError: it was compiled for a GPU, and there is none.
        """
        if self.target.kind.name == "cuda" and not tvm.cuda(0).exist:
            raise UsageError(
                f"{self.signature.source}: compiled for {self.target.attrs['arch']}, and no CUDA "
                "GPU is found here: save it and load it where there is one, or use target llvm"
            )

    def run(
        self, inputs: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None = None
    ) -> Arrays:
        """Run the model.

        Args:
            inputs: an array for each input, by name.
            outputs: names of the outputs wanted; all if None.

        Returns:
            An array for each output wanted, by name.

        Raises:
            UsageError: the machine has no such device.
            CompiledRunFailedError: the model fails on these inputs.
        """
        for port in self.signature.inputs:
            if not inputs[port.name].size:
                raise CompiledRunFailedError(
                    f"{self.signature.source}: input {port.name!r} has no elements (shape "
                    f"{inputs[port.name].shape}), and TVM makes no tensor without any"
                )
        results = self.run_tensors([inputs[port.name] for port in self.signature.inputs])
        wanted = set(outputs) if outputs is not None else None
        return {
            port.name: result.numpy()
            for port, result in zip(self.signature.outputs, results, strict=True)
            if wanted is None or port.name in wanted
        }

    def takes_in_place(self, given: Mapping[str, Any]) -> bool:
        """Whether these are the model's inputs, as tensors of torch on the GPU it is for."""
        names = {port.name for port in self.signature.inputs}
        on_gpu = all(is_cuda_tensor(value) for value in given.values())
        return self.target.kind.name == "cuda" and set(given) == names and on_gpu

    def run_tensors(self, inputs: Sequence[Any]) -> list[Any]:
        """Run the model on tensors in graph order, and give TVM's tensors.

        Arrays of numpy are copied to the device. What else supports DLPack and lies on the device
        (a tensor of torch, for instance) is used where it lies, and results can be read in place
        by ``from_dlpack``.

        Raises:
            UsageError: the machine has no such device.
            CompiledRunFailedError: the model fails on these inputs.
        """
        with self._lock:
            machine = self._started()
            try:
                results = self._run(machine, inputs)
            except Exception as error:  # TVM raises RuntimeError and kinds of its own
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                raise CompiledRunFailedError(
                    f"{self.signature.source}: the compiled model failed: "
                    f"{lines[-1] if lines else type(error).__name__}"
                ) from error
        return list(results)

    def _run(self, machine: Any, inputs: Sequence[Any]) -> Sequence[Any]:
        if self._counts is None:
            self._counts = machine.module.implements_function(COUNT_TOKENS)
        if self.target.kind.name == "cuda" and all(is_cuda_tensor(item) for item in inputs):
            return self._run_on_stream(machine, inputs)
        tensors = [self._tensor(item) for item in inputs]
        if not self._counts:
            return list(machine[ENTRY](*tensors))
        counts = machine[COUNT_TOKENS](*tensors).numpy()
        return list(machine[ENTRY](*tensors, tvm_ffi.Shape(tuple(map(room_for, counts)))))

    def _run_on_stream(self, machine: Any, inputs: Sequence[Any]) -> Sequence[Any]:
        """Tensors of torch: on torch's current stream, by CUDA graphs where sizes come again."""
        if self._graphs is None or self._count_graphs is None:
            self._graphs = CudaGraphs(machine)
            self._count_graphs = CudaGraphs(machine, copies_results=False)
        if not self._counts:
            return self._graphs(lambda own: machine[ENTRY](*own), inputs, ())
        placed, stay = self._places(inputs)
        (counts,) = self._count_graphs(
            lambda own: [self._to_host(machine[COUNT_TOKENS](*own))], placed, (), stay=stay
        )
        rooms = tuple(map(room_for, self._to_host.read(counts)))
        return self._graphs(
            lambda own: machine[ENTRY](*own, tvm_ffi.Shape(rooms)), placed, rooms, stay=stay
        )

    def seconds_of_run(self, inputs: Sequence[Any]) -> float:
        """Seconds of a run on arrays of numpy, as they lie on the device, launches not counted.

        Raises:
            UsageError: the machine has no such device.
        """
        with self._lock:
            machine = self._started()
            return seconds_of_run(machine[ENTRY], machine, [self._tensor(item) for item in inputs])

    def _tensor(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return tvm.runtime.tensor(
                np.ascontiguousarray(value).reshape(value.shape), self._device
            )
        return tvm.runtime.from_dlpack(value)

    @property
    def _device(self) -> Any:
        return tvm.cuda(0) if self.target.kind.name == "cuda" else tvm.cpu()

    def _started(self) -> Any:
        if self._machine is None:
            self.check_device()
            self._machine = relax.VirtualMachine(self._executable, self._device)
        return self._machine

    def source(self) -> str:
        """The generated code: CUDA C++ for a GPU, LLVM's intermediate form for a CPU."""
        kind = self.target.kind.name
        return "\n".join(_sources(_root(self._executable), kind))

    def kernel_sources(self) -> dict[str, str]:
        """The generated code, kernel by kernel; what they share is in :meth:`source` alone."""
        return generated_kernels(self.source())

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the model as a shared library.

        Raises:
            UsageError: the folder cannot be written to, or there is no linker.
        """
        try:
            self._executable.export_library(os.fspath(path))
        except OSError as error:
            raise UsageError(f"{os.fspath(path)}: cannot be written: {error}") from error
        except RuntimeError as error:
            lines = str(error).strip().splitlines()
            raise UsageError(
                f"{os.fspath(path)}: cannot be linked: {lines[-1] if lines else error}; a library "
                "is linked by the C++ compiler g++ or clang++, which must be installed"
            ) from error


def _root(executable: Any) -> Any:
    return executable.mod if hasattr(executable, "mod") else executable


def _sources(module: Any, kind: str) -> list[str]:
    """Sources of a runtime module, and of what it imports, that are of a kind."""
    found = [text for part in module.imports for text in _sources(part, kind)]
    if module.kind != kind:
        return found
    return [*found, str(module.inspect_source())]


def load_library(path: str | os.PathLike[str]) -> CompiledModel:
    """The compiled model that :meth:`CompiledModel.export` wrote. Load trusted files only.

    Raises:
        ModelRejectedError: it is no such library.
    """
    place = os.fspath(path)
    try:
        library = tvm.runtime.load_module(place)
        machine = relax.VirtualMachine(library, tvm.cpu())
        text = machine[SIGNATURE_FUNCTION]().numpy().tobytes().decode()
        signature = Signature.from_json(text)
    except Exception as error:  # the loader raises OSError, RuntimeError, AttributeError, ...
        lines = str(error).strip().splitlines()
        raise ModelRejectedError(
            f"{place}: not a library that dechaff saved: {lines[-1] if lines else error}"
        ) from error
    return CompiledModel(library, signature)
