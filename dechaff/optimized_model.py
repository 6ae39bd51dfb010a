"""What ``optimize`` gives: a model that is called like the original, runs, saves and reports."""

from __future__ import annotations

import html
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from dechaff import __version__
from dechaff.backends import RunningModel, SessionSettings, start_session
from dechaff.ir import InputRejectedError, Module

from .arrays import Array, Arrays, bind_positional, check_inputs, is_torch_tensor, to_torch
from .model_files import load_module, save_module
from .opset_conversion import convert_opset
from .report import Report


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
    """

    def __init__(
        self,
        module: Module,
        report: Report | None = None,
        session: SessionSettings | None = None,
    ) -> None:
        self.module = module
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
        if convention is not None:
            return convention.unflatten(self.run(convention.flatten(args, kwargs)))
        given = self._by_name(args, kwargs)
        results = self.run(given)
        if not any(is_torch_tensor(value) for value in given.values()):
            return results
        return {name: to_torch(array) for name, array in results.items()}

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

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        external_data: bool | None = None,
        opset: int | None = None,
    ) -> None:
        """Write the model as an ONNX file, as a whole or not at all.

        Args:
            path: where to.
            external_data: whether weights go to a file beside it; None decides by size.
            opset: version of the standard operators that the file shall import; the graph's own if
                None.

        Raises:
            UsageError: the folder cannot be written to, or the graph cannot have that opset.
        """
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
    """A model from an ONNX file: one that dechaff saved, or any other, which is left as it is.

    Args:
        path: the file.
        session: threads, affinity and memory of the runtime; None for the defaults.

    Raises:
        ModelRejectedError: the file cannot be read as an ONNX model.
    """
    return OptimizedModel(load_module(path), session=session)
