"""From what a caller hands over to a module of the IR, and to named arrays."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from dechaff.ir import Module, UsageError

from .arrays import bind_positional, check_inputs
from .input_generation import InputCase


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


def example_case(module: Module, example_inputs: Any) -> InputCase | None:
    """The caller's example inputs as named arrays, checked; None if there are none.

    Raises:
        InputRejectedError: they do not fit the model's signature.
    """
    if example_inputs is None:
        return None
    return InputCase("example inputs", check_inputs(module, _by_name(module, example_inputs)))


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
