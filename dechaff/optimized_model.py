"""What ``optimize`` gives: a model that is called like the original, runs, saves and reports."""

from __future__ import annotations

import html
import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dechaff import __version__
from dechaff.backends import RunningModel, SessionSettings, start_session
from dechaff.ir import InputRejectedError, Module, UsageError

from .arrays import Array, Arrays, bind_positional, check_inputs, is_torch_tensor, to_torch
from .library_files import is_library, load_library, save_library
from .model_files import load_module, save_module, write_text
from .opset_conversion import convert_opset
from .report import Report

if TYPE_CHECKING:
    from dechaff.backends.tvm.compiled_model import CompiledModel


class OptimizedModel:
    """An optimized model.

    Called like the original: a model from torch takes the same arguments, tensors in and out, and
    gives the same structure. A model from a file takes arrays or tensors by input name or in graph
    order, and gives a mapping from output name to result: tensors if it was given one.

    Where padding was removed, padded positions of the outputs are zero. Calls may come from several
    threads. The runtime is started on the first call.

    Attributes:
        module: the lowered graph.
        report: what the optimization did; None for a model that was loaded from a file.
        session: threads, affinity and memory of the runtime; None for the defaults.
        compiled: the generated code, where the target is one of TVM's; None elsewhere.
    """

    def __init__(
        self,
        module: Module,
        report: Report | None = None,
        session: SessionSettings | None = None,
        compiled: CompiledModel | None = None,
    ) -> None:
        self.module = module
        self.compiled = compiled
        self.report = report
        self.session = session
        self._session: RunningModel | None = None
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on the arguments that the original takes.

        Raises:
            InputRejectedError: the arguments do not fit the original's signature.
        """
        convention = self.module.calling_convention
        on_gpu = self._run_on_gpu(kwargs) if not args else None
        if on_gpu is not None:
            return on_gpu if convention is None else convention.unflatten(on_gpu)
        if convention is not None:
            return convention.unflatten(self.run(convention.flatten(args, kwargs)))
        given = self._by_name(args, kwargs)
        results = self.run(given)
        if not any(is_torch_tensor(value) for value in given.values()):
            return results
        return {name: to_torch(array) for name, array in results.items()}

    def _run_on_gpu(self, given: Mapping[str, Any]) -> dict[str, Any] | None:
        """Tensors of torch on a GPU are read where they lie; None where they are anything else."""
        if self.compiled is None or not self.compiled.takes_in_place(given):
            return None
        ports = self.compiled.signature
        results = self.compiled.run_tensors([given[port.name] for port in ports.inputs])
        return {port.name: item for port, item in zip(ports.outputs, results, strict=True)}

    def run(
        self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Run the model on named arrays.

        Args:
            inputs: a numpy array per graph input, by name.
            outputs: names of the outputs wanted; all if None.

        Returns:
            A numpy array per output wanted, by name.

        Raises:
            InputRejectedError: a name, rank, size or dtype does not fit, or there is no such
                output.
        """
        arrays: Arrays = check_inputs(self.module, inputs)
        known = [value.name or "" for value in self.module.graph.outputs]
        unknown = [name for name in outputs or () if name not in known]
        if unknown:
            raise InputRejectedError(
                f"{self.module.source}: there is no output {', '.join(map(repr, unknown))}; "
                f"the model gives {', '.join(known)}"
            )
        return self._running().run(arrays, outputs)

    def source(self) -> str:
        """The generated code: CUDA C++, or LLVM's intermediate form.

        Raises:
            UsageError: a runtime serves the target, and no code is generated for it.
        """
        if self.compiled is None:
            raise UsageError(
                f"{self.module.source}: a runtime runs this model, so that there is no generated "
                "code; optimize it with target='llvm' or target='cuda'"
            )
        return self.compiled.source()

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        external_data: bool | None = None,
        opset: int | None = None,
    ) -> None:
        """Write the model, as a whole or not at all: as ONNX, or as a library where it ends in .so.

        Args:
            path: where to; if the vocabulary was trimmed, the map from old to new token ids goes
                to ``PATH.vocabulary.json``. A library needs generated code; it is loaded with TVM's
                runtime alone.
            external_data: whether weights go to a file beside it; None decides by size.
            opset: version of the standard operators that the file shall import; the graph's own if
                None.

        Raises:
            UsageError: the folder cannot be written to, the graph cannot have that opset, or the
                model cannot be had in this form.
        """
        if self.module.vocabulary is not None:
            write_text(f"{os.fspath(path)}.vocabulary.json", self.module.vocabulary.to_json())
        if is_library(path):
            save_library(self.compiled, path, self.module.source)
            return
        if self.compiled is not None and not len(self.module.graph):
            raise UsageError(
                f"{self.module.source}: a compiled library holds no graph to write as ONNX; "
                "save it as NAME.so"
            )
        module = self.module if opset is None else convert_opset(self.module, opset)
        save_module(module, path, metadata=self._metadata(), external_data=external_data)

    def _metadata(self) -> dict[str, str]:
        if self.report is None:
            return {}
        passes = ",".join(r.name for r in self.report.records if r.undone is None)
        return {
            "dechaff.version": __version__,
            "dechaff.passes": passes,
            "dechaff.target": self.report.target,
        }

    def _running(self) -> RunningModel:
        if self.compiled is not None:
            return self.compiled
        with self._lock:
            if self._session is None:
                self._session = start_session(self.module, self.session)
            return self._session

    def _by_name(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if len(args) == 1 and not kwargs and isinstance(args[0], Mapping):
            return dict(args[0])
        named = bind_positional(self.module, args)
        twice = [name for name in kwargs if name in named]
        if twice:
            raise InputRejectedError(f"{self.module.source}: input {twice[0]!r} is given twice")
        return {**named, **kwargs}

    def __repr__(self) -> str:
        inputs = ", ".join(value.name or "" for value in self.module.graph.inputs)
        outputs = ", ".join(value.name or "" for value in self.module.graph.outputs)
        return f"OptimizedModel({self.module.source}: {inputs} -> {outputs})"

    def _repr_html_(self) -> str:
        if self.report is not None:
            return self.report._repr_html_()
        return f"<code>{html.escape(repr(self))}</code>"


def load(path: str | os.PathLike[str], *, session: SessionSettings | None = None) -> OptimizedModel:
    """A model from a file: one that dechaff saved, or any ONNX file, which is left as it is.

    Args:
        path: an ONNX file, or a library (``.so``) that was saved: load trusted ones only, as they
            hold code.
        session: threads, affinity and memory of the runtime; None for the defaults.

    Raises:
        ModelRejectedError: the file cannot be read as an ONNX model, or is no such library.
        MissingPackageError: a library needs TVM's runtime, which is not installed.
    """
    if is_library(path):
        compiled = load_library(path)
        return OptimizedModel(compiled.signature.to_module(), session=session, compiled=compiled)
    return OptimizedModel(load_module(path), session=session)
