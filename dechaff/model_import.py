"""From what a caller hands over to a module of the IR, and to named arrays."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from dechaff.ir import Module, UsageError

from .arrays import bind_positional, check_inputs, read_arrays
from .input_generation import InputCase

_MOST_BATCHES = 64
"""Batches that are taken of an iterable, which may have no end."""


def import_model(model: Any, example_inputs: Any = None) -> Module:
    """The module that a frontend makes of a model.

    Raises:
        UsageError: dechaff reads no such object.
        ModelRejectedError: the model cannot be captured or read.
    """
    from dechaff import frontend

    if _is_torch_model(model):
        return frontend.from_torch(model, example_inputs)
    is_proto = type(model).__name__ == "ModelProto"
    if is_proto or isinstance(model, (str, os.PathLike, ir.Model)):
        return frontend.from_onnx(model)
    raise UsageError(
        f"cannot optimize a {type(model).__module__}.{type(model).__name__}: expected a torch "
        "module, the path of an ONNX file, an onnx.ModelProto or an onnx_ir.Model"
    )


def _is_torch_model(model: object) -> bool:
    """Whether torch made the object; torch is not imported for the question."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    kinds = [torch.nn.Module]
    export = sys.modules.get("torch.export")
    if export is not None:
        kinds.append(export.ExportedProgram)
    return isinstance(model, tuple(kinds))


def batches_of(example_inputs: Any) -> list[Any]:
    """The calls that a caller's example inputs stand for, at most 64.

    Args:
        example_inputs: one call, as a tuple, a mapping, an array or ``(args, kwargs)``; several, as
            a list of mappings or any other iterable, such as a generator or a data loader; the path
            of an ``.npz`` file; or None.

    Raises:
        UsageError: the file cannot be read.
    """
    if example_inputs is None:
        return []
    if isinstance(example_inputs, (str, os.PathLike)):
        return [read_arrays(os.fspath(example_inputs), "inputs")]
    if isinstance(example_inputs, list):
        is_batches = bool(example_inputs) and all(isinstance(i, Mapping) for i in example_inputs)
        return example_inputs[:_MOST_BATCHES] if is_batches else [example_inputs]
    is_one_call = isinstance(example_inputs, (Mapping, tuple)) or hasattr(example_inputs, "shape")
    if is_one_call or not isinstance(example_inputs, Iterable):
        return [example_inputs]
    return list(itertools.islice(example_inputs, _MOST_BATCHES))


def example_cases(module: Module, batches: Sequence[Any]) -> list[InputCase]:
    """The caller's example inputs as named arrays, checked.

    Raises:
        InputRejectedError: they do not fit the model's signature.
    """
    single = len(batches) == 1
    return [
        InputCase(
            "example inputs" if single else f"example inputs {number}",
            check_inputs(module, _by_name(module, batch)),
        )
        for number, batch in enumerate(batches, 1)
    ]


def _by_name(module: Module, example_inputs: Any) -> Mapping[str, Any]:
    args, kwargs = _as_call(example_inputs)
    if module.calling_convention is not None:
        return module.calling_convention.flatten(args, kwargs)
    return {**bind_positional(module, args), **kwargs}


def _as_call(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments of a mapping, a tuple, ``(args, kwargs)`` or one tensor."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if not isinstance(example_inputs, (tuple, list)):
        return (example_inputs,), {}
    if len(example_inputs) == 2 and isinstance(example_inputs[1], Mapping):
        args, kwargs = example_inputs
        return tuple(args), dict(kwargs)
    return tuple(example_inputs), {}
