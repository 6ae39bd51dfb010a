"""From torch to the IR. torch itself is loaded when it is needed, not before."""

from __future__ import annotations

import importlib.util
from typing import Any

from dechaff.ir import MissingPackageError, Module


def from_torch(module: Any, example_inputs: Any = None, dynamic_shapes: Any = "auto") -> Module:
    """Capture a torch model as a graph.

    Args:
        module: a ``torch.nn.Module`` (also a ``torch.fx.GraphModule``), captured in evaluation
            mode, or a ``torch.export.ExportedProgram``. The graph shares the module's weights:
            training it further changes the graph.
        example_inputs: a mapping of keyword arguments (a tokenizer's result is one), a tuple of
            positional arguments, or ``(args, kwargs)``. Hugging Face text models do without.
        dynamic_shapes: ``"auto"`` names the axes that may vary, ``batch`` and ``sequence``;
            anything else is passed on to ``torch.export.export``.

    Returns:
        A module at opset 23 whose calling convention is that of the original.

    Raises:
        MissingPackageError: torch is not installed.
        UsageError: ``module`` is of another type, or ``example_inputs`` are missing or no inputs.
        ModelRejectedError: the model cannot be captured; the message names the lines of its source.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingPackageError("torch", "torch", "from_torch")
    from .torch_conversion import import_module

    return import_module(module, example_inputs, dynamic_shapes)
